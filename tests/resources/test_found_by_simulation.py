"""Mistakes that tests/simulation has found, each with the story that it told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.ledger import Attempt, AttemptState
from dagster_batch_llm.resources.ledger.attempts import LEASE_SECONDS

from .fake_openai import Serve
from .world import World


def meanwhile(world: World, happens: Callable[[], None]) -> Callable[[httpx.Request, Serve], httpx.Response]:
    """A worker is stopped for longer than its lease while a reply is on its way."""

    def fault(request: httpx.Request, serve: Serve) -> httpx.Response:
        reply = serve()
        world.clock.sleep(LEASE_SECONDS + 1.0)
        happens()
        return reply

    return fault


def test_a_worker_that_slept_in_its_upload_leaves_its_successors_send_alone(world: World) -> None:
    attempt = world.ask()
    world.server.on("POST /v1/files", meanwhile(world, lambda: world.machine("successor").send(attempt.id)))
    world.machine("sleeper").send(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_batch_that_was_seen_rejected_meanwhile_is_not_looked_at(world: World) -> None:
    world.server.problem = {"code": "token_limit_exceeded", "message": "the queue is full"}
    attempt = world.ask()
    machine, successor = world.machine(), world.machine("successor")
    machine.send(attempt.id)
    before = world.now(attempt)
    world.clock.sleep(100.0)
    successor.poll("llm")
    successor.collect(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    assert machine.poll("llm", attempts=[before]) == []


def test_a_worker_that_slept_before_it_collected_a_rejected_batch_lets_it_go(world: World) -> None:
    world.server.problem = {"code": "token_limit_exceeded", "message": "the queue is full"}
    attempt = world.ask()
    sleeper, successor = world.machine("sleeper"), world.machine("successor")
    sleeper.send(attempt.id)
    world.clock.sleep(100.0)
    successor.poll("llm")
    links = sleeper.ledger.attempts.links

    def slow(*args: object, **kwargs: object) -> object:
        world.clock.sleep(LEASE_SECONDS + 1.0)
        successor.collect(attempt.id)
        sleeper.ledger.attempts.links = links
        return links(*args, **kwargs)  # pyright: ignore[reportArgumentType]

    sleeper.ledger.attempts.links = slow  # pyright: ignore[reportAttributeAccessIssue]
    sleeper.collect(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    world.server.problem = None
    world.finish(attempt)
    world.paid_once()


def test_a_sender_that_wakes_up_after_its_batch_was_rejected_does_not_bring_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 1972, random, revoke: the attempt was submitted with a batch that was none of it any more, for ever."""
    attempt = world.ask()
    world.server.problem = {"code": "token_limit_exceeded", "message": "too many"}

    machine = world.machine("sleeper")
    adopt = machine._attempts.adopt  # pyright: ignore[reportPrivateUsage]

    def slept(*args: Any, **values: Any) -> Attempt:
        world.clock.sleep(LEASE_SECONDS + 1.0)
        other = world.machine("other")
        other.reconcile(attempt.id)
        world.clock.sleep(120.0)
        other.poll("llm")
        other.collect(attempt.id)
        assert world.state(attempt) is AttemptState.PLANNED
        world.server.problem = None
        monkeypatch.undo()
        return adopt(*args, **values)

    monkeypatch.setattr(machine._attempts, "adopt", slept)  # pyright: ignore[reportPrivateUsage]
    machine.send(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    world.finish(attempt)
    world.paid_once()
