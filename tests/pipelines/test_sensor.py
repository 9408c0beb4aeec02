"""One tick of the sensor, without a daemon."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin
from dagster_batch_llm.pipelines.cli.screens import Line, lines
from dagster_batch_llm.pipelines.sensor import tick
from dagster_batch_llm.resources import LocalBatch
from dagster_batch_llm.resources.ledger import PlanState
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers.protocol import BatchProvider
from dagster_batch_llm.resources.providers.resource import BatchResource

from ..resources.fake_openai import Serve, answers
from ..resources.test_late_arrivals import repeated
from ..resources.world import World

WORLDS: dict[str, World] = {}


class FakeBatch(BatchResource):
    """A provider that Dagster can build anew for every tick."""

    world: str

    def provider(self) -> BatchProvider:
        return WORLDS[self.world].provider()


@pytest.fixture
def world(home: Path) -> Iterator[World]:
    made = WORLDS["world"] = World(home)
    yield made
    del WORLDS["world"]


def ticked(cursor: str | None = None, **resources: BatchResource) -> dg.SensorResult:
    definitions = dg.Definitions(resources=resources or {"llm": FakeBatch(world="world")})
    # Dagster leaves the type of `settings` open.
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        context = dg.SensorEvaluationContext(
            instance_ref=None,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=cursor,
            log_key=None,
            repository_name=None,
            repository_def=definitions.get_repository_def(),
            instance=instance,
            code_location_origin=RegisteredCodeLocationOrigin("here"),
        )
        result = tick(context)
    assert isinstance(result, dg.SensorResult)
    return result


def a_table_came_in_and_a_proxy_made_a_second_batch(world: World) -> None:
    attempt = world.ask()
    world.server.on("POST /v1/batches", repeated)
    world.machine().step(world.now(attempt))
    world.finish(attempt)
    world.ledger.plans.close(world.ledger.plans.find()[0].id, PlanState.DONE)


@pytest.fixture
def now(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The tick's ledger has the world's clock."""
    monkeypatch.setattr("dagster_batch_llm.pipelines.sensor.Ledger", lambda: world.ledger)
    return world


def test_late_arrivals_are_looked_for_although_no_table_waits(now: World) -> None:
    a_table_came_in_and_a_proxy_made_a_second_batch(now)
    result = ticked()
    assert result.skip_reason is not None
    assert [(kind, subject) for kind, subject, _ in now.ledger.attempts.incidents()] == [("duplicate", "batch-1")]
    assert json.loads(result.cursor or "") == {"llm": now.clock.now()}


def test_they_are_looked_for_every_ten_minutes_for_two_days(now: World) -> None:
    a_table_came_in_and_a_proxy_made_a_second_batch(now)
    cursor = ticked().cursor
    seen = len(now.server.seen)
    now.clock.sleep(599.0)
    cursor = ticked(cursor).cursor
    assert len(now.server.seen) == seen
    now.clock.sleep(1.0)
    cursor = ticked(cursor).cursor
    assert now.server.seen[seen:] == ["GET /v1/batches"]
    now.clock.sleep(48 * 3600.0)
    assert json.loads(ticked(cursor).cursor or "") == {}
    assert len(now.server.seen) == seen + 1


def test_they_are_looked_for_again_when_the_clock_was_set_back(now: World) -> None:
    a_table_came_in_and_a_proxy_made_a_second_batch(now)
    ticked(json.dumps({"llm": now.clock.now() + 3 * 86400.0}))
    assert now.ledger.attempts.incidents()


def test_a_local_server_is_not_started_for_it(now: World, tmp_path: Path) -> None:
    a_table_came_in_and_a_proxy_made_a_second_batch(now)
    ticked(llm=LocalBatch(folder=str(tmp_path / "local")))
    assert not (tmp_path / "local").exists()


def test_a_provider_that_is_down_does_not_stop_a_tick(now: World) -> None:
    a_table_came_in_and_a_proxy_made_a_second_batch(now)
    now.server.on("GET /v1/batches", answers(403, "no access"))
    result = ticked()
    assert result.skip_reason is not None
    assert now.ledger.attempts.incidents() == []
    assert json.loads(result.cursor or "") == {"llm": now.clock.now()}


def test_of_many_batches_those_that_a_tick_does_not_reach_are_the_next_ones_first(
    now: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dg.DagsterInstance, "has_run", has_run)
    now.server.seconds = 1e6
    attempts = [now.ask([f"prompt {number}"], name=f"p{number}") for number in range(12)]
    for attempt in attempts:
        now.machine().step(now.now(attempt))

    def slow(request: httpx.Request, serve: Serve) -> httpx.Response:
        if request.url.path.endswith("/batches"):
            return httpx.Response(403, json={"error": {"message": "no listing"}})
        now.clock.sleep(10.0)  # a tick has 30 s
        return serve()

    now.server.on("GET /v1/batches", slow, times=500)
    cursor, reached = None, Counter[int]()
    now.clock.sleep(600.0)
    for _ in range(8):
        seen = len(now.server.seen)
        cursor = ticked(cursor).cursor
        looks = [what for what in now.server.seen[seen:] if what.startswith("GET /v1/batches/")]
        assert 0 < len(looks) <= 3
        reached.update(int(what.rpartition("-")[2]) for what in looks)
        now.clock.sleep(300.0)  # all are due again: the first ones must not be looked at for ever
    assert set(reached) == set(range(1, 13))
    assert max(reached.values()) - min(reached.values()) <= 1


def test_a_provider_that_hangs_takes_nothing_from_the_others_and_no_tick(
    now: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dg.DagsterInstance, "has_run", has_run)
    other = World(tmp_path / "other", now.clock)
    monkeypatch.setitem(WORLDS, "other", other)
    now.server.seconds = other.server.seconds = 1e6
    answered = now.ask(["x"], name="answered")
    now.machine().step(answered)
    hanging = BatchMachine(now.ledger, {"hangs": other.provider()}, "run")
    for number in range(12):
        hanging.step(now.ask([f"prompt {number}"], name=f"p{number}", llm="hangs"))

    def hang(request: httpx.Request, _: Serve) -> httpx.Response:
        now.clock.sleep(request.extensions["timeout"]["read"])
        raise httpx.ReadTimeout("nothing came", request=request)

    other.server.on("GET /v1/", hang, times=500)
    now.clock.sleep(900.0)
    began, cursor = now.clock.now(), None
    for _ in range(3):
        began = now.clock.now()
        cursor = ticked(cursor, llm=FakeBatch(world="world"), hangs=FakeBatch(world="other")).cursor
        assert now.clock.now() - began < 50.0
        assert now.now(answered).due > began  # it was looked at, late in the alphabet as it is
        now.clock.sleep(900.0)


def test_a_listing_that_takes_too_long_leaves_time_for_single_looks(
    now: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dg.DagsterInstance, "has_run", has_run)
    now.server.seconds = 60.0
    attempts = [now.ask([f"prompt {number}"], name=f"p{number}") for number in range(5)]
    for attempt in attempts:
        now.machine().step(now.now(attempt))

    def slowly(request: httpx.Request, serve: Serve) -> httpx.Response:
        if request.url.path.endswith("/batches"):
            now.clock.sleep(request.extensions["timeout"]["read"])
            raise httpx.ReadTimeout("nothing came", request=request)
        return serve()

    now.server.on("GET /v1/batches", slowly, times=500)
    now.clock.sleep(600.0)
    ticked()
    assert all(now.now(attempt).ended_at for attempt in attempts)


def test_a_key_that_is_revoked_while_a_batch_is_out_is_said_once_and_shown(
    now: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(dg.DagsterInstance, "has_run", has_run)
    monkeypatch.setattr(dg.SensorEvaluationContext, "log", logging.getLogger("tick"))
    now.server.seconds = 86400.0
    now.machine().step(now.ask())
    for words in ("the key was revoked", "the key was revoked", "the account is closed"):
        now.clock.sleep(3600.0)
        now.server.on("GET /v1/batches/batch-1", answers(401, words))
        ticked()
        assert f"submitted (queued): openai: GET /v1/batches/batch-1 was answered 401: '{words}'" in line_of(now).state
    said = [record.getMessage() for record in caplog.records if "401" in record.getMessage()]
    assert ["revoked" in words for words in said] == [True, False]
    assert all("It will be tried again." in words for words in said)


def line_of(world: World) -> Line:
    (line,) = lines(world.ledger)
    return line


def has_run(instance: dg.DagsterInstance, run: str) -> bool:
    return True
