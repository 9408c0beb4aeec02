"""A look at an attempt's batches: what the provider says of them, and what is to be noted of that."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import ProviderError
from .ledger import Attempt, Ledger
from .lost_creates import stop, surplus
from .operations.ending import unwanted
from .operations.waits import window_end, window_seconds
from .providers.protocol import Batch, BatchProvider

_GONE_SECONDS = 24 * 3600.0
"""Results that are nowhere to be found for so long aren't expected any more."""


def look_at(
    ledger: Ledger, provider: BatchProvider, attempt: Attempt, found: Sequence[Batch | str]
) -> dict[str, object]:
    """What to note of a submitted attempt, whose batches are listed, or known by name only, the survivor first."""
    now = ledger.clock.now()
    first, longest = provider.profile.poll_seconds
    due = now + min(first * 1.5 ** min(attempt.waits + 1, 20), longest)
    looked: dict[str, object] = {"due": due, "waits": attempt.waits + 1}
    try:
        batches, gone = as_they_are(provider, found)
    except ProviderError as error:
        return {**looked, "message": error.message}
    looked |= {"message": gone and gone.message, "gone_since": (attempt.gone_since or now) if gone else None}
    if batches:
        extras = surplus(batches, ledger.attempts.sends(attempt.id), attempt.batch_id) if batches[1:] else []
        stop(provider, unwanted(ledger, attempt, batches) or extras)
        looked |= {**batches[0].progress, "ended_at": None}
    # A 404 right after a create means patience, and so it does for a day, and for a day after the batch's window.
    patience = window_end(attempt, window_seconds(provider.profile.windows)) + _GONE_SECONDS
    expected = gone is not None and not (is_given_up(attempt, now) and (batches or now > patience))
    if not expected and all(batch.phase.ended for batch in batches):
        looked |= {"due": now, "ended_at": now}
    return looked


def is_given_up(attempt: Attempt, now: float) -> bool:
    """Whether something of an attempt's results has been nowhere to be found for so long that it is gone for good."""
    return attempt.gone_since is not None and now > attempt.gone_since + _GONE_SECONDS


def as_they_are(provider: BatchProvider, batches: Sequence[Batch | str]) -> tuple[list[Batch], ProviderError | None]:
    """Look at batches that are only named; also gives the error about one that isn't to be found, if there is one."""
    found: list[Batch] = []
    gone: ProviderError | None = None
    for batch in batches:
        try:
            found.append(provider.check(batch) if isinstance(batch, str) else batch)
        except ProviderError as error:
            if not error.is_gone:
                raise
            gone = error
    return found, gone
