"""`cancel`: unsent requests never are sent, what is out goes on or is cancelled, and nothing paid is lost."""

from __future__ import annotations

import httpx
import pytest
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, Origin, Plan, PlanId, PlanState, schema
from dagster_batch_llm.resources.operations import cancel, cost_of, plans_named, why_it_waits

from ..effects import Died, Effects
from ..fake_openai import Serve, request_lost
from ..world import PROMPTS, SPEC, MakeWorld, World, a_plan


def second_plan(world: World, attempt: Attempt) -> Plan:
    """Another table that waits for the same attempt."""
    plan = world.ledger.plans.open(a_plan("other", SPEC.task, asset="other"), Origin("run", (), {}))
    fence = world.ledger.looks.snapshot(SPEC.task).fence
    assert world.ledger.looks.insert(SPEC.task, fence, plan.id, [], [attempt.id])
    return plan


def test_unsent_requests_are_given_up_for_good(world: World) -> None:
    attempt = world.ask()
    plans = plans_named(world.ledger, "table")
    cost = cost_of(world.ledger, plans)
    assert ([a.id for a in cost.unsent], cost.out, cost.shared) == ([attempt.id], (), ())
    assert cancel(world.ledger, plans) == 3
    assert world.state(attempt) is AttemptState.VOID
    assert world.ledger.plans.get(PlanId("plan")).state is PlanState.CANCELLED
    world.machine().send(attempt.id)
    assert world.server.seen == []


def test_a_sender_that_is_overtaken_by_an_ending_sends_nothing(world: World) -> None:
    attempt = world.ask()

    def ended_meanwhile(request: httpx.Request, serve: Serve) -> httpx.Response:
        cancel(world.ledger, plans_named(world.ledger, "table"))
        return serve()

    world.server.on("POST /v1/files", ended_meanwhile)
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.VOID
    assert world.server.creates() == 0


def test_a_look_that_is_overtaken_by_an_ending_takes_nothing(world: World) -> None:
    world.ask()
    cancel(world.ledger, plans_named(world.ledger, "plan"))
    fence = world.ledger.looks.snapshot(SPEC.task).fence
    assert not world.ledger.looks.insert(SPEC.task, fence, "plan", [], [])


def test_a_batch_that_is_out_goes_on_and_its_answers_are_kept(world: World) -> None:
    attempt = world.ask()
    world.machine().send(attempt.id)
    plans = plans_named(world.ledger, "table")
    assert [a.id for a in cost_of(world.ledger, plans).out] == [attempt.id]
    assert cancel(world.ledger, plans) == 0
    world.finish(attempt)
    world.paid_once()
    with pytest.raises(InputError, match="Nothing waits at all"):
        plans_named(world.ledger, "table")


def test_with_batches_the_provider_is_asked_to_cancel(world: World) -> None:
    world.server.seconds = 7200.0
    attempt = world.ask()
    world.machine().send(attempt.id)
    cancel(world.ledger, plans_named(world.ledger, "plan"), batches=True)
    world.clock.sleep(400.0)
    world.machine("sensor").poll("llm")
    assert world.server.batches["batch-1"]["status"] == "cancelled"
    world.finish(attempt)
    assert {outcome for _, outcome, _ in world.outcomes()} == {"expired"}
    assert world.server.bill == {}


def test_a_batch_that_another_table_waits_for_is_not_cancelled(world: World) -> None:
    attempt = world.ask()
    world.machine().send(attempt.id)
    second_plan(world, attempt)
    plans = plans_named(world.ledger, "table")
    assert [a.id for a in cost_of(world.ledger, plans).shared] == [attempt.id]
    cancel(world.ledger, plans, batches=True)
    world.finish(attempt)
    world.paid_once()
    assert [seen for seen in world.server.seen if seen.endswith("/cancel")] == []


def test_a_table_that_comes_to_wait_for_an_unwanted_batch_saves_it(world: World) -> None:
    attempt = world.ask()
    world.machine().send(attempt.id)
    cancel(world.ledger, plans_named(world.ledger, "table"), batches=True)
    second_plan(world, attempt)
    world.finish(attempt)
    world.paid_once()
    assert [seen for seen in world.server.seen if seen.endswith("/cancel")] == []


def test_a_batch_without_our_token_and_file_is_left_alone(world: World) -> None:
    world.server.seconds = 7200.0
    attempt = world.ask()
    world.machine().send(attempt.id)
    world.server.batches["batch-1"] |= {"metadata": {"who": "somebody"}, "input_file_id": "file-of-others"}
    cancel(world.ledger, plans_named(world.ledger, "table"), batches=True)
    world.clock.sleep(400.0)
    world.machine().poll("llm")
    assert [seen for seen in world.server.seen if seen.endswith("/cancel")] == []


def test_two_plans_of_a_table_that_share_a_batch_end_together(world: World) -> None:
    attempt = world.ask()
    plan = world.ledger.plans.open(a_plan("again", SPEC.task), Origin("run", (), {}))
    fence = world.ledger.looks.snapshot(SPEC.task).fence
    assert world.ledger.looks.insert(SPEC.task, fence, plan.id, [], [attempt.id])
    plans = plans_named(world.ledger, "table")
    assert [a.id for a in cost_of(world.ledger, plans).unsent] == [attempt.id]
    assert cancel(world.ledger, plans) == 3


@pytest.mark.parametrize("batches", [False, True])
def test_an_ending_may_be_cut_off_anywhere(make_world: MakeWorld, *, batches: bool) -> None:
    last = 0
    while True:
        world = make_world()
        attempts = [world.ask(), world.ask(["four"], name="second")]
        world.machine().send(attempts[0].id)
        plans = plans_named(world.ledger, "table")
        effects = Effects(last)
        try:
            with effects.watched():
                cancel(world.ledger, plans, batches=batches)
        except Died:
            last += 1
            cancel(world.ledger, plans_named(world.ledger, "table"), batches=batches)
        assert world.ledger.plans.find(schema.plan.c.state == PlanState.OPEN) == []
        assert world.state(attempts[1]) is AttemptState.VOID
        world.finish(attempts[0])
        assert sum(world.server.bill.values()) in ({0, 3} if batches else {3})
        assert world.server.bill.get("four") is None
        if not effects.died:
            break
    assert last == 2


def test_a_lost_create_of_an_ended_plan_is_not_sent_again(world: World) -> None:
    attempt = world.ask()
    world.server.on("POST /v1/batches", request_lost)
    machine = world.machine()
    machine.send(attempt.id)
    cancel(world.ledger, plans_named(world.ledger, "table"))
    while world.state(attempt) is AttemptState.AMBIGUOUS:
        world.clock.sleep(60.0)
        machine.reconcile(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    assert world.ledger.attempts.void_unsent("plan") == len(PROMPTS)
    assert world.server.creates() == 1


@pytest.mark.parametrize("name", ["", "nowhere", "../table", "'; DROP TABLE plan; --", "ta%le", "TABLE"])
def test_a_name_of_nothing_is_told_what_waits(world: World, name: str) -> None:
    world.ask()
    with pytest.raises(InputError, match="These do: table"):
        plans_named(world.ledger, name)


def test_a_plan_of_a_dead_notebook_says_so(world: World) -> None:
    world.ledger.looks.declare(SPEC)
    dead = world.ledger.plans.open(a_plan("dead", SPEC.task, location=None, origin="r1"), Origin("r1", (), {}))
    assert "run r1, which no sensor follows" in why_it_waits(world.ledger, dead)
    far = world.ledger.plans.open(a_plan("far", SPEC.task, origin="r2"), Origin("r2", (), {}))
    assert why_it_waits(world.ledger, far) == "waits for the sensor of here to continue run r2"
    world.ledger.attempts.incident("tick", "r2", "It is broken.")
    assert why_it_waits(world.ledger, far).endswith("run r2: It is broken.")
