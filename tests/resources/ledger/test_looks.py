from __future__ import annotations

from dataclasses import replace

import pytest
from dagster_batch_llm.resources.ledger import Attempt, AttemptId, AttemptState, Ledger, Origin, PlanId, PlanState
from dagster_batch_llm.resources.ledger.looks import LOOK_LEASE_SECONDS
from sqlalchemy.exc import IntegrityError

from ..world import SPEC, World, a_plan


@pytest.fixture
def ledger(world: World) -> Ledger:
    world.ledger.looks.declare(SPEC)
    for name in ("first", "second"):
        world.ledger.plans.open(a_plan(name, SPEC.task), Origin("run", (), {}))
    return world.ledger


def an_attempt(name: str, plan: str) -> Attempt:
    return Attempt(AttemptId(name), AttemptState.PLANNED, SPEC.task, plan, "llm", "acme", f"{name}.parquet", 2, 0.0)


def test_of_two_inserts_with_one_fence_the_second_changes_nothing(ledger: Ledger) -> None:
    first, second = ledger.looks.snapshot(SPEC.task), ledger.looks.snapshot(SPEC.task)
    assert first == second
    assert ledger.looks.insert(SPEC.task, first.fence, "first", [an_attempt("a", "first")], [])
    assert not ledger.looks.insert(SPEC.task, second.fence, "second", [an_attempt("b", "second")], ["a"])
    assert [attempt.id for attempt in ledger.attempts.find()] == ["a"]
    assert ledger.attempts.all_of_plan("second") == []
    assert [plan.asked for plan in ledger.plans.find()] == [2, 0]
    again = ledger.looks.snapshot(SPEC.task)
    assert again.open_manifests == [("a", "a.parquet")]
    assert ledger.looks.insert(SPEC.task, again.fence, "second", [an_attempt("b", "second")], ["a"])
    assert [attempt.id for attempt in ledger.attempts.all_of_plan("second")] == ["a", "b"]


def test_also_an_insert_of_nothing_moves_the_fence(ledger: Ledger) -> None:
    fence = ledger.looks.snapshot(SPEC.task).fence
    assert ledger.looks.insert(SPEC.task, fence, "first", [], [])
    assert not ledger.looks.insert(SPEC.task, fence, "second", [], [])


def test_an_insert_is_all_or_nothing(ledger: Ledger) -> None:
    fence = ledger.looks.snapshot(SPEC.task).fence
    twice = [an_attempt("a", "first"), an_attempt("a", "first")]
    with pytest.raises(IntegrityError):
        ledger.looks.insert(SPEC.task, fence, "first", twice, [])
    assert ledger.attempts.find() == []
    assert ledger.looks.snapshot(SPEC.task).fence == fence


def test_tasks_have_fences_of_their_own(ledger: Ledger) -> None:
    other = ledger.looks.declare(replace(SPEC, model="other"))
    fence = ledger.looks.snapshot(other).fence
    assert ledger.looks.insert(SPEC.task, ledger.looks.snapshot(SPEC.task).fence, "first", [], [])
    assert ledger.looks.snapshot(other).fence == fence


def test_a_snapshot_knows_what_is_open_and_what_is_answered(ledger: Ledger) -> None:
    attempts = [an_attempt(name, "first") for name in "abc"]
    ledger.looks.insert(SPEC.task, 0, "first", attempts, [])
    ledger.attempts.move(attempts[0], AttemptState.VOID)
    assert ledger.looks.snapshot(SPEC.task).open_manifests == [("b", "b.parquet"), ("c", "c.parquet")]
    assert ledger.looks.snapshot(SPEC.task).answers_files == []


def test_a_declared_task_keeps_its_fence(ledger: Ledger) -> None:
    ledger.looks.insert(SPEC.task, 0, "first", [], [])
    assert ledger.looks.declare(SPEC) == SPEC.task
    assert ledger.looks.snapshot(SPEC.task).fence == 1
    assert ledger.looks.spec(SPEC.task) == SPEC


# ---- the lease is politeness ----


def test_a_lease_does_not_move_the_fence(ledger: Ledger) -> None:
    assert ledger.looks.take(SPEC.task, "one")
    assert ledger.looks.snapshot(SPEC.task).fence == 0


def test_a_lease_is_one_lookers_until_it_is_released_or_expires(world: World, ledger: Ledger) -> None:
    looks = ledger.looks
    assert looks.take(SPEC.task, "one")
    assert not looks.take(SPEC.task, "two")
    world.clock.sleep(LOOK_LEASE_SECONDS - 1.0)
    assert looks.take(SPEC.task, "one")
    world.clock.sleep(LOOK_LEASE_SECONDS - 1.0)
    assert not looks.take(SPEC.task, "two")
    looks.release(SPEC.task, "two")
    assert not looks.take(SPEC.task, "two")
    looks.release(SPEC.task, "one")
    assert looks.take(SPEC.task, "two")
    world.clock.sleep(LOOK_LEASE_SECONDS)
    assert looks.take(SPEC.task, "three")


def test_an_insert_gives_the_lease_back(ledger: Ledger) -> None:
    assert ledger.looks.take(SPEC.task, "one")
    assert ledger.looks.insert(SPEC.task, 0, "first", [], [])
    assert ledger.looks.take(SPEC.task, "two")


def test_a_looker_whose_lease_was_taken_over_inserts_only_if_nobody_else_has(ledger: Ledger) -> None:
    assert ledger.looks.take(SPEC.task, "one")
    slow = ledger.looks.snapshot(SPEC.task)
    ledger.looks.release(SPEC.task, "one")
    assert ledger.looks.take(SPEC.task, "two")
    assert ledger.looks.insert(SPEC.task, ledger.looks.snapshot(SPEC.task).fence, "second", [], [])
    assert not ledger.looks.insert(SPEC.task, slow.fence, "first", [an_attempt("a", "first")], [])


def test_nothing_is_taken_for_a_plan_that_has_ended(ledger: Ledger) -> None:
    """Found by tests/simulation: a run slept in its look, and somebody cancelled the plan meanwhile."""
    fence = ledger.looks.snapshot(SPEC.task).fence
    ledger.plans.close(PlanId("first"), PlanState.CANCELLED)
    assert not ledger.looks.insert(SPEC.task, fence, "first", [an_attempt("a", "first")], [])
    assert ledger.attempts.find() == []
    assert ledger.looks.insert(SPEC.task, fence, "second", [an_attempt("b", "second")], [])
