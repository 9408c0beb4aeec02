"""Leases and due times by a clock that was wrong and then set right: nobody waits until it is right again."""

from __future__ import annotations

from dagster_batch_llm.resources.ledger import Attempt, AttemptState, PlanId
from dagster_batch_llm.resources.ledger.attempts import LEASE_SECONDS

from ..world import SPEC, World

DAYS = 3 * 86400.0
PLANNED = [AttemptState.PLANNED]


def asked_ahead(world: World) -> Attempt:
    """Asked, and held in every way, by a worker whose clock was days ahead and which died of it."""
    world.clock.ahead = DAYS
    attempt = world.ask()
    world.ledger.plans.hold(PlanId("plan"), "run")
    taken = world.ledger.attempts.take(attempt.id, "dead")
    assert taken
    world.ledger.attempts.note(taken, due=world.clock.now() + 300.0)
    assert world.ledger.looks.take(SPEC.task, "dead")
    assert world.ledger.plans.keep("backfill", "dead")
    world.clock.ahead = 0.0
    return attempt


def test_what_a_clock_wrote_that_was_days_ahead_is_not_waited_for(world: World) -> None:
    attempt = asked_ahead(world)
    assert [found.id for found in world.ledger.attempts.due(PLANNED)] == [attempt.id]
    assert world.ledger.attempts.take(attempt.id, "me")
    assert world.ledger.looks.take(SPEC.task, "me")
    assert not world.ledger.plans.is_held(world.ledger.plans.get(PlanId("plan")))
    assert world.ledger.plans.hold(PlanId("plan"), "me")
    assert not world.ledger.plans.is_kept("backfill")
    assert world.ledger.plans.keep("backfill", "me")


def test_a_clock_that_is_a_little_ahead_is_believed(world: World) -> None:
    attempt = world.ask()
    world.clock.ahead = LEASE_SECONDS
    assert world.ledger.attempts.take(attempt.id, "another machine")
    world.clock.ahead = 0.0
    assert world.ledger.attempts.take(attempt.id, "me") is None
    assert world.ledger.attempts.due(PLANNED) == []
