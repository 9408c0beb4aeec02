"""What providers that are spoken to over HTTP have in common."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ..clock import Clock, SystemClock
from ..errors import AmbiguousError, RefusedError
from ..file_names import digest
from ..request import RequestSpec
from .http import HttpClient, RawReply
from .profile import Profile
from .protocol import Batch, BatchProvider, Listing
from .realtime import RealtimeSide
from .replies import mapping, page_of, path_part, row_id_of
from .wires.wire import WRONG_REQUEST

T = TypeVar("T")

_LONGEST_LAST_LINE = 64 * 1024 * 1024
_FEW = 20
"""A listing without pages that has fewer batches isn't cut: nobody cuts so early."""


class HttpProvider(ABC):
    """Batches that are listed, looked at one by one, and answered in files of lines.

    Args:
        profile: The facts about the provider.
        http: Its address and key.
        account: Whose batches these are.
        clock: For tests.
    """

    batches: str = "/batches"
    """Path of the listing; a batch is below it."""
    cancelling: ClassVar[str] = "/cancel"
    """What follows a batch's path when it is to be cancelled."""
    listing: ClassVar[str] = "data"
    """The field of a page that has the batches; empty if it is nothing but them."""
    omits_empty: ClassVar[bool] = False
    """Whether a page without that field is an empty one, as where JSON is made of protocol buffers."""
    page: ClassVar[Mapping[str, str | int]] = {"limit": 100}
    """How a page is asked for."""
    paged: ClassVar[bool] = True
    """Whether the listing has pages; one that has none may still be cut."""
    newest_first: ClassVar[bool] = True
    """Whether the listing's order is known, so that it need not be read beyond what is too old."""
    after: ClassVar[str] = "after"
    """The parameter that names the last batch of the page before."""
    next_token: ClassVar[tuple[str, str] | None] = None
    """Where pages name the one that follows: the field that does, and the parameter that it goes into."""

    def __init__(self, profile: Profile, http: HttpClient, *, account: str, clock: Clock | None = None) -> None:
        self._profile = profile
        self._http = http
        self._store = http
        """Where result files are had from; a bucket is at another address."""
        self._direct = http
        """Where requests are asked at once."""
        self._account = account
        self._clock = clock or SystemClock()

    @abstractmethod
    def parse(self, body: object) -> Batch:
        """A batch object; unknown fields are ignored, an unknown status is `Phase.UNKNOWN`."""

    @abstractmethod
    def content(self, file: str) -> str:
        """The path of one of an ended batch's result files."""

    def at(self, batch_id: str) -> str:
        """A batch's path."""
        return f"{self.batches}/{path_part(batch_id)}"

    def contents(self, file: str) -> Sequence[str]:
        """The paths at which it may be, where that isn't certain; the next one is tried when one is refused."""
        return (self.content(file),)

    def _somewhere(self, file: str, get: Callable[[str], T]) -> T:
        *others, last = self.contents(file)
        for way in others:
            with suppress(RefusedError):
                return get(way)
        return get(last)

    def next_page(
        self, page: Mapping[str, Any], last: Batch | None, asked: Mapping[str, str | int]
    ) -> Mapping[str, str | int] | None:
        """What the page after this one is asked for by; None if this is the last one.

        Args:
            page: As it came.
            last: The last batch on it, if there is one.
            asked: What it was asked for by.
        """
        del asked
        if self.next_token:
            field, parameter = self.next_token
            return {parameter: str(page[field])} if page.get(field) else None
        # A server that doesn't say whether there is more may cut pages as it likes: only an empty one is the last.
        return {self.after: last.id} if last is not None and page.get("has_more", True) else None

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def account(self) -> str:
        return self._account

    @property
    def clock_offset(self) -> tuple[float, float] | None:
        return self._http.clock_offset

    def check(self, batch_id: str) -> Batch:
        return self.parse(self._http.get(self.at(batch_id)).body)

    def list(self, since: float, there: float | None = None) -> Listing:
        started = self._clock.now()
        if since > started:
            since = 0.0  # by a clock that was ahead then: it tells nothing
        found: dict[str, Batch] = {}
        asked: Mapping[str, str | int] = self.page
        offset: tuple[float, float] | None = None
        while True:
            reply = self._http.get(self.batches, asked)
            offset = offset or reply.clock_offset
            # Without a Date header the provider's clock may be an hour off; listing more costs a page, not money.
            oldest = min(since + (offset[0] - 300.0 if offset else -3600.0), (there or math.inf) - 300.0)
            batches = [self.parse(item) for item in page_of(reply.body, self.listing, omits_empty=self.omits_empty)]
            known = len(found)
            # An older one is kept too: its time may be as wrong as a clock can be, and ours is known by its token.
            found |= {b.id: b for b in batches}
            last = batches[-1] if batches else None
            following = self.next_page(mapping(reply.body), last, asked) if self.paged else None
            past = self.newest_first and _reaches_past(batches, oldest)
            ended = past or (following is None and (self.paged or len(batches) < _FEW))
            asked_next = {**self.page, **(following or {})}
            ended |= not batches and asked_next == asked  # nothing, and nothing else to ask: that is the end, too
            # Nothing but what was listed before: it can't be paged through.
            same = asked_next == asked or (len(batches) > 0 and len(found) == known)
            if ended or following is None or same:
                return Listing(tuple(found.values()), complete=ended, started_at=started, clock_offset=offset)
            asked = asked_next

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        paths: list[Path] = []
        gone: RefusedError | None = None
        for file_id in batch.result_files:
            # A file may turn up later than another one, and its id is a stranger's word, so neither names the path.
            path = folder / f"{digest(file_id)}.jsonl"
            try:
                self._somewhere(file_id, lambda way, path=path: self._store.download(way, path))
            except RefusedError as error:
                if not error.is_gone:
                    raise
                gone = error
                continue
            if not ends_whole(path):
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
            line = self._somewhere(file_id, self._store.first_line)
            if line:
                return row_id_of(line, self._profile.wire.results.row_id, batch)
        return None

    def cancel(self, batch_id: str) -> None:
        try:
            self._http.post_once(f"{self.at(batch_id)}{self.cancelling}", None, always)
        except (RefusedError, AmbiguousError):  # servers say 400 or 409 of a batch that has ended
            if not self.check(batch_id).phase.ended:
                raise

    def realtime(self, folder: Path) -> BatchProvider | None:
        if not self._profile.at_once:
            return None
        return RealtimeSide(self._profile, self.ask, account=self._account, folder=folder, clock=self._clock)

    def at_once(self, spec: RequestSpec, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The body of a request that is asked at once, given that in a batch, whose job may name the model instead."""
        in_address = "{model}" in self._profile.at_once[spec.operation]
        return body if in_address else {"model": spec.model, **body}

    def ask(
        self, spec: RequestSpec, body: Mapping[str, Any], still_allowed: Callable[[], None], seconds: float
    ) -> RawReply:
        """Ask one request at once, exactly once; that it is wrong is an answer, too."""
        asked = self.at_once(spec, body)
        return self._direct.ask_once(self.asked_at(spec), asked, still_allowed, seconds=seconds, accepted=WRONG_REQUEST)

    def asked_at(self, spec: RequestSpec) -> str:
        """The path at which a request is asked at once."""
        return self._profile.at_once[spec.operation].format(model=path_part(spec.model.removeprefix("models/")))

    def forget(self, path: str, gone: Collection[int] = (404,)) -> None:
        """Delete what is at a path; by one of the statuses in `gone` it was deleted before."""
        try:
            self._http.delete(path)
        except RefusedError as error:
            if error.status not in gone:
                raise

    def close(self) -> None:
        for client in {self._http, self._store, self._direct}:
            client.close()


def _reaches_past(batches: Sequence[Batch], oldest: float) -> bool:
    """Whether a page is in order, newest first, and its end is too old to matter: so is all that follows."""
    times = [batch.created_at for batch in batches if batch.created_at is not None]
    falling = all(newer >= older for newer, older in pairwise(times))
    return falling and times[:1] != times[-1:] and times[-1] < oldest


def ends_whole(path: Path) -> bool:
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


def always() -> None:
    """Cancelling is never too late."""
