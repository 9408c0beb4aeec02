"""Whether a moment in the ledger has come: until when somebody has something, or when its next step is due.

These moments are politeness; correctness rests on fences. So one that lies further ahead than any that is ever written
isn't waited for: whoever wrote it had a clock that was wrong, perhaps by days.
"""

from __future__ import annotations

from typing import Any, overload

from sqlalchemy import ColumnElement

LEASE_SECONDS = 180.0
"""Of an attempt: longest create (120 s) + longest wait before its last byte (30 s) + 30 s; renewed before each call."""
LOOK_LEASE_SECONDS = 60.0
HOLD_SECONDS = 120.0
"""A run that works on a plan renews its hold well within this; then the sensor may send another run."""
LONGEST_WAIT = 3600.0
"""The furthest ahead that anything is made due, in seconds."""


@overload
def has_come(moment: float, now: float, longest: float = LONGEST_WAIT) -> bool: ...
@overload
def has_come(
    moment: ColumnElement[float], now: float | ColumnElement[float], longest: float = LONGEST_WAIT
) -> ColumnElement[bool]: ...
def has_come(moment: Any, now: Any, longest: float = LONGEST_WAIT) -> Any:
    """Whether a moment, in Unix seconds, is past, or twice as far ahead as the longest that is ever written.

    Example:
        >>> has_come(100.0, 160.0), has_come(220.0, 160.0, 180.0), has_come(86400.0, 160.0, 180.0)
        (True, False, True)
    """
    return (moment <= now) | (moment > now + 2 * longest)
