"""Whether a provider has room for one more batch, by all that the ledger knows to be under way there."""

from __future__ import annotations

import sqlalchemy as sa

from .ledger import Attempt, AttemptState, Ledger, schema
from .providers.profile import Profile
from .request import BYTES_PER_TOKEN

_UNDER_WAY = (AttemptState.CREATING, AttemptState.AMBIGUOUS, AttemptState.SUBMITTED)


def tokens_of(attempt: Attempt) -> int:
    """About how many input tokens an attempt has."""
    return -(-attempt.bytes // BYTES_PER_TOKEN)


def no_room(ledger: Ledger, profile: Profile, attempt: Attempt) -> str | None:
    """Why a planned attempt has to wait until others have ended; None if it may be sent.

    Counted are the batches of its account, whichever tables and processes they are of, and the tokens of those that
    ask the same model. Two workers that send in the same moment may both find room: then the provider refuses one of
    them, unpaid, and it waits as well. An attempt that is larger than all the room goes alone.
    """
    if profile.max_open is None and profile.max_queued_tokens is None:
        return None
    table = schema.attempt.c
    others = ledger.attempts.find(
        table.account == attempt.account,
        table.state.in_(_UNDER_WAY),
        table.ended_at.is_(sa.null()),
        table.id != attempt.id,
    )
    if profile.max_open is not None and len(others) >= profile.max_open:
        return f"{profile.name} takes {profile.max_open} batches at once, and {len(others)} are under way."
    if profile.max_queued_tokens is None or not others:
        return None
    model = ledger.looks.spec(attempt.task).model
    same = {task for task in {other.task for other in others} if ledger.looks.spec(task).model == model}
    queued = sum(tokens_of(other) for other in others if other.task in same)
    wanted = tokens_of(attempt)
    if not queued or queued + wanted <= profile.max_queued_tokens:
        return None
    return (
        f"{profile.name} takes {profile.max_queued_tokens:,} tokens of {model} at once; about {queued:,} are under "
        f"way, and these {attempt.rows} requests have about {wanted:,}."
    )
