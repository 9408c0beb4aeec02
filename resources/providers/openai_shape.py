"""The client for every server that speaks OpenAI's files + batches protocol, over a frozen profile."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from ..clock import Clock, SystemClock
from ..errors import AmbiguousError, ProviderError, RefusedError
from ..file_names import digest
from ..visible import visible
from .http import HttpClient
from .profile import Profile, Recovery
from .protocol import Batch, Listing, Phase, Problem

TOKEN_KEY = "batch_llm_token"  # noqa: S105 - the metadata key that marks a batch as ours, not a secret
_PAGE = 100
_A_MOMENT = 2.0
_LONGEST_LAST_LINE = 64 * 1024 * 1024
_END_OF_TIME = 253_402_300_800
_MOST = 2**31  # what the ledger keeps of a count

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

    @property
    def clock_offset(self) -> tuple[float, float] | None:
        return self._http.clock_offset

    def upload(self, path: Path, filename: str) -> str:
        reply = self._http.upload("/files", {"purpose": "batch"}, path, filename)
        return _id(_object(reply.body))

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

    def check(self, batch_id: str) -> Batch:
        return parse_batch(self._http.get(f"/batches/{_part(batch_id)}").body)

    def list(self, since: float, there: float | None = None) -> Listing:
        started = self._clock.now()
        if since > started:
            since = 0.0  # by a clock that was ahead then: it tells nothing
        found: dict[str, Batch] = {}
        params: dict[str, str | int] = {"limit": _PAGE}
        offset: tuple[float, float] | None = None
        while True:
            reply = self._http.get("/batches", params)
            offset = offset or reply.clock_offset
            # Without a Date header the provider's clock may be an hour off; listing more costs a page, not money.
            oldest = min(since + (offset[0] - 300.0 if offset else -3600.0), (there or math.inf) - 300.0)
            page = _object(reply.body)
            batches = [parse_batch(item) for item in _listed(page)]
            known = len(found)
            # An older one is kept too: its time may be as wrong as a clock can be, and ours is known by its token.
            found |= {b.id: b for b in batches}
            # A server that doesn't say whether there is more may cut pages as it likes: only an empty one is the last.
            ended = _reaches_past(batches, oldest) or not page.get("has_more", True) or not batches
            if ended or len(found) == known:  # nothing but what was listed before: it can't be paged through
                return Listing(tuple(found.values()), complete=ended, started_at=started, clock_offset=offset)
            params = {"limit": _PAGE, "after": batches[-1].id}

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        paths: list[Path] = []
        gone: RefusedError | None = None
        for file_id in batch.result_files:
            # A file may turn up later than another one, and its id is a stranger's word, so neither names the path.
            path = folder / f"{digest(file_id)}.jsonl"
            try:
                self._http.download(_content(file_id), path)
            except RefusedError as error:
                if not error.is_gone:
                    raise
                gone = error
                continue
            if not _ends_whole(path):
                path.unlink(missing_ok=True)
                raise AmbiguousError(
                    f"{self._profile.name}: result file {file_id} of batch {batch.id} came without its end. "
                    "It will be fetched again."
                )
            paths.append(path)
        if gone is not None:
            raise gone
        return paths

    def first_custom_id(self, batch: Batch) -> str | None:
        for file_id in batch.result_files:
            line = self._http.first_line(_content(file_id))
            if line:
                return _custom_id(line, batch)
        return None

    def cancel(self, batch_id: str) -> None:
        try:
            self._http.post_once(f"/batches/{_part(batch_id)}/cancel", None, _always)
        except (RefusedError, AmbiguousError):  # servers say 400 or 409 of a batch that has ended
            if not self.check(batch_id).phase.ended:
                raise

    def has_file(self, file_id: str) -> bool:
        try:
            self._http.get(f"/files/{_part(file_id)}")
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
            self._http.delete(f"/files/{_part(file_id)}")
        except RefusedError as error:
            if error.status != 404:
                raise

    def close(self) -> None:
        self._http.close()


def parse_batch(body: object) -> Batch:
    """A batch object of the protocol; unknown fields are ignored, an unknown status is `Phase.UNKNOWN`."""
    job = _object(body)
    status = str(job.get("status", ""))
    counts, metadata, errors = (_mapping(job.get(key)) for key in ("request_counts", "metadata", "errors"))
    return Batch(
        id=_id(job),
        phase=_PHASES.get(status.lower(), Phase.UNKNOWN),
        status=status,
        created_at=_seconds(job.get("created_at")),
        expires_at=_seconds(job.get("expires_at")),
        input_file_id=str(job["input_file_id"]) if job.get("input_file_id") else None,
        metadata={str(k): str(v) for k, v in metadata.items()},
        total=_count(counts.get("total")),
        completed=_count(counts.get("completed")),
        failed=_count(counts.get("failed")),
        result_files=tuple(str(job[key]) for key in ("output_file_id", "error_file_id") if job.get(key)),
        problems=tuple(_problem(problem) for problem in _items(errors)),
    )


def _reaches_past(batches: Sequence[Batch], oldest: float) -> bool:
    """Whether a page is in order, newest first, and its end is too old to matter: so is all that follows."""
    times = [batch.created_at for batch in batches if batch.created_at is not None]
    falling = all(newer >= older for newer, older in pairwise(times))
    return falling and times[:1] != times[-1:] and times[-1] < oldest


def _problem(body: object) -> Problem:
    fields = _mapping(body) or {"message": body}
    return Problem(visible(str(fields.get("code"))), str(fields.get("message")), _count(fields.get("line")) or None)


def _id(body: Mapping[str, Any]) -> str:
    """The one field that a reply can't do without."""
    found: object = body.get("id")
    name = str(found) if isinstance(found, str | int) and found else ""
    if not name.isprintable() or name in {"", ".", ".."}:
        raise AmbiguousError(f"The server answered {str(body)[:100]!r}, which has no id.")
    return name


def _content(file_id: str) -> str:
    return f"/files/{_part(file_id)}/content"


def _custom_id(line: bytes, batch: Batch) -> str:
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"The first result line of batch {batch.id} can't be read.") from error
    return str(_mapping(found).get("custom_id"))


def _part(name: str) -> str:
    """A stranger's id as one part of a path."""
    return quote(name, safe="")


def _object(body: object) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise AmbiguousError(f"The server answered {str(body)[:100]!r} where an object was expected.")
    return cast("dict[str, Any]", body)


def _mapping(body: object) -> Mapping[str, Any]:
    """An object if it is one: a strange field of a stranger's batch must not hide all the others."""
    return cast("Mapping[str, Any]", body) if isinstance(body, dict) else {}


def _listed(page: Mapping[str, Any]) -> list[object]:
    """A page's items. A reply that has none isn't an empty listing: what is not listed is asked again."""
    items: object = page.get("data", page)
    if items is not None and not isinstance(items, list):
        raise AmbiguousError(f"The server answered {str(page)[:100]!r} where a list of batches was expected.")
    return cast("list[object]", items or [])


def _items(body: Mapping[str, Any]) -> list[object]:
    items: object = body.get("data")
    return cast("list[object]", items) if isinstance(items, list) else []


def _seconds(value: object) -> float | None:
    """A time that can be one: Unix seconds before the year 10000."""
    return float(value) if isinstance(value, int | float) and 0 <= value < _END_OF_TIME else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < _MOST else 0


def _ends_whole(path: Path) -> bool:
    """Whether the last line is ended, or at least whole: not every server ends it."""
    if not path.exists():
        return False  # another worker, which slept beyond its lease, found it cut short and removed it
    with path.open("rb") as stream:
        size = stream.seek(0, 2)
        if size == 0:
            return True
        stream.seek(size - 1)
        if stream.read() == b"\n":
            return True
        stream.seek(max(size - _LONGEST_LAST_LINE, 0))
        last = stream.read().rsplit(b"\n", 1)[-1]
    try:
        return isinstance(json.loads(last), dict)
    except (ValueError, RecursionError):
        return False


def _always() -> None:
    """Cancelling is never too late."""
