"""A provider's realtime side: the requests of a batch, asked one by one, as a `BatchProvider` over a folder.

What a batch's provider keeps, a folder of ours keeps here, so that the same state machine, ledger and answers store
serve both, and nothing else pays. A row is noted durably before it is asked, and its reply when it has come; whoever
finds the folder after a kill knows which rows may be paid.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..clock import Clock
from ..duck import make_durable, make_folder
from ..errors import BusyError, ProviderError, RefusedError, StorageError
from ..file_names import digest
from ..request import RequestSpec
from .asking import AT_A_TIME, Asking
from .http import RawReply
from .journal import Journal, Told, read_journal
from .kept import keep, lines_in
from .profile import Profile, Recovery
from .protocol import TOKEN_KEY, Batch, Listing, Phase

_BEGIN_SECONDS = 90.0
_REPLY_SECONDS = 80.0
"""For how long rows are begun, and for how long the last of them may take: together they are less than a lease."""
_ROWS = 100
"""In one send: at 7 seconds each they are through in time."""
_KEPT_SECONDS = 30 * 86_400.0
_MARGIN_SECONDS = 3600.0
_LONGEST_PAUSE = 960.0

AskOnce = Callable[[RequestSpec, Mapping[str, Any], Callable[[], None], float], RawReply]
"""(task, a request's body in a batch, what to ask in the last moment, seconds to wait) → its reply."""


class RealtimeSide:
    """A `BatchProvider` that asks at once. A send is a folder; while its lock is held, somebody is asking.

    Args:
        profile: The provider's.
        ask: Asks one request, once.
        account: The provider's.
        folder: Where sends are kept, each for 30 days.
        clock: Where time comes from.
        at_a_time: Requests that are under way together.
    """

    def __init__(
        self, profile: Profile, ask: AskOnce, *, account: str, folder: Path, clock: Clock, at_a_time: int = AT_A_TIME
    ) -> None:
        self.profile = replace(
            profile,
            min_rows=1,
            max_rows=min(profile.max_rows, _ROWS),
            max_open=None,
            max_queued_tokens=None,
            expires=True,
            keeps_seconds=_KEPT_SECONDS,
            keeps_files_seconds=_KEPT_SECONDS,
            revocable=False,
            listing_lag=0.0,  # a folder is listed as it is
            settle=0.0,  # who comes too late asks nothing, see `create`
            answers_late=0.0,
            recovery=Recovery.RECORD,
            poll_seconds=(1.0, 5.0),
            send_seconds=_BEGIN_SECONDS,
        )
        self.account = f"realtime:{account}"
        self.clock_offset = None
        self._ask, self._folder, self._clock, self._at_a_time = ask, folder, clock, at_a_time
        self._pause = folder / f"{digest(self.account)}.pause"

    def upload(self, path: Path, filename: str) -> str:
        """Keep the request file."""
        self._rest()
        self._forget_old()
        token = Path(filename).stem
        kept = self._requests(token)
        partial = kept.with_suffix(".part")
        try:
            make_folder(kept.parent)
            shutil.copyfile(path, partial)
            os.utime(partial, (self._clock.now(), self._clock.now()))
            make_durable(partial, kept)
        except OSError as error:
            shutil.rmtree(kept.parent, ignore_errors=True)
            raise StorageError(f"{kept} can't be written ({error}). Nothing was asked; free some space.") from error
        return token

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        """Ask all rows of the file; it ends before the lease does, which holds as long as the lock anyway.

        Raises:
            ProviderError: Nothing was carried out, for this reason.
            TooLateError: Likewise.
            StorageError: Nothing was carried out, or what was can't be noted.
        """
        rows, now = lines_in(self._requests(file_id)), self._clock.now()
        with self._held(token), Journal(self._journal(token), rows=rows, now=now) as journal:
            asking = Asking(
                lambda body, allowed: self._ask(spec, body, allowed, _REPLY_SECONDS),
                wire=self.profile.wire,
                journal=journal,
                clock=self._clock,
                still_allowed=still_allowed,
                seconds=_BEGIN_SECONDS,
                is_stopped=self._folder_of(token).joinpath("stop").exists,
            )
            asking.all_of(self._read(file_id), self._at_a_time)
            if asking.why and not asking.is_paid:
                self._journal(token).unlink()
                raise asking.why
            self._trip(asking.why)
            if asking.why is not None and not isinstance(asking.why, StorageError):
                journal.leave(str(asking.why) or "it was stopped, or there was no time left")
        return self.check(token)

    def check(self, batch_id: str) -> Batch:
        is_held = self._is_held(batch_id)  # before it is read: then what is read is all
        told = self._told(batch_id)
        failed = len(told.answered) + len(told.lost) - told.ok
        ended = Phase.COMPLETED if told.ok + failed == told.rows else Phase.EXPIRED
        phase = Phase.RUNNING if is_held else ended
        return Batch(
            id=batch_id,
            phase=phase,
            status=phase.value,
            created_at=told.created_at,
            input_file_id=batch_id,
            metadata={TOKEN_KEY: batch_id},
            total=told.rows,
            completed=told.ok,
            failed=failed,
            result_files=(batch_id,) if phase.ended else (),
            in_one_file=True,
            note=told.why and f"Not all rows were asked: {told.why}",
        )

    def list(self, since: float, there: float | None = None) -> Listing:
        """The sends since then; what has no journal was never begun."""
        del there
        started = self._clock.now()
        oldest = since - _MARGIN_SECONDS if since <= started else 0.0  # a clock that was ahead then tells nothing
        names = sorted(path.parent.name for path in self._folder.glob("*/journal"))
        found = [self.check(name) for name in names if self._kept_at(name) >= oldest]
        return Listing(tuple(found), complete=True, started_at=started, clock_offset=None)

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        """Write the result lines, in the provider's own form; rows that were asked and have no reply have one, too."""
        path = folder / f"{digest(batch.id)}.jsonl"
        if not path.exists():
            told = self._told(batch.id)
            why = "reply lost: nobody knows whether it was carried out"
            lost = (self.profile.wire.failed(row, why) for row in told.lost)
            lines = (json.dumps(line).encode() + b"\n" for line in (*told.answered.values(), *lost))
            keep(path, lines, self._clock.token())
        return [path]

    def first_custom_id(self, batch: Batch) -> str | None:
        told = self._told(batch.id)
        return next(iter((*told.answered, *told.lost)), None)

    def cancel(self, batch_id: str) -> None:
        """No more rows are begun."""
        self._told(batch_id)
        self._folder_of(batch_id).joinpath("stop").touch()

    def has_file(self, file_id: str) -> bool:
        return self._requests(file_id).exists()

    def shows_files(self) -> bool:
        return True

    def delete_file(self, file_id: str) -> None:
        self._requests(file_id).unlink(missing_ok=True)

    def realtime(self, folder: Path) -> None:
        del folder

    def close(self) -> None:
        """Its connections are the provider's."""

    # ---- the folder ----

    def _folder_of(self, token: str) -> Path:
        return self._folder / token

    def _requests(self, token: str) -> Path:
        return self._folder_of(token) / "requests.jsonl"

    def _journal(self, token: str) -> Path:
        return self._folder_of(token) / "journal"

    def _told(self, token: str) -> Told:
        if not self._journal(token).exists():
            raise RefusedError(f"{self.profile.name}: nothing is known here of send {token}.", status=404)
        return read_journal(self._journal(token))

    @contextmanager
    def _held(self, token: str) -> Generator[None]:
        """Hold a send's lock; the system frees it when this process ends, however it does."""
        try:
            with FileLock(self._folder_of(token) / "lock", timeout=5.0):
                yield
        except Timeout as error:
            raise BusyError(f"{self.profile.name}: another process is asking send {token}.") from error

    def _is_held(self, token: str) -> bool:
        if not self._folder_of(token).is_dir():
            return False
        try:
            with FileLock(self._folder_of(token) / "lock", timeout=0.0):
                return False
        except Timeout:
            return True

    def _read(self, file_id: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        wire = self.profile.wire
        with self._requests(file_id).open("rb") as lines:
            for line in lines:
                request = json.loads(line)
                yield request[wire.row_id], request[wire.inner]

    def _forget_old(self) -> None:
        """Sends are kept as long as a provider keeps results."""
        for path in self._folder.glob("*/requests.jsonl"):
            if self._kept_at(path.parent.name) < self._clock.now() - _KEPT_SECONDS:
                shutil.rmtree(path.parent, ignore_errors=True)

    def _kept_at(self, token: str) -> float:
        """When a request file was kept, by our clock; for ever if it isn't here."""
        try:
            return self._requests(token).stat().st_mtime
        except OSError:
            return math.inf

    # ---- the pause after failures ----

    def _rest(self) -> None:
        """Raise what was wrong the last time, for as long as it is to be left alone."""
        until, _ = self._paused()
        left = until - self._clock.now()
        if 0.0 < left <= _LONGEST_PAUSE:
            words = f"{self.profile.name}: too many requests failed in a row; it is left alone for {left:.0f} s."
            raise BusyError(words, retry_after=left)

    def _trip(self, why: Exception | None) -> None:
        """After failures in a row, have the next send wait, longer each time; a good one ends that."""
        _, times = self._paused()
        with suppress(OSError):  # then it is tried sooner
            if isinstance(why, ProviderError):
                until = self._clock.now() + min(60.0 * 2.0 ** min(times, 10), _LONGEST_PAUSE)
                self._pause.write_text(json.dumps([until, times + 1]))
            else:
                self._pause.unlink(missing_ok=True)

    def _paused(self) -> tuple[float, int]:
        try:
            until, times = json.loads(self._pause.read_text())
            return float(until), int(times)
        except (OSError, ValueError, TypeError):
            return 0.0, 0
