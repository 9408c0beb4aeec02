"""Ending plans: what was not sent never will be; what is out is paid, so it is fetched and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..ledger import Attempt, AttemptState, Ledger, Plan, PlanState, schema
from ..providers.protocol import TOKEN_KEY, Batch

_MESSAGE = "ended by hand (dagster-batch-llm cancel)"


@dataclass(frozen=True)
class Cost:
    """What ending some plans means.

    Attributes:
        plans: The plans, open or ended with something left.
        unsent: Attempts that were not sent and never will be.
        out: Sent attempts that nobody else waits for.
        shared: Attempts for which other open plans wait too; nothing happens to them.
    """

    plans: tuple[Plan, ...]
    unsent: tuple[Attempt, ...]
    out: tuple[Attempt, ...]
    shared: tuple[Attempt, ...]

    @property
    def open_plans(self) -> tuple[Plan, ...]:
        """Those whose table has not come and then won't."""
        return tuple(plan for plan in self.plans if plan.state is PlanState.OPEN)


def plans_named(ledger: Ledger, name: str) -> list[Plan]:
    """The plans of a table, or the one of this id, that are open or have batches out.

    Raises:
        InputError: There is none.
    """
    p = schema.plan.c
    unfinished = ledger.plans.unfinished()
    found = ledger.plans.find((p.asset == name) | (p.id == name), unfinished)
    if not found:
        waiting = sorted({plan.asset for plan in ledger.plans.find(unfinished)})
        raise InputError(
            f"No table and no plan called {name!r} waits for anything. "
            + (f"These do: {', '.join(waiting)}." if waiting else "Nothing waits at all.")
        )
    return found


def cost_of(ledger: Ledger, plans: Sequence[Plan]) -> Cost:
    """What ending these plans together would mean now."""
    ids = [plan.id for plan in plans]
    attempts = {attempt.id: attempt for plan in ids for attempt in ledger.attempts.open_of_plan(plan)}.values()
    shared = [attempt for attempt in attempts if ledger.upkeep.is_wanted(attempt.id, besides=ids)]
    own = [attempt for attempt in attempts if attempt not in shared]
    unsent = [attempt for attempt in own if attempt.state is AttemptState.PLANNED]
    out = [attempt for attempt in own if attempt not in unsent]
    return Cost(tuple(plans), tuple(unsent), tuple(out), tuple(shared))


def cancel(ledger: Ledger, plans: Sequence[Plan], *, batches: bool = False) -> int:
    """End plans; gives how many requests were given up unsent. Cut off in the middle, it can be repeated.

    Args:
        ledger: Where they are.
        plans: See `plans_named`.
        batches: Also have the provider cancel batches that nobody else waits for. Whoever speaks to the provider next,
            the sensor or a run, asks it, until the batch has ended.
    """
    return sum(ledger.upkeep.end(plan.id, _MESSAGE, batches=batches) for plan in plans)


def unwanted(ledger: Ledger, attempt: Attempt, batches: Sequence[Batch]) -> list[Batch]:
    """Of an attempt's batches, those that a person wants cancelled, nobody waits for, and that say they are ours."""
    if attempt.unwanted_at is None or ledger.upkeep.is_wanted(attempt.id):
        return []
    sends = ledger.attempts.sends(attempt.id)
    tokens, files = {send.token for send in sends}, {send.file_id for send in sends}
    return [b for b in batches if b.metadata.get(TOKEN_KEY) in tokens or b.input_file_id in files]
