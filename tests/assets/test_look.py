"""However many look at a task at once, and wherever they are killed, every key is taken exactly once."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import Labels, classify_asset
from dagster_batch_llm.assets import look as look_module
from dagster_batch_llm.assets.look import look, unfinished
from dagster_batch_llm.assets.plan import write_plan
from dagster_batch_llm.assets.task import TaskSpec
from dagster_batch_llm.resources import Ledger, StorageError
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.duck import connect, rows, write_parquet
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, Origin, Plan, PlanId, PlanState

from . import looker
from .conftest import House, failure, rows_asset
from .looker import FastClock, provider

SPEC = TaskSpec.declare(
    row_key="id",
    keep=(),
    prompt="{text}",
    output=Labels(["a", "b"]),
    model="m",
    instruction=None,
    parameters={},
    partition_expr="",
)


def planned(ledger: Ledger, numbers: Sequence[int], name: str = "") -> Plan:
    """A plan for these rows; equal numbers are equal requests."""
    plan = PlanId(name or ledger.clock.token())
    engine = connect()
    engine.register("source", pa.table({"id": numbers, "text": [str(n) for n in numbers]}))
    home, profile = Home(ledger.home), provider().profile
    sizes = write_plan(engine, spec=SPEC, profile=profile, home=home, plan=plan, partitions=())
    task = ledger.looks.declare(SPEC.request)
    return ledger.plans.open(
        Plan(
            id=plan,
            state=PlanState.OPEN,
            asset=f"asset-{plan}",
            partitions=(),
            task=task,
            llm="llm",
            spec=SPEC.to_json(),
            code_version="1",
            inputs={},
            origin="run",
            run=f"run-{plan}",
            location=None,
            backfill=None,
            rows=sizes.rows,
            keys=sizes.keys,
            created_at=ledger.clock.now(),
        ),
        Origin("run", (), {}),
    )


def keys_of(ledger: Ledger, attempts: Sequence[Attempt]) -> list[str]:
    """All keys of these attempts, as often as they are in one."""
    home, engine = Home(ledger.home), connect()
    found: list[str] = []
    for attempt in attempts:
        keys = engine.execute(
            "SELECT row, key FROM read_parquet($1) ORDER BY row", [str(home.manifest(attempt.manifest))]
        )
        held = keys.fetchall()
        assert [row for row, _ in held] == list(range(attempt.rows))
        found += [key for _, key in held]
    return found


def wanted(ledger: Ledger, plan: Plan) -> set[str]:
    return {key for (key,) in rows(connect(), f"SELECT key FROM '{Home(ledger.home).requests(plan.id)}'")}


def check_taken_once(ledger: Ledger, plans: Sequence[Plan]) -> None:
    taken = keys_of(ledger, ledger.attempts.find())
    assert len(taken) == len(set(taken)), "a key is in two attempts"
    assert set(taken) == set[str]().union(*(wanted(ledger, plan) for plan in plans)), "a key was not taken"
    for plan in plans:
        waits = set(keys_of(ledger, ledger.attempts.open_of_plan(plan.id)))
        assert wanted(ledger, plan) <= waits, "a plan doesn't wait for one of its keys"
    assert sum(plan.asked for plan in ledger.plans.find()) == len(taken)


def test_a_look_takes_what_nobody_has_and_a_second_one_nothing(home: Path) -> None:
    ledger = Ledger(home)
    plan = planned(ledger, range(100))
    assert look(ledger, provider(), plan, "r") == 100
    assert look(ledger, provider(), plan, "r") == 0
    assert [attempt.rows for attempt in ledger.attempts.open_of_plan(plan.id)] == [37, 37, 26]
    check_taken_once(ledger, [plan])
    assert unfinished(ledger, plan) == 100


def test_a_plan_waits_for_the_attempts_of_another_plan_that_hold_its_keys(home: Path) -> None:
    ledger = Ledger(home)
    first, second, apart = planned(ledger, range(50)), planned(ledger, range(40, 60)), planned(ledger, [99])
    assert [look(ledger, provider(), plan, plan.run) for plan in (first, second, apart)] == [50, 10, 1]
    check_taken_once(ledger, [first, second, apart])
    held = {attempt.plan for attempt in ledger.attempts.open_of_plan(second.id)}
    assert held == {first.id, second.id}
    assert {attempt.plan for attempt in ledger.attempts.open_of_plan(apart.id)} == {apart.id}


def test_a_given_up_attempt_leaves_its_keys_to_the_next_look(home: Path) -> None:
    ledger = Ledger(home)
    first, second = planned(ledger, range(50)), planned(ledger, range(50))
    look(ledger, provider(), first, "r1")
    ledger.plans.close(first.id, PlanState.CANCELLED)
    assert ledger.attempts.void_unsent(first.id) == 50
    assert look(ledger, provider(), second, "r2") == 50
    assert {attempt.state for attempt in ledger.attempts.find()} == {AttemptState.VOID, AttemptState.PLANNED}


def test_a_look_that_lost_the_race_looks_again_and_leaves_no_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, rival = Ledger(home), Ledger(home)
    mine, theirs = planned(ledger, range(50)), planned(ledger, range(25, 75))
    insert = ledger.looks.insert

    def late(*arguments: Any) -> bool:
        monkeypatch.setattr(ledger.looks, "insert", insert)
        rival.looks.release(mine.task, "mine")
        assert look(rival, provider(), theirs, "theirs") == 50
        return insert(*arguments)

    monkeypatch.setattr(ledger.looks, "insert", late)
    assert look(ledger, provider(), mine, "mine") == 25
    check_taken_once(ledger, [mine, theirs])
    named = {attempt.manifest for attempt in ledger.attempts.find()}
    assert {path.name for path in (home / "manifests").iterdir()} == named


class StepClock(SystemClock):
    """Time that passes only while somebody sleeps."""

    passed = 0.0

    def now(self) -> float:
        return 1_700_000_000.0 + self.passed

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


def test_a_look_at_a_plan_that_ends_meanwhile_takes_nothing_and_leaves_no_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by tests/simulation: what a cancelled plan had not sent was asked and paid after all."""
    ledger = Ledger(home, FastClock())
    plan = planned(ledger, range(50))
    write = look_module.write_parquet

    def cancelled(*args: Any) -> None:
        write(*args)
        ledger.plans.close(plan.id, PlanState.CANCELLED)

    monkeypatch.setattr(look_module, "write_parquet", cancelled)
    assert look(ledger, provider(), plan, "run") == 0
    assert ledger.attempts.find() == []
    assert list((home / "manifests").iterdir()) == []
    assert ledger.looks.take(plan.task, "another")


def test_a_lease_that_a_dead_looker_left_is_waited_out(home: Path) -> None:
    ledger = Ledger(home, StepClock())
    plan = planned(ledger, range(5))
    assert ledger.looks.take(plan.task, "dead")
    assert look(ledger, provider(), plan, "alive") == 5


def test_a_lease_that_is_taken_again_and_again_ends_in_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(home, StepClock())
    plan = planned(ledger, range(5))

    def never(*_: Any) -> bool:
        return False

    monkeypatch.setattr(ledger.looks, "take", never)
    with pytest.raises(StorageError, match="never had its turn"):
        look(ledger, provider(), plan, "patient")


@pytest.mark.parametrize("seed", range(5))
def test_threads_that_look_at_once_take_every_key_once(home: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(look_module, "_PATIENCE", float("inf"))
    dice = random.Random(seed)
    clock = FastClock()
    ledger = Ledger(home, clock)
    plans = [planned(ledger, dice.sample(range(300), 150)) for _ in range(4)]
    start = threading.Barrier(len(plans))

    def one(plan: Plan) -> int:
        own = Ledger(home, clock)
        start.wait()
        return look(own, provider(), plan, plan.run)

    with ThreadPoolExecutor(len(plans)) as pool:
        taken = list(pool.map(one, plans))
    check_taken_once(ledger, plans)
    assert sum(taken) == len(set[str]().union(*(wanted(ledger, plan) for plan in plans)))


@pytest.mark.parametrize("probability", [0.0, 0.15])
def test_processes_that_look_at_once_and_are_killed_take_every_key_once(home: Path, probability: float) -> None:
    dice = random.Random(probability)
    ledger = Ledger(home, FastClock())
    plans = [planned(ledger, dice.sample(range(400), 150)) for _ in range(6)]
    names = [plan.id for plan in plans]
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(looker.__file__)), str(home), seed, str(probability), *order],
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed, order in (("1", names), ("2", names[::-1]))
    ]
    while len(list(home.glob("ready-*"))) < 2:
        assert [process.poll() for process in processes] == [None, None]
        threading.Event().wait(0.02)
    (home / "go").touch()
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    check_taken_once(ledger, plans)


def broken(path: Path, how: str) -> None:
    if how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.write_bytes(b"PAR1 not at all PAR1")


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "garbage"])
def test_an_unreadable_answers_file_stops_the_run_and_nothing_is_asked(house: House, how: str) -> None:
    def reviews(*texts: str) -> dg.AssetsDefinition:
        return rows_asset("reviews", pa.table({"id": range(len(texts)), "text": texts}))

    moods = classify_asset(
        name="moods", source="reviews", row_key="id", prompt="{text}", labels=["a", "b"], llm="llm", model="m"
    )
    house.done(reviews("a", "b"), moods)
    (file,) = (house.ledger.home / "answers").rglob("*.parquet")
    content = file.read_bytes()
    house.server.forget()
    broken(file, how)
    message = failure(house.run(reviews("a", "b", "c"), moods))
    for words in ("moods: ", str(house.ledger.home), "can't be read", "nothing was asked"):
        assert words in message
    assert set(house.server.calls) == {"provider"}
    assert house.rows("moods", "count(*)") == [(2,)]
    file.write_bytes(content)
    house.done(reviews("a", "b", "c"), moods)
    assert house.server.prompts == ["c"]


@pytest.mark.parametrize("how", ["gone", "empty", "cut", "garbage"])
def test_an_unreadable_manifest_of_an_open_attempt_stops_the_look(home: Path, how: str) -> None:
    ledger = Ledger(home)
    first, second = planned(ledger, range(50)), planned(ledger, range(100))
    look(ledger, provider(), first, "r1")
    held = ledger.attempts.find()
    manifest = Home(home).manifest(held[0].manifest)
    content = manifest.read_bytes()
    broken(manifest, how)
    with pytest.raises(StorageError, match=r"(?s)can't be read .*nothing was asked"):
        look(ledger, provider(), second, "r2")
    assert ledger.attempts.find() == held
    # The lease was given back, so another run that comes at once need not wait for it.
    assert ledger.looks.take(second.task, "r3")
    ledger.looks.release(second.task, "r3")
    manifest.write_bytes(content)
    assert look(ledger, provider(), second, "r2") == 50
    check_taken_once(ledger, [first, second])


def test_a_full_disk_stops_the_look_and_takes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(home)
    plan = planned(ledger, range(50))
    written: list[Path] = []

    def full(engine: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
        if written:
            raise StorageError(f"{path} can't be written")
        written.append(path)
        write_parquet(engine, query, path)

    with monkeypatch.context() as broken_disk:
        broken_disk.setattr(look_module, "write_parquet", full)
        with pytest.raises(StorageError, match="can't be written"):
            look(ledger, provider(), plan, "r")
    assert ledger.attempts.find() == []
    assert look(ledger, provider(), plan, "another") == 50
