"""How much may be under way at a provider: counted over all tables, through the ledger."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dagster_batch_llm.resources.errors import UserError
from dagster_batch_llm.resources.ledger import Attempt, AttemptState
from dagster_batch_llm.resources.operations.waits import expiring
from dagster_batch_llm.resources.providers.openai import OPENAI, OpenAIBatch
from dagster_batch_llm.resources.render import cut
from dagster_batch_llm.resources.request import Operation, RequestSpec

from .fake_openai import reply_lost
from .world import MakeWorld, World

HOUR = 3600.0


def ask(world: World, name: str, *, model: str = "m", tokens: int = 100) -> Attempt:
    """A planned attempt of a table of its own."""
    world.spec = RequestSpec(operation=Operation.CHAT, model=model, instruction=name)
    return world.ask([name], name=name, size=4 * tokens)


def sent(world: World, *attempts: Attempt) -> list[bool]:
    """Which of them leave when all are due."""
    for attempt in attempts:
        world.machine().send(attempt.id)
    return [world.state(attempt) is AttemptState.SUBMITTED for attempt in attempts]


def test_no_more_batches_are_under_way_than_the_account_may_have(make_world: MakeWorld) -> None:
    world = make_world(profile=replace(OPENAI, max_open=2))
    attempts = [ask(world, name) for name in ("a", "b", "c")]
    assert sent(world, *attempts) == [True, True, False]
    waiting = world.now(attempts[2])
    assert "takes 2 batches at once, and 2 are under way" in str(waiting.message)
    assert waiting.due > world.clock.now()
    for attempt in attempts:
        world.finish(attempt)
    assert world.server.bill == {"a": 1, "b": 1, "c": 1}


def test_an_ended_batch_makes_room_before_it_is_collected(make_world: MakeWorld) -> None:
    world = make_world(profile=replace(OPENAI, max_open=1))
    first, second = ask(world, "a"), ask(world, "b")
    assert sent(world, first, second) == [True, False]
    world.clock.sleep(HOUR)
    world.machine().poll("llm")
    assert sent(world, second) == [True]


def test_the_tokens_of_all_tables_that_ask_one_model_count_together(make_world: MakeWorld) -> None:
    world = make_world(profile=replace(OPENAI, max_queued_tokens=250))
    attempts = [ask(world, name) for name in ("a", "b", "c")]
    other = ask(world, "d", model="another")
    assert sent(world, *attempts, other) == [True, True, False, True]
    assert "takes 250 tokens of m at once; about 200 are under way" in str(world.now(attempts[2]).message)


def test_a_batch_that_is_larger_than_all_the_room_goes_alone(make_world: MakeWorld) -> None:
    world = make_world(profile=replace(OPENAI, max_queued_tokens=250))
    large, small = ask(world, "a", tokens=900), ask(world, "b")
    assert sent(world, large, small) == [True, False]


def test_a_create_of_unknown_outcome_takes_room(make_world: MakeWorld) -> None:
    world = make_world(profile=replace(OPENAI, max_open=1))
    first, second = ask(world, "a"), ask(world, "b")
    world.server.on("POST /v1/batches", reply_lost)
    world.machine().send(first.id)
    assert world.state(first) is AttemptState.AMBIGUOUS
    assert sent(world, second) == [False]


def test_a_batch_is_cut_to_what_the_queue_takes() -> None:
    profile = OpenAIBatch(api_key="k", max_queued_tokens=50, max_open_batches=3).limited(OPENAI)
    assert (profile.max_bytes, profile.max_queued_tokens, profile.max_open) == (200, 50, 3)
    assert cut(np.asarray([90, 90, 90], dtype=np.int64), profile) == [(0, 2), (2, 3)]


@pytest.mark.parametrize("name", ["max_rows_per_batch", "max_open_batches", "max_queued_tokens"])
def test_a_limit_below_one_is_a_mistake(name: str) -> None:
    limits: Any = {name: 0}
    llm = OpenAIBatch(api_key="k", **limits)
    with pytest.raises(UserError, match=f"openai: {name} is 0; it is at least 1"):
        llm.limited(OPENAI)


def test_results_that_are_not_fetched_are_told_of_before_they_are_deleted(make_world: MakeWorld) -> None:
    world = make_world()
    attempt = ask(world, "a")
    sent(world, attempt)
    world.clock.sleep(HOUR)
    world.machine().poll("llm")
    ended = world.now(attempt)
    assert ended.ended_at is not None
    began, keeps = world.clock.now(), 30 * 86_400.0
    assert expiring([ended], began + 26 * 86_400.0, keeps) == []
    assert expiring([ended], began + 28 * 86_400.0, keeps) == [ended]
    assert expiring([ended], began + 28 * 86_400.0, None) == []
