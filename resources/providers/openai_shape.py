"""The client for every server that speaks OpenAI's files + batches protocol, over a frozen profile."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..clock import Clock
from ..errors import ProviderError, RefusedError
from ..visible import visible
from .http import HttpClient
from .over_http import HttpProvider
from .profile import Profile, Recovery
from .protocol import Batch, Phase, Problem
from .replies import an_object, count, id_of, items_of, mapping, path_part, seconds

TOKEN_KEY = "batch_llm_token"  # noqa: S105 - the metadata key that marks a batch as ours, not a secret

_A_MOMENT = 2.0

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


class OpenAIShape(HttpProvider):
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

    def content(self, file: str) -> str:
        return f"/files/{path_part(file)}/content"

    def upload(self, path: Path, filename: str) -> str:
        reply = self._http.upload("/files", {"purpose": "batch"}, path, filename)
        return id_of(an_object(reply.body))

    def create(self, file_id: str, endpoint: str, token: str, still_allowed: Callable[[], None]) -> Batch:
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": self._window,
            "metadata": {TOKEN_KEY: token},
        }
        idempotent = self._profile.recovery is Recovery.IDEMPOTENT
        reply = self._http.post_once(
            "/batches", body, still_allowed, {"Idempotency-Key": token} if idempotent else None
        )
        return parse_batch(reply.body)

    def has_file(self, file_id: str) -> bool:
        try:
            self._http.get(f"/files/{path_part(file_id)}")
        except ProviderError as error:
            if error.status not in {404, 405, 410, 501}:
                raise
            return not error.is_gone
        return True

    def shows_files(self) -> bool:
        with tempfile.TemporaryDirectory(prefix="batch_llm_") as scratch:
            probe = Path(scratch) / "probe.jsonl"
            probe.write_text("{}\n")
            try:
                file_id = self.upload(probe, probe.name)
            except RefusedError:  # a server that reads what is uploaded
                return True
        shown = self.has_file(file_id)
        if not shown:  # it may take a moment
            self._clock.sleep(_A_MOMENT)
            shown = self.has_file(file_id)
        with suppress(ProviderError):
            self.delete_file(file_id)
        return shown

    def delete_file(self, file_id: str) -> None:
        try:
            self._http.delete(f"/files/{path_part(file_id)}")
        except RefusedError as error:
            if error.status != 404:
                raise


def parse_batch(body: object) -> Batch:
    """A batch object of the protocol; unknown fields are ignored, an unknown status is `Phase.UNKNOWN`."""
    job = an_object(body)
    status = str(job.get("status", ""))
    counts, metadata, errors = (mapping(job.get(key)) for key in ("request_counts", "metadata", "errors"))
    return Batch(
        id=id_of(job),
        phase=_PHASES.get(status.lower(), Phase.UNKNOWN),
        status=status,
        created_at=seconds(job.get("created_at")),
        expires_at=seconds(job.get("expires_at")),
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
