"""The states of an attempt and of a plan, and the only legal ways between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class AttemptState(StrEnum):
    """Where one paid request file stands."""

    PLANNED = "planned"
    """Its keys are taken, nothing was sent."""
    CREATING = "creating"
    """A send is committed and may be on its way."""
    AMBIGUOUS = "ambiguous"
    """It was sent and nobody knows whether it arrived."""
    SUBMITTED = "submitted"
    """The provider's id of it is known."""
    ANSWERED = "answered"
    """Its answers are durable."""
    VOID = "void"
    """It was never sent and never will be."""
    REFUSED = "refused"
    """The provider said a final no; nothing was paid."""


class Tier(StrEnum):
    """How an attempt's requests are asked."""

    BATCH = "batch"
    REALTIME = "realtime"
    """One by one, at once: what is too little for a batch."""


class PlanState(StrEnum):
    """Where one planned table (or its partitions) stands."""

    OPEN = "open"
    DONE = "done"
    SUPERSEDED = "superseded"
    """A later plan of the same table is done; this one's answers are kept, its table is not written."""
    CANCELLED = "cancelled"
    FAILED = "failed"


_A = AttemptState

LEGAL: Mapping[AttemptState, frozenset[AttemptState]] = {
    # planned → submitted: a create that was given up as absent turned up after all.
    _A.PLANNED: frozenset({_A.CREATING, _A.SUBMITTED, _A.VOID, _A.REFUSED}),
    _A.CREATING: frozenset({_A.PLANNED, _A.SUBMITTED, _A.AMBIGUOUS, _A.REFUSED}),
    # ambiguous → creating: sent once more under the same token, where the provider knows it again.
    _A.AMBIGUOUS: frozenset({_A.PLANNED, _A.SUBMITTED, _A.CREATING}),
    # submitted → planned: the provider's queue was full and it threw the batch out unpaid.
    # submitted → ambiguous: the results are somebody else's, so the reply to the create named a wrong batch.
    _A.SUBMITTED: frozenset({_A.PLANNED, _A.AMBIGUOUS, _A.ANSWERED, _A.REFUSED}),
    _A.ANSWERED: frozenset(),
    _A.VOID: frozenset(),
    _A.REFUSED: frozenset(),
}

OPEN_ATTEMPTS = frozenset({_A.PLANNED, _A.CREATING, _A.AMBIGUOUS, _A.SUBMITTED})
"""While an attempt is in one of these, nobody else may ask its keys."""
