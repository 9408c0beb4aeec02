"""The client for every server that speaks OpenAI's files + batches protocol, over a frozen profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ..clock import Clock, SystemClock
from ..errors import AmbiguousError, RefusedError
from .http import HttpClient
from .profile import Profile
from .protocol import Batch, Listing, Phase, Problem

TOKEN_KEY = "batch_llm_token"  # noqa: S105 - the metadata key that marks a batch as ours, not a secret
_PAGE = 100

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


class OpenAIShape:
    """A `BatchProvider` for one account on one OpenAI-shaped server.

    Args:
        profile: The server's facts.
        http: Where requests go, with the key.
        account: Whose batches these are; the address by default.
        window: Completion window; the profile's first by default.
    """

    def __init__(
        self,
        profile: Profile,
        http: HttpClient,
        *,
        account: str,
        window: str | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._profile = profile
        self._http = http
        self._account = account
        self._window = window or profile.windows[0]
        self._clock = clock or SystemClock()

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def account(self) -> str:
        return self._account

    def upload(self, path: Path, filename: str) -> str:
        reply = self._http.upload("/files", {"purpose": "batch"}, path, filename)
        return str(_object(reply.body)["id"])

    def create(self, file_id: str, endpoint: str, token: str, still_allowed: Callable[[], None]) -> Batch:
        body = {
            "input_file_id": file_id,
            "endpoint": endpoint,
            "completion_window": self._window,
            "metadata": {TOKEN_KEY: token},
        }
        reply = self._http.post_once("/batches", body, still_allowed)
        return parse_batch(reply.body)

    def check(self, batch_id: str) -> Batch:
        return parse_batch(self._http.get(f"/batches/{batch_id}").body)

    def list(self, since: float) -> Listing:
        started = self._clock.now()
        found: list[Batch] = []
        params: dict[str, str | int] = {"limit": _PAGE}
        offset: tuple[float, float] | None = None
        while True:
            reply = self._http.get("/batches", params)
            offset = offset or reply.clock_offset
            # Without a Date header the provider's clock may be an hour off; listing more costs a page, not money.
            oldest = since + (offset[0] - 300.0 if offset else -3600.0)
            page = _object(reply.body)
            batches = [parse_batch(item) for item in _items(page)]
            found += [b for b in batches if b.created_at is None or b.created_at >= oldest]
            past = any(b.created_at is not None and b.created_at < oldest for b in batches)
            if past or not page.get("has_more") or not batches:
                return Listing(tuple(found), complete=True, started_at=started, clock_offset=offset)
            params = {"limit": _PAGE, "after": batches[-1].id}

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        paths: list[Path] = []
        for number, file_id in enumerate(batch.result_files):
            path = folder / f"{number}.jsonl"
            self._http.download(f"/files/{file_id}/content", path)
            if not _ends_a_line(path):
                path.unlink()
                raise AmbiguousError(
                    f"{self._profile.name}: result file {file_id} of batch {batch.id} came without its end. "
                    "It will be fetched again."
                )
            paths.append(path)
        return paths

    def cancel(self, batch_id: str) -> None:
        try:
            self._http.post_once(f"/batches/{batch_id}/cancel", {}, _always)
        except RefusedError:
            if not self.check(batch_id).phase.ended:
                raise

    def delete_file(self, file_id: str) -> None:
        try:
            self._http.delete(f"/files/{file_id}")
        except RefusedError as error:
            if error.status != 404:
                raise


def parse_batch(body: object) -> Batch:
    """A batch object of the protocol; unknown fields are ignored, an unknown status is `Phase.UNKNOWN`."""
    job = _object(body)
    status = str(job.get("status", ""))
    counts = _object(job.get("request_counts") or {})
    errors: object = job.get("errors")
    problems = _items(_object(errors)) if errors else []
    return Batch(
        id=str(job["id"]),
        phase=_PHASES.get(status.lower(), Phase.UNKNOWN),
        status=status,
        created_at=_seconds(job.get("created_at")),
        expires_at=_seconds(job.get("expires_at")),
        input_file_id=job.get("input_file_id"),
        metadata={str(k): str(v) for k, v in _object(job.get("metadata") or {}).items()},
        total=int(counts.get("total") or 0),
        completed=int(counts.get("completed") or 0),
        failed=int(counts.get("failed") or 0),
        result_files=tuple(str(job[key]) for key in ("output_file_id", "error_file_id") if job.get(key)),
        problems=tuple(_problem(p) for p in problems),
    )


def _problem(body: object) -> Problem:
    fields = _object(body)
    line = fields.get("line")
    return Problem(str(fields.get("code")), str(fields.get("message")), int(line) if line is not None else None)


def _object(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise AmbiguousError(f"The server answered {str(body)[:100]!r} where an object was expected.")
    return cast("dict[str, Any]", body)


def _items(body: Mapping[str, Any]) -> list[object]:
    items: object = body.get("data")
    return cast("list[object]", items) if isinstance(items, list) else []


def _seconds(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _ends_a_line(path: Path) -> bool:
    if path.stat().st_size == 0:
        return True
    with path.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1) == b"\n"


def _always() -> None:
    """Cancelling is never too late."""
