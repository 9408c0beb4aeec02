"""Google's Gemini API as a Dagster resource."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from ..clock import Clock
from ..errors import ProviderError, RefusedError
from ..request import Operation, RequestSpec
from ..visible import visible
from .http import HttpClient
from .over_http import HttpProvider
from .profile import About, Certainty, Profile
from .protocol import TOKEN_KEY, Batch, BatchProvider, Phase, Problem
from .replies import an_object, count, loaded, mapping, moment, name_of, no_address, path_part
from .resource import BatchResource, clean_key
from .wires.google import CHAT_PARAMETERS, EMBEDDING_PARAMETERS, GEMINI_WIRE

# ai.google.dev's pages on batches and rate limits, read 2026-11-24: 2 GB a file, 100 batches at once, results for six
# weeks; a job that isn't through after 48 hours gives nothing at all, so batches are kept small. Its pages promise the
# order of the requests, users report others: rows are told by their keys.
GEMINI = Profile(
    name="gemini",
    about=About(
        title="Google Gemini API",
        found_by="its display name or its input file, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="50 %; cached tokens at their usual price",
        structured="responseJsonSchema",
        uncertain=(
            "the result line of an embedding",
            "which media type an upload may have; three are tried",
            "whether a create whose file is gone is refused",
        ),
    ),
    wire=GEMINI_WIRE,
    max_rows=10_000,
    max_bytes=1_000_000_000,
    max_open=100,
    windows=("48h",),
    keeps_seconds=42 * 86_400.0,
    keeps_files_seconds=48 * 3600.0,
    endpoints={"chat": "batchGenerateContent", "embedding": "asyncBatchEmbedContent"},
    at_once={
        "chat": "/v1beta/models/{model}:generateContent",
        "embedding": "/v1beta/models/{model}:embedContent",
    },
    parameters={"chat": CHAT_PARAMETERS, "embedding": EMBEDDING_PARAMETERS},
    poll_seconds=(60.0, 300.0),
)

_PHASES = {
    "PENDING": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.COMPLETED,
    "PARTIALLY_SUCCEEDED": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "CANCELLED": Phase.CANCELLED,
    "EXPIRED": Phase.EXPIRED,
}
_MEDIA_TYPES = ("application/jsonl", "jsonl", "text/plain")


class GeminiBatch(BatchResource):
    """Gemini's batches: half the price of realtime, answers within 24 hours as a rule and 48 at most.

    Args:
        api_key: ``dg.EnvVar("GEMINI_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address, without the version.
        api_version: ``v1beta``, whose batches are documented; the google-genai package has gone over to ``v1``.
        max_rows_per_batch: Cut into smaller batches than 10,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://generativelanguage.googleapis.com"
    api_version: str = "v1beta"

    def provider(self) -> BatchProvider:
        key = clean_key(GEMINI.name, self.api_key, "GEMINI_API_KEY")
        http = HttpClient(name=GEMINI.name, base_url=self.base_url, api_key=key, headers={"x-goog-api-key": key})
        return GeminiJobs(self.limited(GEMINI), http, account=self.base_url.rstrip("/"), version=self.api_version)


class GeminiJobs(HttpProvider):
    """A `BatchProvider` for one project of the Gemini API.

    Shapes: what the google-genai Python package 3.6.1 sends and reads.
    """

    cancelling: ClassVar[str] = ":cancel"
    listing: ClassVar[str] = "operations"
    omits_empty: ClassVar[bool] = True
    newest_first: ClassVar[bool] = False
    page: ClassVar[Mapping[str, str | int]] = {"pageSize": 100}
    next_token: ClassVar[tuple[str, str] | None] = ("nextPageToken", "pageToken")

    def __init__(
        self,
        profile: Profile,
        http: HttpClient,
        *,
        account: str,
        version: str = "v1beta",
        clock: Clock | None = None,
    ) -> None:
        super().__init__(profile, http, account=account, clock=clock)
        self._version = version
        self.batches = f"/{version}/batches"

    def content(self, file: str) -> str:
        return f"/{self._version}/{path_part(file, keep='/')}:download?alt=media"

    def contents(self, file: str) -> Sequence[str]:
        # The google-genai package asks for the first since 3.6, and asked for the second, which is documented, before.
        return (self.content(file), f"/download{self.content(file)}")

    def upload(self, path: Path, filename: str) -> str:
        *others, last = _MEDIA_TYPES
        for media_type in others:
            try:
                return self._uploaded(path, filename, media_type)
            except RefusedError as error:
                if error.status != 400 or "mime" not in error.message.lower():
                    raise
        return self._uploaded(path, filename, last)

    def _uploaded(self, path: Path, filename: str, media_type: str) -> str:
        headers = {
            "X-Goog-Upload-Protocol": "resumable",
            "X-Goog-Upload-Command": "start",
            "X-Goog-Upload-Header-Content-Length": str(path.stat().st_size),
            "X-Goog-Upload-Header-Content-Type": media_type,
        }
        about = {"file": {"displayName": filename, "mimeType": media_type}}
        started = self._http.answered("POST", f"/upload/{self._version}/files", json=about, headers=headers)
        address = started.headers.get("x-goog-upload-url")
        if not address:
            raise no_address("gemini", started.text)
        sent = {"X-Goog-Upload-Offset": "0", "X-Goog-Upload-Command": "upload, finalize"}
        said = self._http.put(address, path, sent, method="POST").text
        file = mapping(loaded(said).get("file"))
        if not file.get("name"):  # some refusals come with status 200
            words = visible(said[:300])
            raise RefusedError(f"gemini: the upload was answered {words!r}.", status=400)
        return str(file["name"])

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        model = path_part(spec.model.removeprefix("models/"))
        field = "file_name" if spec.operation is Operation.EMBEDDING else "fileName"
        body = {"batch": {"displayName": token, "inputConfig": {field: file_id}}}
        path = f"/{self._version}/models/{model}:{self._profile.endpoints[spec.operation]}"
        return self.parse(self._http.post_once(path, body, still_allowed).body)

    def parse(self, body: object) -> Batch:
        operation = an_object(body)
        job = mapping(operation.get("metadata"))
        state = str(job.get("state", "")).removeprefix("BATCH_STATE_").removeprefix("JOB_STATE_")
        stats, error = mapping(job.get("batchStats")), mapping(operation.get("error"))
        output = mapping(job.get("output")) or mapping(operation.get("response"))
        given = mapping(job.get("inputConfig"))
        created = moment(job.get("createTime"))
        phase = _PHASES.get(state, Phase.UNKNOWN)
        return Batch(
            id=name_of(operation),
            phase=phase,
            status=state.lower(),
            created_at=created,
            expires_at=created + 48 * 3600.0 if created else None,
            input_file_id=str(given.get("fileName") or given.get("file_name") or "") or None,
            metadata={TOKEN_KEY: str(job["displayName"])} if job.get("displayName") else {},
            total=count(stats.get("requestCount")),
            completed=count(stats.get("successfulRequestCount")),
            failed=count(stats.get("failedRequestCount")),
            result_files=(str(output["responsesFile"]),) if output.get("responsesFile") else (),
            problems=(Problem(str(error.get("status", error.get("code"))), str(error.get("message"))),)
            if error
            else (),
            in_one_file=True,
        )

    def has_file(self, file_id: str) -> bool:
        try:
            self._http.get(f"/{self._version}/{path_part(file_id, keep='/')}")
        except ProviderError as error:
            if error.status not in {403, 404}:
                raise
            return False  # 403 is said of another project's file, and of one that isn't there
        return True

    def shows_files(self) -> bool:
        return True

    def delete_file(self, file_id: str) -> None:
        self.forget(f"/{self._version}/{path_part(file_id, keep='/')}", gone={403, 404})
