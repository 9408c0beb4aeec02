"""What is not to be found at the provider: for a moment, or for good."""

from __future__ import annotations

import httpx
import pytest
from dagster_batch_llm.resources.ledger import Attempt, AttemptState

from .fake_openai import answers, changed, twice
from .world import PROMPTS, World

CREATE = "POST /v1/batches"
DAY = 86400.0


@pytest.fixture(params=["sqlite"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ended(world: World) -> Attempt:
    """An attempt whose batch is known to have ended, and nothing of it is fetched yet."""
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(120.0)
    machine.poll("llm")
    return world.now(attempt)


def with_a_duplicate(world: World) -> tuple[Attempt, str, str]:
    """An attempt of which a proxy made two batches; and their names, the survivor's first."""
    attempt = world.ask()
    machine = world.machine()
    world.server.on(CREATE, twice)
    machine.send(attempt.id)
    world.clock.sleep(2.0)
    machine.reconcile(attempt.id)
    survivor = world.now(attempt).batch_id
    assert survivor is not None
    (extra,) = set(world.server.batches) - {survivor}
    return world.now(attempt), survivor, extra


def test_a_batch_that_is_hidden_for_a_moment_long_after_its_window_goes_on(world: World) -> None:
    world.server.seconds = 80 * 3600.0
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(49 * 3600.0)
    world.server.on("GET /v1/batches/batch-1", answers(404))
    machine.poll("llm")
    world.clock.sleep(600.0)
    world.machine().step(world.now(attempt))
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.finish(attempt, within=60 * 3600.0, step=600.0)
    world.paid_once()


def test_a_batch_that_runs_again_after_it_had_ended_is_waited_for(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(20.0)
    world.server.on("GET /v1/batches/batch-1", changed(lambda job: {**job, "status": "expired"}))
    machine.poll("llm")
    world.machine().step(world.now(attempt))
    assert world.now(attempt).ended_at is None
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_duplicate_that_is_gone_does_not_hide_the_survivors_answers(world: World) -> None:
    attempt, _, extra = with_a_duplicate(world)
    world.clock.sleep(120.0)
    world.server.tick()
    del world.server.batches[extra]
    world.finish(attempt, within=6 * DAY, step=1800.0)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}


def test_one_404_of_the_survivor_beside_a_duplicate_that_is_long_gone_is_not_the_end(world: World) -> None:
    world.server.seconds = 30 * 3600.0
    attempt, _, extra = with_a_duplicate(world)
    del world.server.batches[extra]
    world.server.on("GET /v1/files/", answers(404))
    world.finish(attempt, within=6 * DAY, step=1800.0)
    world.paid_once()


@pytest.mark.parametrize("what", ["batch", "file"])
def test_a_duplicate_that_is_refused_for_ever_holds_the_survivors_answers_back_for_a_day(
    world: World, what: str
) -> None:
    attempt, _, extra = with_a_duplicate(world)
    if what == "file":  # the cancel came too late
        world.server.batches[extra] |= {"status": "completed", "output_file_id": "file-x"}
    path = {"batch": f"batches/{extra}", "file": "files/file-x"}[what]
    world.server.on(f"GET /v1/{path}", answers(403), times=1000)
    begun = world.clock.now()
    world.finish(attempt, within=3 * DAY, step=1800.0)
    assert world.clock.now() - begun > DAY
    world.paid_once()
    ((kind, subject, message),) = world.ledger.attempts.incidents()[1:]
    assert (kind, subject) == ("results gone", extra)
    assert "403" in message


def test_a_survivor_that_is_refused_is_waited_for_beside_its_duplicate(world: World) -> None:
    attempt, survivor, _ = with_a_duplicate(world)
    world.server.on(f"GET /v1/batches/{survivor}", answers(403), times=80)
    world.finish(attempt, within=6 * DAY, step=3600.0)
    world.paid_once()


def test_a_duplicate_that_is_refused_is_waited_for_when_it_alone_can_have_the_answers(world: World) -> None:
    attempt, survivor, extra = with_a_duplicate(world)
    del world.server.batches[survivor]
    world.server.batches[extra]["status"] = "in_progress"
    world.server.on(f"GET /v1/batches/{extra}", answers(403), times=100)
    world.finish(attempt, within=8 * DAY, step=3600.0)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}


def test_a_file_that_is_cut_at_a_lines_end_is_fetched_again_when_a_duplicate_is_left_out(world: World) -> None:
    attempt, survivor, extra = with_a_duplicate(world)
    world.server.on(f"GET /v1/batches/{extra}", answers(403), times=1000)
    world.clock.sleep(120.0)
    world.server.tick()
    name = world.server.batches[survivor]["output_file_id"]
    first = world.server.files[name].split(b"\n")[0] + b"\n"
    world.server.on(f"GET /v1/files/{name}", lambda request, serve: httpx.Response(200, content=first))
    world.finish(attempt, within=3 * DAY, step=1800.0)
    world.paid_once()


def test_one_404_of_a_duplicate_after_a_weekend_is_not_the_end(world: World) -> None:
    world.server.seconds = 1.0  # the duplicate has ended as well before it could be cancelled
    attempt, _, extra = with_a_duplicate(world)
    world.clock.sleep(60.0)
    world.machine().poll("llm")
    assert world.now(attempt).ended_at is not None
    world.clock.sleep(60 * 3600.0)
    world.server.on(f"GET /v1/batches/{extra}", answers(404))
    world.finish(attempt)
    assert [kind for kind, _, _ in world.ledger.attempts.incidents()] == ["duplicate"]
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}


@pytest.mark.parametrize("what", ["GET /v1/batches/batch-1", "GET /v1/files/"])
@pytest.mark.parametrize("status", [404, 410])
def test_one_404_after_a_weekend_is_not_the_end(world: World, what: str, status: int) -> None:
    attempt = ended(world)
    world.clock.sleep(60 * 3600.0)
    world.server.on(what, answers(status))
    world.machine().step(world.now(attempt))
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.finish(attempt)
    world.paid_once()
    assert world.ledger.attempts.incidents() == []


def test_a_file_that_may_not_be_read_now_is_not_given_up_because_another_is_gone(world: World) -> None:
    attempt = ended(world)
    (job,) = world.server.batches.values()
    job["error_file_id"] = "file-gone"
    world.server.on(f"GET /v1/files/{job['output_file_id']}", answers(403), times=300)
    world.finish(attempt, within=20 * DAY, step=1800.0)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}


def test_a_file_that_is_cut_at_a_lines_end_is_fetched_again_however_late_it_is_collected(world: World) -> None:
    attempt = ended(world)
    world.clock.sleep(70.0)
    (job,) = world.server.batches.values()
    first = world.server.files[job["output_file_id"]].split(b"\n")[0] + b"\n"
    world.server.on(f"GET /v1/files/{job['output_file_id']}", lambda request, serve: httpx.Response(200, content=first))
    world.machine().step(world.now(attempt))
    assert "1 of 3" in (world.now(attempt).message or "")
    world.finish(attempt)
    world.paid_once()
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"ok": 3}


def test_results_that_are_gone_end_the_wait_after_a_day_and_are_not_asked_again(world: World) -> None:
    attempt = ended(world)
    (job,) = world.server.batches.values()
    del world.server.files[job["output_file_id"]]
    ended_at = world.clock.now()
    world.finish(attempt, within=48 * 3600.0, step=1800.0)
    assert world.clock.now() - ended_at >= 24 * 3600.0
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"gone": 3}
    ((kind, subject, message),) = world.ledger.attempts.incidents()
    assert (kind, subject) == ("results gone", "batch-1")
    assert "not asked again" in message
    assert {reason for _, _, reason in world.outcomes()} == {
        "the provider had deleted the results before they were fetched"
    }


def test_what_was_fetched_before_the_rest_was_gone_is_kept(world: World) -> None:
    attempt = ended(world)
    (job,) = world.server.batches.values()
    job["error_file_id"] = "file-gone"
    world.finish(attempt, within=48 * 3600.0, step=1800.0)
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"ok": 3}
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}


def test_one_404_of_a_file_is_not_the_end_although_its_batch_had_been_hidden_for_days(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    job = world.server.batches.pop("batch-1")
    while world.now(attempt).ended_at is None:
        world.clock.sleep(3600.0)
        machine.poll("llm")
    world.server.batches["batch-1"] = job
    world.server.on("GET /v1/files/", answers(404))
    world.finish(attempt)
    world.paid_once()


def test_a_batch_that_the_provider_has_forgotten_is_given_up_long_after_its_window(world: World) -> None:
    attempt = world.ask()
    world.machine().send(attempt.id)
    sent_at = world.clock.now()
    world.server.batches.clear()
    world.finish(attempt, within=5 * 86400.0, step=1800.0)
    assert world.clock.now() - sent_at >= 2 * 86400.0
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"gone": 3}
