"""Ten times the rows are not one Python call more: planning, asking and collecting work on columns."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import dagster as dg
import dagster_batch_llm.assets.plan
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import Labels, Vector
from dagster_batch_llm.assets.collect import write_table
from dagster_batch_llm.assets.look import look, unfinished
from dagster_batch_llm.assets.outputs import Output
from dagster_batch_llm.assets.plan import write_plan
from dagster_batch_llm.assets.task import TaskSpec
from dagster_batch_llm.resources import BatchMachine, DuckDBTables, Ledger
from dagster_batch_llm.resources.duck import connect
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import Origin, Plan, PlanId, PlanState

from .fake_provider import FakeServer

_PACKAGE = str(Path(dagster_batch_llm.assets.plan.__file__).parent.parent)
_ROOMS = tuple(f"{_PACKAGE}/{room}/" for room in ("assets", "resources"))


def counted(work: Callable[[], None]) -> Counter[str]:
    """How often each function of the package is called, generators' steps included."""
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(_ROOMS):
            calls[f"{frame.f_code.co_filename.removeprefix(_PACKAGE)}:{frame.f_code.co_qualname}"] += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def converge(folder: Path, count: int, output: Output) -> None:
    """What a run does, without Dagster around it."""
    spec = TaskSpec.declare(
        row_key="id",
        keep=("title",),
        prompt="{title}: {text}",
        output=output,
        model="m",
        instruction=None,
        parameters={},
        partition_expr="",
    )
    ledger, home, plan = Ledger(folder), Home(folder), PlanId("plan")
    server = FakeServer(str(folder))
    provider = server.client()
    source = connect()
    texts = [f"text {n}" for n in range(count)]
    source.register("source", pa.table({"id": range(count), "title": texts, "text": texts}))
    sizes = write_plan(source, spec=spec, profile=provider.profile, home=home, plan=plan, partitions=())
    opened = ledger.plans.open(
        Plan(
            id=plan,
            state=PlanState.OPEN,
            asset="table",
            partitions=(),
            task=ledger.looks.declare(spec.request),
            llm="llm",
            spec=spec.to_json(),
            code_version="1",
            inputs={},
            origin="run",
            run="run",
            location=None,
            backfill=None,
            rows=sizes.rows,
            keys=sizes.keys,
            created_at=ledger.clock.now(),
        ),
        Origin("run", (), {}),
    )
    assert look(ledger, provider, opened, "run") == count
    machine = BatchMachine(ledger, {"llm": provider}, "run")
    (attempt,) = ledger.attempts.open_of_plan(plan)
    machine.send(attempt.id)
    machine.poll("llm", attempts=ledger.attempts.open_of_plan(plan))
    machine.collect(attempt.id)
    assert unfinished(ledger, opened) == 0
    tables = DuckDBTables(path=str(folder / "warehouse.duckdb"))
    collected = write_table(ledger, tables, dg.AssetKey("table"), opened, spec)
    assert (collected.rows, collected.statuses) == (count, {None: {"ok": count}})


@pytest.mark.parametrize("output", [Labels(["a", "b"]), Vector()], ids=["labels", "vectors"])
def test_ten_times_the_rows_are_the_same_number_of_calls(tmp_path: Path, output: Output) -> None:
    converge(tmp_path / "warm", 10, output)  # what is imported or compiled at first use is counted nowhere
    few = counted(lambda: converge(tmp_path / "few", 2_000, output))
    many = counted(lambda: converge(tmp_path / "many", 20_000, output))
    more = {name: (few[name], many[name]) for name in many if abs(many[name] - few[name]) > 2}
    assert more == {}
    assert sum(few.values()) > 100
