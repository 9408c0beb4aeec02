"""A provider that takes longer for a word than a sensor's tick can wait."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import dagster as dg
import httpx
import pytest
from dagster_batch_llm.assets.convergence import Convergence, Events
from dagster_batch_llm.assets.run import RunFacts, Waiting
from dagster_batch_llm.pipelines.continuation import can_move
from dagster_batch_llm.resources.ledger import Attempt, Plan, PlanState

from ..resources.fake_openai import Serve, reply_lost, request_lost
from ..resources.world import World
from .test_sensor import has_run, now, ticked, world

__all__ = ["now", "world"]


class _Detached(Convergence):
    """A run that the sensor has sent; it says nothing and writes no table."""

    def _how_to_wait(self) -> Waiting:
        return Waiting.DETACH

    def _announce(self, waiting: Waiting) -> None:
        pass

    def _write(self) -> Events:
        self._ledger.plans.close(self._plan.id, PlanState.DONE)
        yield from ()


def _collect(world: World, plan: Plan) -> None:
    context: Any = SimpleNamespace(log=SimpleNamespace(info=print, warning=print))
    facts = RunFacts("collect", "run", (plan.id,), "here", None, (), (), {})
    tables: Any = None
    for _ in _Detached(context, world.ledger, world.machine("collect"), tables, facts, plan).go():
        pass


def _by_ticks(world: World, *, within: float) -> None:
    """Let a tick a minute, and the runs that it would send, bring all tables."""
    plans, until = world.ledger.plans.find(), world.clock.now() + within
    while not _are_done(world, plans):
        assert world.clock.now() < until
        ticked()
        for plan in plans:
            if can_move(world.ledger, plan) and not _are_done(world, [plan]):
                _collect(world, plan)
        world.clock.sleep(60.0)


@pytest.fixture(params=[25.0])
def slow(now: World, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> World:
    """Each word of the provider comes after so many seconds, or too late."""
    seconds = request.param

    def answer(asked: httpx.Request, serve: Serve) -> httpx.Response:
        patience = asked.extensions["timeout"]["read"]
        now.clock.sleep(min(seconds, patience))
        if patience < seconds:
            raise httpx.ReadTimeout("nothing came", request=asked)
        return serve()

    monkeypatch.setattr(dg.DagsterInstance, "has_run", has_run)
    now.server.seconds = 60.0
    now.server.on("GET /v1/", answer, times=500)
    return now


@pytest.mark.parametrize("is_lost", [False, True], ids=["out", "lost"])
@pytest.mark.parametrize("batches", [1, 4], ids=["single looks", "a listing"])
def test_it_is_looked_at_by_a_run_that_has_the_time(slow: World, batches: int, is_lost: bool) -> None:
    if is_lost:
        slow.server.on("POST /v1/batches", reply_lost, times=batches)
    prompts = [f"prompt {number}" for number in range(batches)]
    attempts = [slow.ask([prompt], name=prompt) for prompt in prompts]
    for attempt in attempts:
        slow.machine().step(attempt)
    _by_ticks(slow, within=3600.0)
    slow.paid_once(prompts)


@pytest.mark.parametrize("slow", [18.0], indirect=True)
def test_that_a_listing_comes_in_time_does_not_mean_that_all_that_is_asked_does(slow: World) -> None:
    slow.server.on("POST /v1/batches", request_lost)
    slow.machine().step(slow.ask(["one"]))
    _by_ticks(slow, within=7200.0)
    slow.paid_once(["one"])


def test_no_run_is_sent_while_ticks_may_still_do_it(slow: World) -> None:
    slow.server.seconds = 1e6
    attempt = slow.ask()
    slow.machine().step(attempt)
    (plan,) = slow.ledger.plans.find()
    slow.clock.sleep(60.0)
    ticked()
    assert _slow_since(slow, attempt) == 1_800_000_060.0
    assert not can_move(slow.ledger, plan)
    slow.clock.sleep(600.0)
    ticked()
    assert can_move(slow.ledger, plan)
    _collect(slow, plan)
    assert _slow_since(slow, attempt) is None
    assert not can_move(slow.ledger, plan)


def _slow_since(world: World, attempt: Attempt) -> float | None:
    return world.now(attempt).slow_since


def _are_done(world: World, plans: list[Plan]) -> bool:
    return all(world.ledger.plans.get(plan.id).state is PlanState.DONE for plan in plans)
