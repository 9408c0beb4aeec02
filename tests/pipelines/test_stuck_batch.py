"""A batch past its window is said once, as a failed check of every table that waits for it, and as an incident."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import PropertyMock

import dagster as dg
import pytest
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.assets.stuck import STUCK_CHECK
from dagster_batch_llm.pipelines import sensor
from dagster_batch_llm.pipelines.sensor import tick
from dagster_batch_llm.resources import DuckDBTables, LocalBatch
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.ledger import Attempt, Origin, PlanState
from dagster_batch_llm.resources.providers.protocol import BatchProvider

from ..resources.world import SPEC, World, a_plan

DAY = 86400.0


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(home)
    world.server.seconds = 10 * DAY

    def now(clock: SystemClock) -> float:
        return world.clock.now()

    def monotonic(clock: SystemClock) -> float:
        return world.clock.monotonic()

    monkeypatch.setattr(SystemClock, "now", now)
    monkeypatch.setattr(SystemClock, "monotonic", monotonic)
    return world


@pytest.fixture
def context(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.SensorEvaluationContext]:
    """A tick in code location `here`; its one provider is the world's."""
    defs = dg.Definitions(
        assets=[
            classify_asset(
                name=name, source="SELECT 1", row_key="id", prompt="{text}", labels=["a", "b"], llm="llm", model="m"
            )
            for name in ("table", "other")
        ],
        resources={"llm": LocalBatch(), "tables": DuckDBTables(path="unused.duckdb")},
    )

    def providers_of(context: object, keys: object, *, late: bool = False) -> dict[str, BatchProvider]:
        return {"llm": world.provider()}

    def has_run(run: str) -> bool:
        return True

    monkeypatch.setattr(sensor, "providers_of", providers_of)
    origin = PropertyMock(return_value=PropertyMock(location_name="here"))
    monkeypatch.setattr(dg.SensorEvaluationContext, "code_location_origin", origin)
    # Dagster leaves the type of `settings` open.
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        monkeypatch.setattr(instance, "has_run", has_run)
        yield dg.build_sensor_context(instance=instance, repository_def=defs.get_repository_def())


def out(world: World) -> Attempt:
    attempt = world.ask()
    world.machine().send(attempt.id)
    other = world.ledger.plans.open(a_plan("other", SPEC.task, asset="other"), Origin("run", (), {}))
    fence = world.ledger.looks.snapshot(SPEC.task).fence
    assert world.ledger.looks.insert(SPEC.task, fence, other.id, [], [attempt.id])
    return world.now(attempt)


def checks(context: dg.SensorEvaluationContext) -> list[dg.AssetCheckEvaluation]:
    result = tick(context)
    assert isinstance(result, dg.SensorResult)
    return [event for event in result.asset_events if isinstance(event, dg.AssetCheckEvaluation)]


def test_a_batch_past_its_deadline_is_said_once_at_each_table(
    world: World, context: dg.SensorEvaluationContext
) -> None:
    attempt = out(world)
    world.clock.sleep(DAY)
    assert checks(context) == []
    world.clock.sleep(1000.0)
    events = checks(context)
    assert {event.asset_key.to_user_string() for event in events} == {"table", "other"}
    for event in events:
        assert (event.check_name, event.passed, event.severity) == (STUCK_CHECK, False, dg.AssetCheckSeverity.WARN)
        assert f"Batch {attempt.batch_id} of resource 'llm' should have ended by now" in (event.description or "")
        assert event.metadata["batch_llm/batch_ids"].value == [attempt.batch_id]
    [(kind, subject, message)] = world.ledger.attempts.incidents()
    assert (kind, subject) == ("stuck batch", attempt.batch_id)
    assert "cancel TABLE --batches" in message
    world.clock.sleep(DAY)
    assert checks(context) == []


def test_a_provider_that_names_no_deadline_has_its_window(world: World, context: dg.SensorEvaluationContext) -> None:
    world.profile = replace(world.profile, windows=("1h", "48h"))
    attempt = out(world)
    for job in world.server.batches.values():
        job["expires_at"] = None
    taken = world.ledger.attempts.take(attempt.id, "x")
    assert taken is not None
    world.ledger.attempts.release(taken, expires_at=None)
    world.clock.sleep(2 * DAY)
    assert checks(context) == []
    world.clock.sleep(1000.0)
    assert len(checks(context)) == 2


def test_a_batch_that_has_ended_is_not_stuck(world: World, context: dg.SensorEvaluationContext) -> None:
    world.server.seconds = 60.0
    out(world)
    world.clock.sleep(2 * DAY)
    assert checks(context) == []
    assert world.ledger.attempts.incidents() == []


def test_dagster_takes_what_the_sensor_says(world: World, context: dg.SensorEvaluationContext) -> None:
    out(world)
    world.clock.sleep(2 * DAY)
    for event in checks(context):
        context.instance.report_runless_asset_event(event)
    keys = [dg.AssetCheckKey(dg.AssetKey(name), STUCK_CHECK) for name in ("table", "other")]
    assert context.repository_def is not None
    assert set(keys) <= set(context.repository_def.asset_graph.asset_check_keys)
    records = context.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
    assert {record.status.value for record in records.values()} == {"FAILED"}


def test_what_was_never_sent_of_an_ended_plan_is_given_up_by_a_tick(
    world: World, context: dg.SensorEvaluationContext
) -> None:
    attempt = world.ask()
    world.ledger.plans.close(world.ledger.plans.find()[0].id, PlanState.FAILED)  # and then its run was killed
    tick(context)
    assert world.state(attempt).value == "void"
