from __future__ import annotations

import itertools
import threading


class FakeClock:
    """A clock that stands still until somebody sleeps; all workers of a test share it.

    Attributes:
        ahead: How wrong its wall clock is at the moment.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._start = now
        self._now = now
        self.ahead = 0.0
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now + self.ahead

    def monotonic(self) -> float:
        return self._now - self._start

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now += max(seconds, 0.0)

    def token(self) -> str:
        with self._lock:
            return f"{next(self._tokens):016x}"
