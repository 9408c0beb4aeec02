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
    attempt = world.ask()
    machine = world.machine()
    world.server.on(CREATE, twice)
    machine.send(attempt.id)
    world.clock.sleep(2.0)
    machine.reconcile(attempt.id)
    extra = next(name for name in world.server.batches if name != world.now(attempt).batch_id)
    world.clock.sleep(120.0)
    world.server.tick()
    del world.server.batches[extra]
    world.finish(attempt, within=6 * DAY, step=1800.0)
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


def test_a_batch_that_the_provider_has_forgotten_is_given_up_long_after_its_window(world: World) -> None:
    attempt = world.ask()
    world.machine().send(attempt.id)
    sent_at = world.clock.now()
    world.server.batches.clear()
    world.finish(attempt, within=5 * 86400.0, step=1800.0)
    assert world.clock.now() - sent_at >= 2 * 86400.0
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"gone": 3}
