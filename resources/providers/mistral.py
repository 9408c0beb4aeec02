"""Mistral's batch jobs as a Dagster resource."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from ..clock import Clock
from ..errors import UserError
from ..request import RequestSpec
from ..visible import visible
from .http import HttpClient
from .profile import AT_ONCE, About, Certainty, Profile
from .protocol import TOKEN_KEY, Batch, BatchProvider, Phase, Problem
from .replies import an_object, count, id_of, listed, mapping, seconds
from .resource import BatchResource, clean_key
from .wires.family import MISTRAL_WIRE
from .wires.parameters import Parameters
from .with_files import FilesProvider

# Job, listing and parameters: the mistralai Python package 3.7.0, read 2026-11-25. Rows (a million a workspace) and
# bytes (512 MB) are remembered from its documentation; the limit of rows here is well below it.
MISTRAL = Profile(
    name="mistral",
    about=About(
        title="Mistral",
        found_by="its token or its input file, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="50 %",
        uncertain=("rows and bytes per file", "the longest window, which is remembered as 168h"),
    ),
    wire=MISTRAL_WIRE,
    max_rows=100_000,
    max_bytes=500_000_000,
    windows=("24h", "168h"),
    at_once=AT_ONCE,
    parameters={
        "chat": Parameters.named(
            (
                *("temperature", "top_p", "random_seed", "stop", "frequency_penalty", "presence_penalty"),
                *("reasoning_effort", "prompt_mode", "safe_prompt", "min_tokens", "guardrails"),
            ),
            limit="max_tokens",
            seed="random_seed",
        ),
        "embedding": Parameters(),
    },
)

_PHASES = {
    "QUEUED": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "SUCCESS": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "TIMEOUT_EXCEEDED": Phase.EXPIRED,
    "CANCELLATION_REQUESTED": Phase.RUNNING,
    "CANCELLED": Phase.CANCELLED,
}
_PAGE = 100


class MistralBatch(BatchResource):
    """Mistral's batch jobs.

    Args:
        api_key: ``dg.EnvVar("MISTRAL_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version.
        completion_window: How long a job may take, in hours: ``24h`` to ``168h``.
        max_rows_per_batch: Cut into smaller batches than 100,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
        UserError: The window isn't a number of hours such as ``24h``.
    """

    api_key: str
    base_url: str = "https://api.mistral.ai/v1"
    completion_window: str = "24h"

    def provider(self) -> BatchProvider:
        key = clean_key(MISTRAL.name, self.api_key, "MISTRAL_API_KEY")
        if not re.fullmatch(r"[1-9][0-9]{0,3}h", self.completion_window):
            raise UserError(
                f"mistral: completion_window is {self.completion_window!r}; write it in hours, such as '24h'. "
                "Nothing was sent."
            )
        http = HttpClient(name=MISTRAL.name, base_url=self.base_url, api_key=key)
        account = self.base_url.rstrip("/")
        return MistralJobs(self.limited(MISTRAL), http, account=account, window=self.completion_window)


class MistralJobs(FilesProvider):
    """A `BatchProvider` for one Mistral workspace.

    Shapes: `BatchJob`, `CreateBatchJobRequest` and the listing's parameters of the mistralai Python package 3.7.0.
    """

    batches: str = "/batch/jobs"
    page: ClassVar[Mapping[str, str | int]] = {"page": 0, "page_size": _PAGE, "order_by": "-created"}

    def __init__(
        self, profile: Profile, http: HttpClient, *, account: str, window: str | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(profile, http, account=account, clock=clock)
        self._hours = int((window or profile.windows[0]).removesuffix("h"))

    def next_page(
        self, page: Mapping[str, Any], last: Batch | None, asked: Mapping[str, str | int]
    ) -> Mapping[str, str | int] | None:
        del page
        # Whatever `total` says: only an empty page is the last, because a job may be made while pages are read.
        return {"page": int(asked["page"]) + 1} if last is not None else None

    def asked(self, file_id: str, spec: RequestSpec, token: str) -> Mapping[str, Any]:
        return {
            "input_files": [file_id],
            "endpoint": self._profile.endpoints[spec.operation],
            "model": spec.model,
            "metadata": {TOKEN_KEY: token},
            "timeout_hours": self._hours,
        }

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        status = str(job.get("status", ""))
        inputs: list[object] = listed(job, "input_files", empty=True)
        errors: list[object] = listed(job, "errors", empty=True)
        created = seconds(job.get("created_at"))
        return Batch(
            id=id_of(job),
            phase=_PHASES.get(status.upper(), Phase.UNKNOWN),
            status="cancelling" if status == "CANCELLATION_REQUESTED" else status,
            created_at=created,
            expires_at=created + self._hours * 3600.0 if created else None,
            input_file_id=str(inputs[0]) if inputs and inputs[0] else None,
            metadata={str(k): str(v) for k, v in mapping(job.get("metadata")).items()},
            total=count(job.get("total_requests")),
            completed=count(job.get("succeeded_requests")),
            failed=count(job.get("failed_requests")),
            result_files=tuple(str(job[key]) for key in ("output_file", "error_file") if job.get(key)),
            problems=tuple(_problem(problem) for problem in errors),
        )


def _problem(body: object) -> Problem:
    fields = mapping(body) or {"message": body}
    return Problem("error", visible(str(fields.get("message"))))
