"""A lost create, and a key that by now belongs to another organisation or project under the same address."""

from __future__ import annotations

import pytest
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, PlanId

from .fake_openai import FakeOpenAI, answers, reply_lost, request_lost
from .world import PROMPTS, World

CREATE = "POST /v1/batches"


@pytest.fixture(params=["sqlite"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lost(world: World) -> Attempt:
    """Its create's reply was lost, and its account has another key since; hours have gone by."""
    attempt = world.ask()
    machine = world.machine()
    world.server.on(CREATE, reply_lost)
    machine.send(attempt.id)
    world.server.other = FakeOpenAI(world.clock)
    for _ in range(30):
        world.clock.sleep(400.0)
        machine.step(world.now(attempt))
    return attempt


def test_an_account_that_does_not_have_our_file_proves_no_absence(world: World, lost: Attempt) -> None:
    assert world.state(lost) is AttemptState.AMBIGUOUS
    assert "another organisation" in (world.now(lost).message or "")
    assert [(kind, subject) for kind, subject, _ in world.ledger.attempts.incidents()] == [("another account", lost.id)]
    world.server.other = None
    world.finish(lost)
    world.paid_once()
    assert world.server.creates() == 1
    assert world.now(lost).message is None


def test_who_ends_it_by_hand_is_believed_and_nothing_is_asked(world: World, lost: Attempt) -> None:
    assert world.ledger.upkeep.end(PlanId(lost.plan), "ended by hand", batches=True) == 0
    world.clock.sleep(400.0)
    world.machine().step(world.now(lost))
    assert [plan.id for plan in world.ledger.plans.with_work("here")] == [lost.plan]  # so the sensor comes by
    assert world.ledger.attempts.void_unsent(lost.plan) == len(PROMPTS)
    assert world.ledger.plans.with_work("here") == []
    assert world.server.other is not None
    assert world.server.other.creates() == 0
    assert world.server.creates() == 1


@pytest.mark.parametrize("status", [403, 500])
def test_a_look_for_our_file_that_fails_is_repeated_before_anything_is_asked(world: World, status: int) -> None:
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    world.server.on("GET /v1/files/", answers(status), times=5)
    world.machine().send(attempt.id)
    world.finish(attempt)
    world.paid_once()
    looks = [n for n, what in enumerate(world.server.seen) if what == "GET /v1/files/file-1"]
    creates = [n for n, what in enumerate(world.server.seen) if what == CREATE]
    assert len(looks) == 6
    assert creates[0] < looks[0] < looks[-1] < creates[1]


def test_a_server_that_does_not_know_the_route_is_not_taken_for_one_that_has_lost_the_file(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    world.server.on("GET /v1/files/", answers(404, "Not Found"), times=3)
    world.machine().send(attempt.id)
    world.finish(attempt)
    world.paid_once()
    assert world.ledger.attempts.incidents() == []


@pytest.mark.usefixtures("lost")
def test_a_file_is_uploaded_once_to_find_out_whether_an_account_shows_its_files_and_is_deleted(world: World) -> None:
    assert world.server.other is not None
    seen = world.server.other.seen
    assert (seen.count("POST /v1/files"), seen.count("DELETE /v1/files/file-1")) == (1, 1)
    assert world.server.other.files == {}
    assert seen.count("GET /v1/files/file-1") > 5
