"""Time, sleep and randomness come in through one object, so that tests control them."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the package asks of time; all times are seconds, wall clock times are UTC Unix seconds."""

    def now(self) -> float:
        """Wall clock, Unix seconds."""
        ...

    def monotonic(self) -> float:
        """A clock that never jumps; only differences mean something."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def token(self) -> str:
        """A fresh random name: 16 lower-case hexadecimal characters."""
        ...


class SystemClock:
    """The real one."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        # An Event's wait is interrupted by Dagster's termination signal just as sleep is.
        threading.Event().wait(seconds)

    def token(self) -> str:
        return secrets.token_hex(8)
