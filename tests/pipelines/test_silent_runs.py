"""A run whose machine lost its power: Dagster shows it as started for ever, and its table comes nevertheless."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.remote_origin import RegisteredCodeLocationOrigin
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.pipelines.sensor import tick
from dagster_batch_llm.resources import DuckDBTables, Ledger, LocalBatch
from dagster_batch_llm.resources.ledger import Origin

from ..resources.fake_clock import FakeClock
from ..resources.world import SPEC, a_plan

HOUR = 3600.0
EVENT_AT = 1_800_000_000.0
RUN, COLLECT = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))


@dataclass
class Place:
    """A ledger with one plan that can be brought home, and the instance of the run that made it."""

    ledger: Ledger
    clock: FakeClock
    instance: DagsterInstance
    repository: dg.RepositoryDefinition

    def requests(self) -> list[dg.RunRequest]:
        context = dg.SensorEvaluationContext(
            instance_ref=None,
            last_tick_completion_time=None,
            last_run_key=None,
            cursor=None,
            log_key=None,
            repository_name=None,
            repository_def=self.repository,
            instance=self.instance,
            code_location_origin=RegisteredCodeLocationOrigin("here"),
        )
        result = tick(context)
        assert isinstance(result, dg.SensorResult)
        return list(result.run_requests or ())

    def incidents(self) -> list[tuple[str, str]]:
        return [(kind, subject) for kind, subject, _ in self.ledger.attempts.incidents()]


@pytest.fixture
def place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    clock = FakeClock(EVENT_AT)
    ledger = Ledger(home, clock)
    monkeypatch.setattr("dagster_batch_llm.pipelines.sensor.Ledger", lambda: ledger)
    table = classify_asset(
        name="table", source="SELECT 1", row_key="id", prompt="{text}", labels=["a", "b"], llm="llm", model="m"
    )
    resources = {"llm": LocalBatch(folder=str(tmp_path / "local")), "tables": DuckDBTables(path="unused.duckdb")}
    repository = dg.Definitions(assets=[table], resources=resources).get_repository_def()
    plan = a_plan("plan", ledger.looks.declare(SPEC), llm="gone", run=RUN, origin=RUN, created_at=EVENT_AT)
    ledger.plans.open(plan, Origin(RUN, ("table",), {}))
    ledger.plans.let_go(plan.id, RUN)
    # Dagster leaves the type of `settings` open.
    with DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        made = Place(ledger, clock, instance, repository)
        started(made, RUN, {})
        yield made


def started(place: Place, run_id: str, tags: Mapping[str, str]) -> None:
    """A run that says that it has started, and nothing after that."""
    job = place.repository.get_implicit_global_asset_job_def()
    place.instance.create_run_for_job(job, run_id=run_id, tags=tags, status=DagsterRunStatus.STARTED)
    said(place.instance, run_id, place.clock.now())


def said(instance: DagsterInstance, run_id: str, at: float) -> None:
    event = dg.DagsterEvent("ENGINE_EVENT", "job", message="at work", event_specific_data=EngineEventData())
    instance.report_dagster_event(event, run_id, timestamp=at)


def test_a_started_run_that_is_silent_for_an_hour_is_said_and_after_a_day_taken_for_dead(place: Place) -> None:
    place.clock.sleep(HOUR - 1.0)
    assert (place.requests(), place.incidents()) == ([], [])
    place.clock.sleep(1.0)
    assert (place.requests(), place.incidents()) == ([], [("silent run", RUN)])
    place.clock.sleep(23 * HOUR)
    assert len(place.requests()) == 1


def test_one_that_speaks_now_and_then_is_alive(place: Place) -> None:
    for _ in range(3):
        place.clock.sleep(24 * HOUR - 1.0)
        assert place.requests() == []
        said(place.instance, RUN, place.clock.now())


def test_a_silent_collect_run_is_followed_by_another_one(place: Place) -> None:
    place.clock.sleep(24 * HOUR)
    [request] = place.requests()
    started(place, COLLECT, request.tags)
    place.clock.sleep(24 * HOUR - 1.0)
    assert place.requests() == []
    place.clock.sleep(1.0)
    assert len(place.requests()) == 1
    assert place.incidents() == [("silent run", RUN), ("silent run", COLLECT)]
