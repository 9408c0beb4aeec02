"""Fireworks' batch inference jobs as a Dagster resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..clock import Clock
from ..errors import ProviderError, RefusedError, UserError
from ..file_names import digest
from ..request import RequestSpec
from ..visible import visible
from .http import HttpClient
from .kept import lines_in
from .over_http import HttpProvider, ends_whole
from .profile import About, Certainty, Profile
from .protocol import TOKEN_KEY, Batch, BatchProvider, Phase, Problem
from .replies import an_object, count, mapping, moment, name_of, path_part, row_id_of
from .resource import BatchResource, clean_key
from .wires.family import FIREWORKS_WIRE
from .wires.parameters import Parameters

# Jobs, states, data sets and the listing: the fireworks-ai Python package 1.2.30, read 2026-11-25; its page on batch
# inference: below 500 MB a file, half the price. A file that is sent in one request may be smaller than that.
FIREWORKS = Profile(
    name="fireworks",
    about=About(
        title="Fireworks",
        found_by="its name, which is made of our token, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="50 %, and as much again of cached tokens",
        uncertain=(
            "the form of a result line",
            "how large a file may be that is sent in one request; 150 MB are assumed",
            "a job isn't cancelled: the package has no call for it",
        ),
    ),
    wire=FIREWORKS_WIRE,
    max_bytes=150_000_000,
    endpoints={"chat": "/v1/chat/completions"},
    at_once={"chat": "/inference/v1/chat/completions"},
    parameters={
        "chat": Parameters.named(
            (
                *("temperature", "top_p", "top_k", "min_p", "seed", "stop", "frequency_penalty", "presence_penalty"),
                *("repetition_penalty", "logit_bias", "reasoning_effort", "user", "prompt_cache_key"),
            ),
            limit="max_tokens",
        )
    },
    poll_seconds=(30.0, 300.0),
)

_PHASES = {
    **dict.fromkeys(("CREATING", "CREATING_INPUT_DATASET", "VALIDATING", "PENDING", "RE_QUEUEING"), Phase.QUEUED),
    **dict.fromkeys(("RUNNING", "WRITING_RESULTS", "IDLE", "PAUSED", "CANCELLING", "DELETING"), Phase.RUNNING),
    "COMPLETED": Phase.COMPLETED,
    "EARLY_STOPPED": Phase.EXPIRED,
    "EXPIRED": Phase.EXPIRED,
    "FAILED": Phase.FAILED,
    "CANCELLED": Phase.CANCELLED,
}


class FireworksBatch(BatchResource):
    """Open models on Fireworks.

    Args:
        api_key: ``dg.EnvVar("FIREWORKS_API_KEY")``; it goes nowhere but to `base_url`.
        account_id: Whose jobs these are, as in ``accounts/<account_id>/…``.
        base_url: The API's address, without the version.
        max_rows_per_batch: Cut into smaller batches than 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
        UserError: The account is empty.
    """

    api_key: str
    account_id: str
    base_url: str = "https://api.fireworks.ai"

    def provider(self) -> BatchProvider:
        key = clean_key(FIREWORKS.name, self.api_key, "FIREWORKS_API_KEY")
        if not self.account_id.strip():
            raise UserError("fireworks: account_id is empty; it is the name in accounts/<account_id>.")
        http = HttpClient(name=FIREWORKS.name, base_url=self.base_url, api_key=key)
        address = self.base_url.rstrip("/")
        return FireworksJobs(self.limited(FIREWORKS), http, account=f"{address}/{self.account_id}")


class FireworksJobs(HttpProvider):
    """A `BatchProvider` for one Fireworks account, which is the last part of `account`."""

    listing: ClassVar[str] = "batchInferenceJobs"
    omits_empty: ClassVar[bool] = True
    newest_first: ClassVar[bool] = False
    page: ClassVar[Mapping[str, str | int]] = {"pageSize": 100}
    next_token: ClassVar[tuple[str, str] | None] = ("nextPageToken", "pageToken")

    def __init__(self, profile: Profile, http: HttpClient, *, account: str, clock: Clock | None = None) -> None:
        super().__init__(profile, http, account=account, clock=clock)
        self._name = f"accounts/{account.rpartition('/')[2]}"
        self._datasets = f"/v1/{self._name}/datasets"
        self.batches = f"/v1/{self._name}/batchInferenceJobs"

    def upload(self, path: Path, filename: str) -> str:
        dataset = f"in-{Path(filename).stem}"
        about: dict[str, Any] = {
            "datasetId": dataset,
            "dataset": {"exampleCount": str(lines_in(path)), "userUploaded": {}},
        }
        # One that is there already is ours: the reply that made it was lost.
        self._http.answered("POST", self._datasets, json=about, accepted=(409,))
        self._http.upload(f"{self._datasets}/{dataset}:upload", {}, path, filename)
        return dataset

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        job = {
            "displayName": token,
            "model": spec.model,
            "inputDatasetId": f"{self._name}/datasets/{file_id}",
            "outputDatasetId": f"{self._name}/datasets/out-{token}",
        }
        path = f"{self.batches}?batchInferenceJobId=batch-{token}"
        return self.parse(self._http.post_once(path, job, still_allowed).body)

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        state = str(job.get("state", "")).removeprefix("JOB_STATE_")
        done, status = mapping(job.get("jobProgress")), mapping(job.get("status"))
        phase, name = _PHASES.get(state, Phase.UNKNOWN), name_of(job)
        output = str(job.get("outputDatasetId", "")).rpartition("/")[2]
        answered = count(done.get("successfullyProcessedRequests"))
        failed = phase is Phase.FAILED and status.get("message")
        return Batch(
            id=name,
            phase=phase,
            status=state.lower(),
            created_at=moment(job.get("createTime")),
            input_file_id=str(job.get("inputDatasetId", "")).rpartition("/")[2] or None,
            metadata={TOKEN_KEY: name.removeprefix("batch-")},
            total=count(done.get("totalInputRequests")),
            completed=answered,
            failed=count(done.get("failedRequests")),
            # One that has failed keeps what it had answered before, and that is paid.
            result_files=(output,) if output and phase.ended and (answered or not failed) else (),
            problems=(Problem(str(status.get("code")), visible(str(status["message"]))),) if failed else (),
            in_one_file=True,
        )

    def content(self, file: str) -> str:
        return f"{self._datasets}/{path_part(file)}:getDownloadEndpoint"

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        paths: list[Path] = []
        for name, address in self._signed(batch):
            path = folder / f"{digest(name)}.jsonl"
            self._http.download_from(address, path)
            if not ends_whole(path):
                path.unlink(missing_ok=True)
                raise ProviderError(f"fireworks: {name} of batch {batch.id} came without its end. It is fetched again.")
            paths.append(path)
        return paths

    def first_custom_id(self, batch: Batch) -> str | None:
        for _, address in self._signed(batch):
            if line := self._http.first_line(address, ours=False):
                return row_id_of(line, self._profile.wire.results.row_id, batch)
        return None

    def _signed(self, batch: Batch) -> list[tuple[str, str]]:
        """Names and addresses of a batch's result files."""
        found: list[tuple[str, str]] = []
        for dataset in batch.result_files:
            said = mapping(an_object(self._http.get(self.content(dataset)).body).get("filenameToSignedUrls"))
            found += [(f"{dataset}/{name}", str(address)) for name, address in sorted(said.items())]
        return found

    def cancel(self, batch_id: str) -> None:
        raise RefusedError(f"fireworks: batch {batch_id} can't be cancelled from here; what it answers will be kept.")

    def has_file(self, file_id: str) -> bool:
        try:
            self._http.get(f"{self._datasets}/{path_part(file_id)}")
        except ProviderError as error:
            if not error.is_gone:
                raise
            return False
        return True

    def shows_files(self) -> bool:
        return True

    def delete_file(self, file_id: str) -> None:
        self.forget(f"{self._datasets}/{path_part(file_id)}")
