"""Our own clock is set: whatever it said before, nothing is paid twice, and nothing waits until it says so again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.ledger import Attempt, AttemptState
from dagster_batch_llm.resources.providers.http_words import date_of
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.profile import Recovery

from .effects import Died, Effects
from .fake_openai import Fault, Serve, answers, reply_lost, twice
from .test_late_arrivals import asked_anew, shown, sweep
from .test_lost_creates import IDEMPOTENT, sent
from .world import SPEC, MakeWorld, World

DAY = 86400.0
DAYS = 3 * DAY
HOURS = 8 * 3600.0


def beside_others(world: World) -> None:
    """More batches of others than fit on a page, over half an hour."""
    for _ in range(3):
        world.clock.sleep(600.0)
        for _ in range(50):
            file = world.server.store(b"")
            body: dict[str, Any] = {"input_file_id": file, "endpoint": "x", "completion_window": "24h", "metadata": {}}
            world.server._create(body)  # pyright: ignore[reportPrivateUsage]


def looked_for(world: World, attempt: Attempt, seconds: float) -> None:
    until = world.clock.now() + seconds
    while world.clock.now() < until and world.state(attempt) is AttemptState.AMBIGUOUS:
        world.machine().step(world.now(attempt))
        world.clock.sleep(600.0)


def test_what_a_dead_worker_held_goes_on_when_its_clock_is_set_back_by_days(world: World) -> None:
    world.clock.ahead = DAYS
    attempt = world.ask()
    world.machine().send(attempt.id)
    effects = Effects(last=1)  # dies with the lease
    with effects.watched(), pytest.raises(Died):
        world.machine().poll("llm", attempts=[world.now(attempt)])
    world.clock.ahead = 0.0
    world.finish(attempt, within=3600.0)
    world.paid_once()


@pytest.mark.parametrize("by_results", [False, True])
def test_a_lost_create_is_found_though_the_clock_was_days_ahead_then(make_world: MakeWorld, by_results: bool) -> None:
    world = make_world(profile=replace(OPENAI, recovery=Recovery.RESULTS) if by_results else OPENAI)
    if by_results:
        world.server.keeps_metadata = world.server.shows_files = False
    world.clock.ahead = DAYS
    attempt = sent(world)
    world.clock.ahead = 0.0
    beside_others(world)
    world.clock.sleep(DAYS + 3600.0)  # now it is as late as the sender thought it was
    looked_for(world, attempt, 2 * 3600.0)
    world.finish(attempt)
    world.paid_once()


def test_a_late_batch_is_found_though_the_clock_was_days_ahead_then(world: World) -> None:
    world.clock.ahead = DAYS
    attempt = asked_anew(world)
    world.clock.ahead = 0.0
    beside_others(world)
    assert sweep(world) == 1
    assert len(world.ledger.attempts.links(attempt.id)) == 2


def test_a_create_is_not_given_up_because_the_clock_was_set_forward(world: World) -> None:
    world.clock.ahead = -HOURS
    world.server.listing_lag = 60.0
    attempt = sent(world)
    world.clock.sleep(5.0)
    world.clock.ahead = 0.0
    world.machine().step(world.now(attempt))
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.finish(attempt)
    world.paid_once()


def test_a_create_is_not_repeated_when_the_clock_was_set_back(make_world: MakeWorld) -> None:
    world = make_world(profile=IDEMPOTENT)
    world.server.remembers = True
    world.clock.ahead = DAYS
    attempt = sent(world)
    world.clock.ahead = 0.0
    world.clock.sleep(IDEMPOTENT.remembers + 60.0)
    world.server.remembers = False  # it has forgotten
    world.finish(attempt)
    world.paid_once()


def test_a_late_batch_is_kept_though_the_clock_was_set_back_before_it_turned_up(world: World) -> None:
    world.clock.ahead = DAYS
    attempt = asked_anew(world)
    world.server.seconds = 0.0
    world.finish(attempt, within=8 * 3600.0)
    world.clock.ahead = 0.0
    assert sweep(world) == 1
    assert [link.batch_id for link in world.ledger.attempts.late("acme")] == ["batch-1"]
    assert set(shown(world).values()) == {"ok"}


def test_files_that_never_come_are_not_waited_for_when_the_clock_was_set_back(world: World) -> None:
    world.clock.ahead = DAYS
    attempt = world.ask()
    world.machine().send(attempt.id)
    world.clock.sleep(120.0)
    world.server.tick()
    world.server.batches["batch-1"]["output_file_id"] = None
    world.machine().poll("llm")
    assert world.now(attempt).ended_at
    world.clock.ahead = 0.0
    world.finish(attempt, within=3600.0)


def test_a_date_without_a_zone_is_not_of_this_machines_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        found = date_of("Wed, 25 Nov 2026 11:00:00 -0000")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == date_of("Wed, 25 Nov 2026 11:00:00 GMT") == 1795604400.0


def with_a_duplicate(world: World) -> tuple[Attempt, str]:
    """A submitted attempt with two batches, and the one of them that is too many."""
    attempt, machine = world.ask(), world.machine()
    world.server.on("POST /v1/batches", twice)
    machine.send(attempt.id)
    world.clock.sleep(2.0)
    machine.reconcile(attempt.id)
    (extra,) = set(world.server.batches) - {world.now(attempt).batch_id}
    return attempt, extra


def test_what_can_not_be_had_holds_nothing_up_for_longer_because_the_clock_was_set_back(world: World) -> None:
    world.clock.ahead = 30 * DAY
    attempt, extra = with_a_duplicate(world)
    world.clock.sleep(120.0)
    world.machine().poll("llm")
    world.server.on(f"GET /v1/batches/{extra}", answers(403), times=100_000)
    world.clock.ahead = 0.0
    world.finish(attempt, within=2 * DAY, step=3600.0)
    world.paid_once()


def test_results_that_are_gone_are_given_up_after_a_day_also_if_the_clock_was_set_back(world: World) -> None:
    world.clock.ahead = 30 * DAY
    attempt = world.ask()
    world.machine().send(attempt.id)
    world.clock.sleep(120.0)
    world.machine().poll("llm")
    world.server.files.pop(world.server.batches["batch-1"]["output_file_id"])
    world.machine().step(world.now(attempt))
    world.clock.ahead = 0.0
    world.finish(attempt, within=2 * DAY, step=3600.0)
    assert {outcome for _, outcome, _ in world.outcomes()} == {"gone"}


def test_a_duplicate_that_was_collected_is_no_late_arrival_because_the_clock_was_set_back(world: World) -> None:
    world.clock.ahead = 3 * DAY
    attempt, _ = with_a_duplicate(world)
    world.clock.ahead = 0.0
    world.clock.sleep(120.0)
    world.finish(attempt)
    assert world.ledger.attempts.late("acme") == []


def test_a_batch_that_was_turned_away_is_not_taken_for_the_new_one_because_the_clock_was_set_back(world: World) -> None:
    world.clock.ahead = 3 * DAY
    world.server.problem = {"code": "token_limit_exceeded", "message": "full"}
    attempt, machine = world.ask(), world.machine()
    machine.send(attempt.id)
    world.clock.sleep(120.0)
    machine.poll("llm")
    machine.step(world.now(attempt))
    world.server.problem, world.clock.ahead = None, 0.0
    world.clock.sleep(4000.0)
    world.machine().step(world.now(attempt))
    assert [link.batch_id for link in world.ledger.attempts.links(attempt.id)] == ["batch-2"]
    world.finish(attempt)
    world.paid_once()


def slow_by(world: World, seconds: float) -> Fault:
    """The reply comes so late that its date doesn't tell the provider's clock."""

    def reply(_: httpx.Request, serve: Serve) -> httpx.Response:
        response = serve()
        world.clock.sleep(seconds)
        return response

    return reply


def test_a_lost_create_is_found_though_a_clock_that_was_ahead_is_all_that_tells_when_it_was_sent(world: World) -> None:
    world.clock.ahead = DAYS
    world.server.on("POST /v1/files", slow_by(world, 40.0))
    world.server.on("POST /v1/batches", reply_lost)
    attempt = world.ask()
    world.machine().send(attempt.id)
    assert world.ledger.attempts.sends(attempt.id)[0].there is None
    world.clock.ahead = 0.0
    beside_others(world)
    looked_for(world, attempt, DAYS)
    world.finish(attempt)
    world.paid_once()


def test_a_slow_listing_proves_nothing_where_the_clock_may_have_been_set_forward(world: World) -> None:
    world.clock.ahead = -HOURS
    world.server.listing_lag = 120.0
    world.server.on("POST /v1/batches", reply_lost)
    attempt = world.ask()
    world.machine().send(attempt.id)
    world.clock.sleep(5.0)
    world.clock.ahead = 0.0
    world.server.on("GET /v1/batches", slow_by(world, 31.0))
    world.machine().step(world.now(attempt))
    world.finish(attempt)
    world.paid_once()


def test_failures_after_a_retry_count_though_the_clock_was_ahead_when_a_person_asked_for_it(world: World) -> None:
    world.server.answer = lambda line: {"custom_id": line["custom_id"], "error": {"code": "x", "message": "broken"}}
    world.finish(world.ask())
    world.clock.ahead = DAYS
    world.ledger.upkeep.ask_again(SPEC.task, 3)
    world.clock.ahead = 0.0
    world.finish(world.ask(name="again"))
    seen = world.ledger.looks.snapshot(SPEC.task)
    assert set(seen.answers_files) - seen.forgiven == {seen.answers_files[-1]}
