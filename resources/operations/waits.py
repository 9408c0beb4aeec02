"""Why a plan that has no batch and no run waits, and for how long a batch may be out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..ledger import Attempt, AttemptState, Ledger, Plan

WINDOW_SECONDS = 24 * 3600.0
"""Of a provider that names neither a deadline nor a window that we know."""
_MARGIN_SECONDS = 900.0
"""A provider takes its time to end a batch, and we look at it only every few minutes."""
_UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}


def why_it_waits(ledger: Ledger, plan: Plan) -> str:
    """What a plan without batch and run waits for: its origin, and what was last said about it."""
    if plan.location is None:
        waits = f"waits for run {plan.origin}, which no sensor follows; run it again, or cancel {plan.id}"
    else:
        waits = f"waits for the sensor of {plan.location} to continue run {plan.origin}"
    said = _last_message(ledger, plan)
    return f"{waits}: {said}" if said else waits


def _last_message(ledger: Ledger, plan: Plan) -> str | None:
    told = [m for _, _, subject, m in ledger.attempts.dated_incidents() if subject in {plan.id, plan.origin}]
    noted = [attempt.message for attempt in ledger.attempts.all_of_plan(plan.id) if attempt.message]
    return plan.message or next(iter([*reversed(told), *reversed(noted)]), None)


def new_troubles(messages: Iterable[str | None], known: Iterable[str | None]) -> str | None:
    """One line for what is wrong with some attempts and wasn't known to be; None if there is nothing new."""
    new = sorted({message for message in messages if message}.difference(known))
    if not new:
        return None
    others = f" (and {len(new) - 1} more such messages; see dagster-batch-llm status)" if len(new) > 1 else ""
    return f"{new[0]}{others} It will be tried again."


def overdue(attempts: Sequence[Attempt], now: float, window: float = WINDOW_SECONDS) -> list[Attempt]:
    """The batches that their provider should have ended by now.

    Args:
        attempts: In any state.
        now: Unix seconds.
        window: Seconds that the provider takes at most, where it names no deadline itself.
    """
    return [
        a
        for a in attempts
        if a.state is AttemptState.SUBMITTED and a.ended_at is None and now > window_end(a, window) + _MARGIN_SECONDS
    ]


def expiring(attempts: Sequence[Attempt], now: float, keeps: float | None) -> list[Attempt]:
    """The batches that have ended, and whose results their provider is about to delete.

    Args:
        attempts: In any state.
        now: Unix seconds.
        keeps: Seconds after its creation for which a batch's results are kept; None if for good.
    """
    if keeps is None:
        return []
    margin = min(keeps / 4, 3 * 86_400.0)
    return [
        a
        for a in attempts
        if a.state is AttemptState.SUBMITTED
        and a.ended_at is not None
        and now > (a.submitted_at or a.created_at) + keeps - margin
    ]


def window_end(attempt: Attempt, window: float) -> float:
    """When the provider should end a batch: Unix seconds."""
    return attempt.expires_at or (attempt.submitted_at or attempt.created_at) + window


def window_seconds(windows: Sequence[str]) -> float:
    """The longest of a provider's completion windows, in seconds.

    Example:
        >>> window_seconds(["1h", "24h"]), window_seconds(["soon"])
        (86400.0, 86400.0)
    """
    known = [float(w[:-1]) * _UNITS[w[-1]] for w in windows if w[:-1].isdecimal() and w[-1] in _UNITS]
    return max(known, default=WINDOW_SECONDS)
