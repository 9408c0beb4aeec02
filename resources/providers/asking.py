"""Asking rows one by one, many at a time: each at most once unless it is certain that nothing came of it."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..clock import Clock
from ..errors import BatchLLMError, BusyError, ProviderError, RefusedError, UnreachableError
from .http import RawReply
from .http_words import paired, quoted
from .journal import Journal
from .limits import pause_until
from .protocol import TooLateError
from .wires.wire import Wire

AT_A_TIME = 8
"""Requests that are under way together."""

_BUSY = {429, 503, 529}
"""Statuses that say that nothing was done."""
_FAILURES = 5
"""In a row, nothing answered in between, after which nothing more is begun."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_MOMENT, _NAP = 0.001, 1.0
"""Seconds that are slept at once; less than the first may not move a clock."""

Ask = Callable[[Mapping[str, Any], Callable[[], None]], RawReply]
"""(a request's body, what to ask in the last moment) → its reply."""


class Asking:
    """One send's requests under way.

    Args:
        ask: Asks one, once.
        wire: How a result line is written.
        journal: Where everything is noted before it happens.
        clock: For pauses.
        still_allowed: Raises `TooLateError` when no more may leave.
        seconds: A pause beyond so many seconds from now isn't waited for.
        is_stopped: Whether somebody wants it to end.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        wire: Wire,
        journal: Journal,
        clock: Clock,
        still_allowed: Callable[[], None],
        seconds: float,
        is_stopped: Callable[[], bool],
    ) -> None:
        self._ask, self._wire, self._journal, self._clock = ask, wire, journal, clock
        self._still_allowed, self._is_stopped = still_allowed, is_stopped
        self._until = clock.monotonic() + seconds
        self._lock = threading.Lock()
        self._gate = clock.monotonic()
        self._round = 0
        self._failures = 0
        self.why: Exception | None = None
        """Why no more is asked."""
        self.is_paid = False
        """Whether anything was carried out, or may have been."""

    def all_of(self, rows: Iterator[tuple[str, Mapping[str, Any]]], at_a_time: int = AT_A_TIME) -> None:
        """Ask these: (row id, body). It ends when all are through, or when `why` says so."""

        def work() -> None:
            try:
                while (row := self._next(rows)) is not None:
                    self._bring(*row)
            except BatchLLMError as error:
                self._stop(error)
            except BaseException:
                self._stop(TooLateError())  # whatever it was, the others must not go on beside it
                raise

        with ThreadPoolExecutor(at_a_time, thread_name_prefix="batch_llm") as pool:
            try:
                for worker in [pool.submit(work) for _ in range(at_a_time)]:
                    worker.result()
            except BaseException:  # such as the end of a run that is cancelled
                self._stop(TooLateError())
                raise

    def _next(self, rows: Iterator[tuple[str, Mapping[str, Any]]]) -> tuple[str, Mapping[str, Any]] | None:
        with self._lock:
            return None if self.why else next(rows, None)

    def _bring(self, row: str, body: Mapping[str, Any]) -> None:
        """Ask one row until it has a line; or leave it, where no more is asked."""
        while self._may_begin():
            round_ = self._round
            self._journal.begin(row)
            try:
                reply = self._ask(body, self._still_allowed)
            except TooLateError as error:
                self._journal.was_not_asked(row)
                self._stop(error)
            except ProviderError as error:
                if isinstance(error, RefusedError | UnreachableError) or error.status in _BUSY:
                    self._journal.was_not_asked(row)
                    self._unanswered(error, round_)
                    continue
                self.is_paid = True
                self._journal.answer(row, self._wire.failed(row, f"reply lost: {error.message}"), ok=False)
                self._lost(error)
                return
            else:
                self.is_paid = True
                self._keep(row, reply)
                return

    def _may_begin(self) -> bool:
        """Wait until the next one may be asked; False if none may."""
        while self.why is None:
            if self._is_stopped():
                self._stop(TooLateError())
                break
            wait = self._gate - self._clock.monotonic()
            if wait <= 0.0:
                try:
                    self._still_allowed()
                except TooLateError as error:
                    self._stop(error)
                    break
                return True
            self._clock.sleep(min(max(wait, _MOMENT), _NAP))
        return False

    def _keep(self, row: str, reply: RawReply) -> None:
        ok = 200 <= reply.status < 300
        try:
            body = json.loads(reply.text)
            body = paired(body) if "\\u" in reply.text else body
            line = self._wire.answered(row, reply.status, body)
        except (ValueError, RecursionError):
            line, ok = self._wire.failed(row, f"status {reply.status}, and no JSON: {quoted(reply.text)}"), False
        self._journal.answer(row, line, ok=ok)
        pause = pause_until(reply.headers, self._clock.now())
        with self._lock:
            self._failures = 0
            self._gate = max(self._gate, self._clock.monotonic() + pause)

    def _unanswered(self, error: ProviderError, round_: int) -> None:
        """Nothing came of a request. Those that were under way with it count as one failure, and all wait."""
        if isinstance(error, RefusedError):
            self._stop(error)
            return
        if not isinstance(error, BusyError | UnreachableError):
            error = BusyError(error.message, status=error.status, code=error.code, retry_after=error.retry_after)
        with self._lock:
            if round_ != self._round:
                return
            self._round += 1
            self._failures += 1
            pause = error.retry_after
            if pause is None:
                longest = min(_FIRST_PAUSE * 2 ** (self._failures - 1), _LONGEST_PAUSE)
                pause = longest * random.uniform(0.5, 1.0)  # noqa: S311 - so that not all come at once
            self._gate = max(self._gate, self._clock.monotonic() + pause)
            is_enough = self._failures >= _FAILURES or self._gate > self._until
        if is_enough:
            self._stop(error)

    def _lost(self, error: ProviderError) -> None:
        with self._lock:
            self._failures += 1
            is_enough = self._failures >= _FAILURES
        if is_enough:
            self._stop(error)

    def _stop(self, why: Exception) -> None:
        with self._lock:
            self.why = self.why or why
