"""Our own clock is set: whatever it said before, nothing is paid twice, and nothing waits until it says so again."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from dagster_batch_llm.resources.ledger import Attempt, AttemptState
from dagster_batch_llm.resources.providers.http import _date  # pyright: ignore[reportPrivateUsage]
from dagster_batch_llm.resources.providers.profile import OPENAI, Recovery

from .effects import Died, Effects
from .test_late_arrivals import asked_anew, shown, sweep
from .test_lost_creates import IDEMPOTENT, sent
from .world import MakeWorld, World

DAYS = 3 * 86400.0
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
        found = _date("Wed, 25 Nov 2026 11:00:00 -0000")
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found == _date("Wed, 25 Nov 2026 11:00:00 GMT") == 1795604400.0
