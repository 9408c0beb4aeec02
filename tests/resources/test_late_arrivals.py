"""A batch that nobody knows of is paid all the same: it is found, recorded, stopped, and what it answered is kept."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.answers import best_sql
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.errors import ProviderError
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.late import HORIZON_SECONDS
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, PlanState
from dagster_batch_llm.resources.machine import BatchMachine

from .effects import Died, Effects
from .fake_openai import Serve, answers, chat_answer, reply_lost
from .world import PROMPTS, SPEC, MakeWorld, World

HIDDEN = 2 * 3600.0
"""Longer than any listing lag that the protocol allows for."""


def given_up(world: World, prompts: tuple[str, ...] = PROMPTS) -> Attempt:
    """An attempt whose create took effect, but which the provider did not list for two hours."""
    attempt = world.ask(prompts)
    world.server.listing_lag = HIDDEN
    world.server.seconds = 4 * 3600.0
    world.server.on("POST /v1/batches", reply_lost)
    machine = world.machine()
    machine.step(world.now(attempt))
    while world.state(attempt) is not AttemptState.PLANNED:
        world.clock.sleep(60.0)
        machine.step(world.now(attempt))
    return world.now(attempt)


def asked_anew(world: World) -> Attempt:
    """The same, sent a second time."""
    attempt = given_up(world)
    world.machine().step(attempt)
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.clock.sleep(HIDDEN)
    world.server.listing_lag = 0.0
    return world.now(attempt)


def shown(world: World) -> dict[str, str]:
    """What a table would show: key → outcome."""
    home = Home(world.folder)
    files = [home.answers(name) for name in world.ledger.looks.snapshot(SPEC.task).answers_files]
    return dict(rows(connect(), f"SELECT key, outcome FROM ({best_sql(files)})"))


def incidents(world: World) -> list[tuple[str, str]]:
    return [(kind, subject) for kind, subject, _ in world.ledger.attempts.incidents()]


def sweep(world: World, machine: BatchMachine | None = None) -> int:
    return (machine or world.machine("sensor")).sweep("llm")


def test_a_batch_that_turns_up_before_its_requests_are_asked_again_is_used(world: World) -> None:
    attempt = given_up(world)
    world.clock.sleep(HIDDEN)
    world.server.listing_lag = 0.0
    assert sweep(world) == 1
    assert (world.state(attempt), world.now(attempt).batch_id) == (AttemptState.SUBMITTED, "batch-1")
    assert incidents(world) == [("late arrival", "batch-1")]
    assert "nothing is paid twice" in world.ledger.attempts.incidents()[0][2]
    world.server.seconds = 0.0
    world.finish(attempt, within=8 * 3600.0)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_batch_that_turns_up_beside_its_successor_is_recorded_and_stopped(world: World) -> None:
    attempt = asked_anew(world)
    assert sweep(world) == 1
    assert incidents(world) == [("late arrival", "batch-1")]
    assert "paid beside what was asked in its place" in world.ledger.attempts.incidents()[0][2]
    world.machine("sensor").poll("llm")
    assert world.server.batches["batch-1"]["status"] == "cancelled"
    assert world.now(attempt).batch_id == "batch-2"
    world.finish(attempt, within=8 * 3600.0)
    world.paid_once()
    assert sweep(world) == 0
    assert len(incidents(world)) == 1


def test_what_it_answered_is_collected_with_its_successor(world: World) -> None:
    attempt = asked_anew(world)
    world.clock.sleep(3 * 3600.0)
    world.server.tick()
    assert world.server.batches["batch-1"]["status"] == "completed"
    assert sweep(world) == 1
    world.finish(attempt, within=8 * 3600.0)
    folder = Home(world.folder).results(attempt.id, 0).parent
    assert len(list(folder.rglob("*.jsonl"))) == 2
    assert shown(world) == dict.fromkeys(PROMPTS, "ok")


def test_what_it_answered_is_kept_when_its_successor_is_through_already(world: World) -> None:
    attempt = asked_anew(world)
    world.server.listing_lag = 9 * 3600.0
    world.finish(attempt, within=8 * 3600.0)
    before = world.answers()
    world.server.listing_lag = 0.0
    assert sweep(world) == 1
    files = world.ledger.looks.snapshot(SPEC.task).answers_files
    assert len(files) == 2
    assert len(world.outcomes()) == 2 * len(PROMPTS)
    assert world.answers() == before
    assert sweep(world) == 0
    assert world.ledger.looks.snapshot(SPEC.task).answers_files == files


def late(world: World) -> dict[str, Any]:
    """A batch that ended, and turns up when its successor is through and has answered nothing well."""
    attempt = asked_anew(world)
    world.server.listing_lag = 9 * 3600.0
    world.server.batches["batch-1"]["_ready"] = world.clock.now()
    world.server.tick()
    world.server.answer = lambda line: chat_answer(line) | {"response": {"status_code": 500, "body": {}}}
    world.finish(attempt, within=8 * 3600.0)
    world.server.listing_lag = 0.0
    assert set(shown(world).values()) == {"errored"}
    return world.server.batches["batch-1"]


def test_files_that_trail_its_end_are_waited_for(world: World) -> None:
    job = late(world)
    name = job.pop("output_file_id")
    sweep(world)
    assert set(shown(world).values()) == {"errored"}
    job["output_file_id"] = name
    sweep(world)
    assert shown(world) == dict.fromkeys(PROMPTS, "ok")


def test_files_that_never_come_are_waited_for_as_long_as_its_create_is_looked_for(world: World) -> None:
    job = late(world)
    job.pop("output_file_id")
    sweep(world)
    world.clock.sleep(HORIZON_SECONDS)
    sweep(world)
    assert len(world.ledger.looks.snapshot(SPEC.task).answers_files) == 2
    assert set(shown(world).values()) == {"errored"}


def test_a_file_that_was_cut_at_the_end_of_a_line_is_fetched_anew(world: World) -> None:
    name = late(world)["output_file_id"]

    def cut(request: httpx.Request, serve: Serve) -> httpx.Response:
        return httpx.Response(200, content=serve().content.splitlines(keepends=True)[0])

    world.server.on(f"GET /v1/files/{name}/content", cut)
    sweep(world)
    assert shown(world) == dict.fromkeys(PROMPTS, "ok")


def test_one_that_still_runs_is_kept_once_it_has_ended(world: World) -> None:
    attempt = asked_anew(world)
    world.server.listing_lag = 9 * 3600.0
    world.server.batches["batch-1"]["_ready"] += 1e6
    world.finish(attempt, within=8 * 3600.0)
    world.server.listing_lag = 0.0

    def refused(request: httpx.Request, serve: Serve) -> httpx.Response:
        return httpx.Response(503, json={"error": {"message": "later"}})

    world.server.on("POST /v1/batches/batch-1/cancel", refused, times=2)
    machine = world.machine("sensor")
    sweep(world, machine)
    assert len(world.ledger.looks.snapshot(SPEC.task).answers_files) == 1
    sweep(world, machine)
    assert world.server.batches["batch-1"]["status"] == "cancelled"
    sweep(world, machine)
    # It was cancelled before any of its rows ran: nothing is known of them, so nothing is said of them.
    assert len(world.outcomes()) == len(PROMPTS)
    assert shown(world) == dict.fromkeys(PROMPTS, "ok")


def given_up_and_cancelled(world: World) -> None:
    """Nobody wants what its create makes, and now it is listed."""
    attempt = given_up(world)
    world.ledger.plans.close(world.ledger.plans.find()[0].id, PlanState.CANCELLED)
    world.ledger.attempts.void_unsent(attempt.plan)
    assert world.state(attempt) is AttemptState.VOID
    world.clock.sleep(6 * 3600.0)
    world.server.listing_lag = 0.0


def test_a_plan_that_was_cancelled_meanwhile_leaves_paid_answers_to_the_next_one(world: World) -> None:
    given_up_and_cancelled(world)
    assert sweep(world) == 1
    assert incidents(world) == [("late arrival", "batch-1")]
    world.paid_once()


def repeated(request: httpx.Request, serve: Serve) -> httpx.Response:
    """A proxy sends the request twice and hands on the second reply."""
    serve()
    return serve()


@pytest.mark.parametrize("closed", [False, True], ids=["while it runs", "when it is through"])
def test_a_create_that_a_proxy_repeated_is_seen_although_its_reply_arrived(world: World, closed: bool) -> None:
    attempt = world.ask()
    world.server.on("POST /v1/batches", repeated)
    world.machine().step(world.now(attempt))
    assert world.now(attempt).batch_id == "batch-2"
    if closed:
        world.finish(attempt)
    assert sweep(world) == 1
    [(kind, subject, message)] = world.ledger.attempts.incidents()
    assert (kind, subject) == ("duplicate", "batch-1")
    assert "the same create as batch-2" in message
    world.finish(attempt)
    assert shown(world) == dict.fromkeys(PROMPTS, "ok")
    assert world.server.creates() == 1


def test_two_late_batches_of_one_attempt_are_both_kept(world: World) -> None:
    def thrice(request: httpx.Request, serve: Serve) -> httpx.Response:
        serve()
        return repeated(request, serve)

    attempt = world.ask()
    world.server.on("POST /v1/batches", thrice)
    world.machine().step(world.now(attempt))
    world.finish(attempt)
    assert sweep(world) == 2
    assert len(world.ledger.looks.snapshot(SPEC.task).answers_files) == 3


def test_a_sender_that_slept_hands_on_what_it_learnt(world: World) -> None:
    attempt = world.ask()

    def sleeps(request: httpx.Request, serve: Serve) -> httpx.Response:
        """The reply is on its way while the process sleeps, and another one gives the create up."""
        response = serve()
        world.server.listing_lag = 1e9
        other = world.machine("other")
        while world.state(attempt) is not AttemptState.PLANNED:
            world.clock.sleep(60.0)
            try:
                other.step(world.now(attempt))
            except ProviderError:
                continue
        return response

    world.server.on("POST /v1/batches", sleeps)
    world.machine().step(world.now(attempt))
    assert (world.state(attempt), world.now(attempt).batch_id) == (AttemptState.SUBMITTED, "batch-1")
    world.server.listing_lag = 0.0
    world.finish(attempt)
    world.paid_once()


def test_nothing_is_asked_of_a_provider_to_which_nothing_was_sent_lately(world: World) -> None:
    attempt = world.ask()
    assert sweep(world) == 0
    assert world.server.seen == []
    world.finish(attempt)
    world.clock.sleep(HORIZON_SECONDS)
    seen = len(world.server.seen)
    assert sweep(world) == 0
    assert len(world.server.seen) == seen


def test_a_batch_of_another_application_is_no_late_arrival(world: World) -> None:
    attempt = world.ask()
    world.finish(attempt)
    foreign = {**world.server.batches["batch-1"], "id": "theirs", "metadata": {"app": "x"}, "input_file_id": "file-9"}
    world.server.batches["theirs"] = {**foreign, "status": "in_progress", "_ready": 1e12}
    assert sweep(world) == 0
    assert world.server.batches["theirs"]["status"] == "in_progress"
    assert incidents(world) == []


def test_a_create_that_is_being_looked_for_is_left_to_that(world: World) -> None:
    attempt = world.ask()
    world.server.on("POST /v1/batches", reply_lost)
    world.machine().step(world.now(attempt))
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    assert sweep(world) == 0
    assert incidents(world) == []


def test_a_worker_may_die_before_any_effect_of_a_sweep(make_world: MakeWorld, tmp_path: Path) -> None:
    def effects(last: int | None) -> Effects:
        world = make_world()
        attempt = asked_anew(world)
        world.server.listing_lag = 9 * 3600.0
        world.finish(attempt, within=8 * 3600.0)
        world.server.listing_lag = 0.0
        watched = Effects(last)
        try:
            with watched.watched():
                sweep(world)
        except Died:
            sweep(world)
        assert [kind for kind, _ in incidents(world)] == ["late arrival"]
        assert len(world.ledger.looks.snapshot(SPEC.task).answers_files) == 2
        assert shown(world) == dict.fromkeys(PROMPTS, "ok")
        return watched

    whole = effects(None)
    assert len(whole.done) > 5
    for number in range(len(whole.done)):
        assert effects(number).died


def test_a_duplicate_that_runs_is_not_cancelled_beside_a_survivor_that_a_full_queue_turned_away(world: World) -> None:
    world.server.seconds = 3600.0
    attempt = world.ask()
    world.server.on("POST /v1/batches", repeated)
    world.machine().send(attempt.id)
    (survivor,) = {world.now(attempt).batch_id}
    problem = {"code": "token_limit_exceeded", "message": "the first one fills the queue"}
    world.server.batches[str(survivor)] |= {"status": "failed", "errors": {"data": [problem]}}
    assert sweep(world) == 1
    world.finish(attempt, within=8 * 3600.0)
    assert world.server.creates() == 1
    world.paid_once()


@pytest.mark.parametrize("then", [404, 403])
def test_what_came_of_a_file_is_kept_where_it_can_not_be_fetched_once_more(world: World, then: int) -> None:
    name = late(world)["output_file_id"]
    world.server.files[name] = world.server.files[name].splitlines(keepends=True)[0]
    world.server.on(f"GET /v1/files/{name}/content", lambda _, serve: serve())
    world.server.on(f"GET /v1/files/{name}/content", answers(then), times=1000)
    for _ in range(50):
        with suppress(ProviderError):
            sweep(world)
        world.clock.sleep(3600.0)
    assert Counter(shown(world).values()) == {"ok": 1, "errored": 2}


def test_a_file_that_is_short_for_a_while_is_fetched_until_it_is_whole(world: World) -> None:
    name = late(world)["output_file_id"]
    whole = world.server.files[name]
    world.server.files[name] = whole.splitlines(keepends=True)[0]
    sweep(world)
    world.server.files[name] = whole
    world.clock.sleep(600.0)
    sweep(world)
    assert shown(world) == dict.fromkeys(PROMPTS, "ok")


def test_of_two_files_of_which_one_is_gone_the_other_one_is_kept(world: World) -> None:
    job = late(world)
    job |= {"error_file_id": "gone", "request_counts": {"total": 4, "completed": 3, "failed": 1}}
    for _ in range(50):
        with suppress(ProviderError):
            sweep(world)
        world.clock.sleep(3600.0)
    assert shown(world) == dict.fromkeys(PROMPTS, "ok")
