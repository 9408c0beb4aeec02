"""The client for every server that speaks OpenAI's files + batches protocol, over a frozen profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..clock import Clock
from ..request import RequestSpec
from ..visible import visible
from .http import HttpClient
from .profile import Profile
from .protocol import TOKEN_KEY, Batch, Phase, Problem
from .replies import an_object, count, id_of, items_of, mapping, moment, seconds
from .with_files import FilesProvider

_PHASES = {
    "validating": Phase.QUEUED,
    "queued": Phase.QUEUED,
    "in_progress": Phase.RUNNING,
    "finalizing": Phase.RUNNING,
    "cancelling": Phase.RUNNING,
    "completed": Phase.COMPLETED,
    "failed": Phase.FAILED,
    "expired": Phase.EXPIRED,
    "cancelled": Phase.CANCELLED,
}


class OpenAIShape(FilesProvider):
    """A `BatchProvider` for one account on one OpenAI-shaped server.

    Args:
        profile: The server's facts.
        http: Where requests go, with the key.
        account: Whose batches these are; the address by default.
        window: Completion window; the profile's first by default.
    """

    def __init__(
        self, profile: Profile, http: HttpClient, *, account: str, window: str | None = None, clock: Clock | None = None
    ) -> None:
        super().__init__(profile, http, account=account, clock=clock)
        self._window = window or profile.windows[0]

    def parse(self, body: object) -> Batch:
        return parse_batch(body)

    def asked(self, file_id: str, spec: RequestSpec, token: str) -> Mapping[str, Any]:
        return {
            "input_file_id": file_id,
            "endpoint": self._profile.endpoints[spec.operation],
            "completion_window": self._window,
            "metadata": {TOKEN_KEY: token},
        }


def parse_batch(body: object) -> Batch:
    """A batch object of the protocol; unknown fields are ignored, an unknown status is `Phase.UNKNOWN`."""
    job = an_object(body)
    status = str(job.get("status", ""))
    counts, metadata, errors = (mapping(job.get(key)) for key in ("request_counts", "metadata", "errors"))
    return Batch(
        id=id_of(job),
        phase=_PHASES.get(status.lower(), Phase.UNKNOWN),
        status=status,
        created_at=_time(job.get("created_at")),
        expires_at=_time(job.get("expires_at")),
        input_file_id=str(job["input_file_id"]) if job.get("input_file_id") else None,
        metadata={str(k): str(v) for k, v in metadata.items()},
        total=count(counts.get("total")),
        completed=count(counts.get("completed")),
        failed=count(counts.get("failed")),
        result_files=tuple(str(job[key]) for key in ("output_file_id", "error_file_id") if job.get(key)),
        problems=tuple(_problem(problem) for problem in items_of(errors)),
    )


def _problem(body: object) -> Problem:
    fields = mapping(body) or {"message": body}
    return Problem(visible(str(fields.get("code"))), str(fields.get("message")), count(fields.get("line")) or None)


def _time(value: object) -> float | None:
    """Unix seconds at OpenAI, a text at some others."""
    return moment(value) if isinstance(value, str) else seconds(value)
