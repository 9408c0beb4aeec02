from __future__ import annotations

from dataclasses import replace

import pytest
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.ledger import AttemptState, Ledger, Origin, Plan, PlanId, PlanState
from dagster_batch_llm.resources.ledger.plans import HOLD_SECONDS

from ..world import SPEC, World, a_plan

ORIGIN = Origin("run", ("a", "b"), {"dagster/partition": "x"})


@pytest.fixture
def ledger(world: World) -> Ledger:
    world.ledger.looks.declare(SPEC)
    return world.ledger


def opened(ledger: Ledger, name: str = "plan", **fields: object) -> Plan:
    return ledger.plans.open(a_plan(name, SPEC.task, **fields), ORIGIN)


def test_a_plan_survives_the_ledger(ledger: Ledger) -> None:
    plan = opened(ledger, partitions=("2026-01-01", 'it\'s "odd"'), inputs={"a": "1"}, rows=5, keys=4)
    assert ledger.plans.get(plan.id) == plan
    assert (plan.partitions, plan.inputs) == (("2026-01-01", 'it\'s "odd"'), {"a": "1"})
    assert (plan.rows, plan.keys, plan.asked) == (5, 4, 0)
    assert ledger.plans.origin("run") == ORIGIN


def test_a_plan_of_another_ledger_is_asked_for_in_words(ledger: Ledger) -> None:
    with pytest.raises(StorageError, match=r"no plan nobody.*BATCH_LLM_HOME"):
        ledger.plans.get(PlanId("nobody"))


def test_an_origin_is_written_once(ledger: Ledger) -> None:
    opened(ledger)
    ledger.plans.open(a_plan("other", SPEC.task), replace(ORIGIN, selection=("c",)))
    assert ledger.plans.origin("run").selection == ("a", "b")
    assert [plan.id for plan in ledger.plans.of_origin("run")] == ["plan", "other"]


# ---- holds ----


def test_a_new_plan_is_held_by_its_run(world: World, ledger: Ledger) -> None:
    plan = opened(ledger)
    assert (plan.holder, plan.holder_until) == ("run", world.clock.now() + HOLD_SECONDS)
    assert not ledger.plans.hold(plan.id, "other")
    assert ledger.plans.hold(plan.id, "run")


def test_a_hold_ends_when_it_is_given_back_or_expires(world: World, ledger: Ledger) -> None:
    plan = opened(ledger)
    ledger.plans.let_go(plan.id, "other")
    assert not ledger.plans.hold(plan.id, "other")
    ledger.plans.let_go(plan.id, "run")
    assert ledger.plans.hold(plan.id, "other")
    world.clock.sleep(HOLD_SECONDS - 1.0)
    assert not ledger.plans.hold(plan.id, "run")
    world.clock.sleep(1.0)
    assert ledger.plans.hold(plan.id, "run")


# ---- ends ----


@pytest.mark.parametrize("state", [state for state in PlanState if state is not PlanState.OPEN])
def test_a_plan_ends_once(ledger: Ledger, state: PlanState) -> None:
    plan = opened(ledger)
    assert ledger.plans.close(plan.id, state, "because")
    assert not ledger.plans.close(plan.id, PlanState.DONE, "again")
    closed = ledger.plans.get(plan.id)
    assert (closed.state, closed.message, closed.holder) == (state, "because", None)


def test_a_plan_is_outdated_when_a_later_one_of_its_table_is_done(ledger: Ledger) -> None:
    first, second = opened(ledger, "1"), opened(ledger, "2")
    assert not ledger.plans.is_outdated(first)
    ledger.plans.close(second.id, PlanState.DONE)
    assert ledger.plans.is_outdated(first)
    assert not ledger.plans.is_outdated(second)


@pytest.mark.parametrize("state", [PlanState.OPEN, PlanState.FAILED, PlanState.CANCELLED, PlanState.SUPERSEDED])
def test_a_later_plan_that_is_not_done_outdates_nothing(ledger: Ledger, state: PlanState) -> None:
    first, second = opened(ledger, "1"), opened(ledger, "2")
    if state is not PlanState.OPEN:
        ledger.plans.close(second.id, state)
    assert not ledger.plans.is_outdated(first)


@pytest.mark.parametrize(
    ("mine", "later", "outdated"),
    [
        ((), (), True),
        (("a",), ("a",), True),
        (("a",), ("a", "b"), True),
        (("a", "b"), ("a",), False),
        (("a",), ("b",), False),
        ((), ("a",), False),
        (("a",), (), False),
    ],
)
def test_a_plan_is_outdated_only_by_one_that_covers_it(
    ledger: Ledger, mine: tuple[str, ...], later: tuple[str, ...], *, outdated: bool
) -> None:
    first = opened(ledger, "1", partitions=mine)
    ledger.plans.close(opened(ledger, "2", partitions=later).id, PlanState.DONE)
    assert ledger.plans.is_outdated(first) is outdated


@pytest.mark.parametrize("change", [{"asset": "other"}, {"location": "elsewhere"}, {"location": None}])
def test_another_table_outdates_nothing(ledger: Ledger, change: dict[str, object]) -> None:
    first = opened(ledger, "1")
    ledger.plans.close(opened(ledger, "2", **change).id, PlanState.DONE)
    assert not ledger.plans.is_outdated(first)


def test_plans_without_a_location_outdate_each_other(ledger: Ledger) -> None:
    first = opened(ledger, "1", location=None)
    ledger.plans.close(opened(ledger, "2", location=None).id, PlanState.DONE)
    assert ledger.plans.is_outdated(first)


def test_work_is_what_is_open_or_still_out(world: World, ledger: Ledger) -> None:
    attempt = world.ask()
    opened(ledger, "elsewhere", location="elsewhere")
    assert [plan.id for plan in ledger.plans.with_work("here")] == ["plan"]
    ledger.plans.close(PlanId(attempt.plan), PlanState.CANCELLED)
    assert [plan.id for plan in ledger.plans.with_work("here")] == ["plan"]
    ledger.attempts.move(attempt, AttemptState.VOID)
    assert ledger.plans.with_work("here") == []


def test_of_two_senders_of_a_collect_run_one_may(ledger: Ledger) -> None:
    opened(ledger)
    origin = ledger.plans.origin("run")
    assert ledger.plans.next_generation(origin, failures=2, due=9.0)
    assert not ledger.plans.next_generation(origin, failures=0, due=0.0)
    assert ledger.plans.origin("run") == replace(ORIGIN, generation=1, failures=2, due=9.0)


# ---- keepers ----


def test_a_backfill_has_one_keeper(world: World, ledger: Ledger) -> None:
    assert not ledger.plans.is_kept("bf")
    assert ledger.plans.keep("bf", "one")
    assert ledger.plans.keep("bf", "one")
    assert not ledger.plans.keep("bf", "two")
    assert ledger.plans.keep("other", "two")
    assert ledger.plans.is_kept("bf")
    world.clock.sleep(HOLD_SECONDS)
    assert not ledger.plans.is_kept("bf")
    assert ledger.plans.keep("bf", "two")
    assert not ledger.plans.keep("bf", "one")


def test_a_keeper_stays_while_a_plan_of_its_backfill_is_open(ledger: Ledger) -> None:
    plan = opened(ledger, backfill="bf")
    opened(ledger, "other", backfill="another")
    assert ledger.plans.keep("bf", "one")
    assert not ledger.plans.stop_keeping("bf", "one")
    assert not ledger.plans.keep("bf", "two")
    ledger.plans.close(plan.id, PlanState.FAILED)
    assert ledger.plans.stop_keeping("bf", "one")
    assert not ledger.plans.is_kept("bf")
    assert ledger.plans.keep("bf", "two")


def test_only_the_keeper_can_leave(ledger: Ledger) -> None:
    assert ledger.plans.keep("bf", "one")
    assert not ledger.plans.stop_keeping("bf", "two")
    ledger.plans.resign("bf", "two")
    assert ledger.plans.is_kept("bf")
    ledger.plans.resign("bf", "one")
    assert not ledger.plans.is_kept("bf")


def test_a_plan_that_opens_before_its_keeper_left_is_seen(ledger: Ledger) -> None:
    assert ledger.plans.keep("bf", "one")
    opened(ledger, backfill="bf")
    assert not ledger.plans.stop_keeping("bf", "one")


def test_a_plan_that_opens_after_its_keeper_left_finds_the_place_free(ledger: Ledger) -> None:
    assert ledger.plans.keep("bf", "one")
    assert ledger.plans.stop_keeping("bf", "one")
    opened(ledger, backfill="bf")
    assert ledger.plans.keep("bf", "two")
