"""A look at an attempt's batches: what the provider says of them, and what is to be noted of that."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .errors import ProviderError
from .ledger import Attempt, Ledger, has_come
from .lost_creates import stop, surplus
from .operations.ending import unwanted
from .operations.waits import window_end, window_seconds
from .providers.http import hurried
from .providers.profile import Profile
from .providers.protocol import Batch, BatchProvider, Phase
from .result_files import OF_DUPLICATE, Missing, missing

_GONE_SECONDS = 24 * 3600.0
"""Results that are nowhere to be found for so long aren't expected any more."""

_SLOW_SECONDS = 600.0
_SHORT = "Fewer results"
"""How it is said that less came than the provider counts."""
_FILES_LATE_SECONDS = 60.0
_LOOKS_AT_ONCE = 100


def look_at_each(ledger: Ledger, provider: BatchProvider, due: Sequence[Attempt], until: float) -> list[Attempt]:
    """Look at one provider's batches that are due; gives the attempts as they are now.

    After `until`, by the monotonic clock, no more is begun.
    """
    clock, attempts = ledger.clock, ledger.attempts
    listed: dict[str, Batch] = {}
    if len(due) > 2:  # one listing is cheaper than three single looks
        half = clock.monotonic() + (until - clock.monotonic()) / 2
        with suppress(ProviderError), hurried(half):  # the single looks say what is wrong
            listing = provider.list(min(attempt.submitted_at or attempt.created_at for attempt in due))
            listed = {batch.id: batch for batch in listing.batches}
    seen: list[Attempt] = []
    for start in range(0, len(due), _LOOKS_AT_ONCE):
        part = due[start : start + _LOOKS_AT_ONCE]
        names = attempts.batches_of([attempt.id for attempt in part])
        looks: list[tuple[Attempt, dict[str, object]]] = []
        for attempt in part:
            if attempt.id in names and clock.monotonic() < until:
                found = [listed.get(name) or name for name in names[attempt.id]]
                looks.append((attempt, look_at(ledger, provider, attempt, found)))
        seen += attempts.note_each(looks)
    return seen


def look_at(
    ledger: Ledger, provider: BatchProvider, attempt: Attempt, found: Sequence[Batch | str]
) -> dict[str, object]:
    """What to note of a submitted attempt, whose batches are listed, or known by name only, the survivor first."""
    now = ledger.clock.now()
    first, longest = provider.profile.poll_seconds
    due = now + min(first * 1.5 ** min(attempt.waits + 1, 20), longest)
    looked: dict[str, object] = {"due": due, "waits": attempt.waits + 1}
    try:
        batches, lacking = as_they_are(provider, found)
    except ProviderError as error:
        return {**looked, "message": error.message, "slow_since": slow_since(attempt, now, error)}
    said = next((error.message for error in lacking.values()), batches[0].note if batches else None)
    looked |= {"message": said, "gone_since": gone_since(attempt, now, lacking), "slow_since": None}
    if batches:
        extras = surplus(batches, ledger.attempts.sends(attempt.id), attempt.batch_id) if batches[1:] else []
        stop(provider, unwanted(ledger, attempt, batches) or extras)
        looked |= {**batches[0].progress, "ended_at": None}
    # A 404 right after a create means patience, and so it does for a day, and for a day after the batch's window.
    patience = window_end(attempt, window_seconds(provider.profile.windows)) + _GONE_SECONDS
    # A duplicate that can't be had doesn't count here: the survivor's end begins its day, see `still_awaited`.
    gone = attempt.batch_id in lacking
    expected = gone and not (_is_given_up(attempt, now) and (batches or now > patience))
    if not expected and all(batch.phase.ended for batch in batches):
        looked |= {"due": now, "ended_at": now}
    return looked


def gone_since(attempt: Attempt, now: float, lacking: Missing, unread: Missing | None = None) -> float | None:
    """Since when the survivor (`lacking`), or a file of it (`unread`), has been nowhere to be found.

    It alone: a duplicate that is gone must not use up the patience for the batch whose answers are awaited.
    """
    since = min(attempt.gone_since or now, now)  # a clock that was ahead may have been set back
    if attempt.batch_id in lacking:
        return since
    if unread and attempt.batch_id in unread:  # before it ended, it was the batch that was hidden
        return max(since, min(attempt.ended_at or since, now))
    return None


def slow_since(attempt: Attempt, now: float, error: ProviderError) -> float | None:
    """Since when looks in haste have run out of time; None if what failed now had all the time that it wanted."""
    return min(attempt.slow_since or now, now) if error.in_haste else None


def is_too_slow(attempt: Attempt, now: float) -> bool:
    """Whether who has little time, such as a sensor, has come to nothing for so long that a run has to look."""
    return attempt.slow_since is not None and now >= attempt.slow_since + _SLOW_SECONDS


def _is_given_up(attempt: Attempt, now: float) -> bool:
    """Whether the survivor has been nowhere to be found for so long that it is gone for good."""
    return attempt.gone_since is not None and now > attempt.gone_since + _GONE_SECONDS


def not_ended(attempt: Attempt, now: float, batches: Sequence[Batch], lacking: Missing) -> dict[str, object] | None:
    """What to note of an attempt whose batches go on after all, or whose files trail; None if all is there."""
    if not all(batch.phase.ended for batch in batches):
        return {"due": now, "ended_at": None, "gone_since": gone_since(attempt, now, lacking)}
    late = has_come((attempt.ended_at or 0.0) + _FILES_LATE_SECONDS, now)
    if not late and any(batch.lacks_files for batch in batches):
        return {"due": now + 5.0}
    return None


def too_few(
    attempt: Attempt, now: float, profile: Profile, batches: Sequence[Batch], lines: int
) -> dict[str, object] | None:
    """What to note where fewer result lines came than the provider counts; None if they are all, or none more come.

    They are fetched once more at least. Answers that are paid are worth a longer wait than failures, which are in no
    file at some servers.
    """
    answered, failed = sum(batch.completed for batch in batches), sum(batch.failed for batch in batches)
    if all(batch.phase is Phase.COMPLETED for batch in batches):
        answered = max(answered, attempt.rows - failed)  # one that ended well has a line for each row, counted or not
    counted = answered + failed
    since = now - (attempt.ended_at or 0.0)
    early = since < (profile.answers_late if lines < answered else _FILES_LATE_SECONDS)
    if lines >= counted or not (early or not (attempt.message or "").startswith(_SHORT)):
        return None
    said = f"{_SHORT}: {lines} of {counted} that the provider counts. They are fetched once more."
    soon = min(15.0, profile.poll_seconds[1])
    return {"due": now + (max(soon, since / 2) if early else soon), "message": said}


def still_awaited(attempt: Attempt, now: float, lacking: Missing, paths: Sequence[Path]) -> ProviderError | None:
    """Why the results of an attempt that has ended can't be closed yet without what is lacking; None if they can.

    A duplicate is left out a day after the survivor's end, but not at the first look that can't have it; and one that
    is there, but can't be read, not while there is nothing (in `paths`) that it holds back.
    """
    for name, error in lacking.items():
        if name == attempt.batch_id:
            awaited = not _is_given_up(attempt, now)
        else:
            early = now <= (attempt.ended_at or now) + _GONE_SECONDS
            first = not (attempt.message or "").startswith((OF_DUPLICATE, _SHORT))
            awaited = early or first or not (paths or error.is_gone)
        if awaited:
            return error
    return None


def as_they_are(provider: BatchProvider, batches: Sequence[Batch | str]) -> tuple[list[Batch], Missing]:
    """Look at batches that are only named, the survivor first; also gives what can't be had.

    Raises:
        ProviderError: The survivor's, unless it isn't there.
    """
    found: list[Batch] = []
    lacking: Missing = {}
    for number, batch in enumerate(batches):
        if isinstance(batch, Batch):
            found.append(batch)
            continue
        try:
            found.append(provider.check(batch))
        except ProviderError as error:
            lacking[batch] = missing(batch, error, survives=number == 0)
    return found, lacking
