"""`doctor`: what is wrong is named, with what to do; a sound home has nothing to be said of it."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import PlanId, PlanState
from dagster_batch_llm.resources.operations import ADVICE, Finding, Level, advice, examine, repair
from dagster_batch_llm.resources.operations.waits import overdue, window_seconds

from ..world import SPEC, World, write_columns

ROOMS = [Path(__file__).parents[3] / name for name in ("assets", "pipelines", "resources")]


def errors(world: World) -> list[Finding]:
    return [one for one in examine(world.folder, world.clock) if one.level is Level.ERROR]


@pytest.fixture
def done(world: World) -> World:
    """A home with one answered batch and one that is out."""
    world.finish(world.ask())
    write_columns(Home(world.folder).rows(PlanId("plan")), id=[1])
    world.machine().send(world.ask(["four"], name="second").id)
    write_columns(Home(world.folder).rows(PlanId("second")), id=[1])
    return world


def test_a_sound_home_has_nothing_wrong(done: World) -> None:
    assert examine(done.folder, done.clock) == []


def test_examining_changes_nothing(done: World) -> None:
    def stamps() -> dict[str, int]:
        files = (path for path in done.folder.rglob("*") if path.is_file() and path.suffix not in {".lock"})
        return {str(path): path.stat().st_mtime_ns for path in files if not path.name.endswith(("-shm", "-wal"))}

    before = stamps()
    examine(done.folder, done.clock)
    assert stamps() == before


@pytest.mark.parametrize(
    ("file", "wrong"),
    [
        ("manifests/second.parquet", "is missing"),
        ("plans/second/rows.parquet", "is missing"),
        ("plans/second/requests.parquet", "is missing"),
    ],
)
def test_a_missing_file_of_something_open_is_named(done: World, file: str, wrong: str) -> None:
    (done.folder / file).unlink()
    [found] = errors(done)
    assert (found.subject, found.wrong) == (file, wrong)
    assert "from a backup" in found.advice


def test_a_manifest_of_other_rows_is_named(done: World) -> None:
    write_columns(done.folder / "manifests" / "second.parquet", row=[0, 1], key=["a", "b"])
    [found] = errors(done)
    assert found.wrong == "has 2 rows, the ledger says 1"


def test_answers_of_other_columns_or_sums_are_named(done: World) -> None:
    [(_, file)] = done.ledger.upkeep.answers_files()
    path = Home(done.folder).answers(file.file)
    with closing(sqlite3.connect(done.folder / "ledger.sqlite3")) as db, db:
        db.execute("""UPDATE answers SET outcomes = '{"ok": 2, "missing": 1}'""")
    [found] = errors(done)
    assert "has the outcomes {'ok': 3}, the ledger says" in found.wrong
    write_columns(path, key=["one"])
    [found] = errors(done)
    assert "doesn't have the column(s) outcome" in found.wrong


def test_a_ledger_of_other_answers_is_named(done: World) -> None:
    marker = done.folder / "answers" / "LEDGER"
    marker.write_text("0000000000000000")
    [found] = errors(done)
    assert "belong to ledger 0000000000000000" in found.wrong
    marker.write_text("")
    assert [one.wrong for one in examine(done.folder, done.clock)] == ["doesn't say which ledger the answers belong to"]


@pytest.mark.parametrize("version", ["0001", "9999"])
def test_a_ledger_of_another_version_is_named(done: World, version: str) -> None:
    with closing(sqlite3.connect(done.folder / "ledger.sqlite3")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = ?", (version,))
    [found] = errors(done)
    assert f"has schema {version}" in found.advice


def test_a_home_without_a_ledger_or_with_a_broken_one_is_named(done: World, tmp_path: Path) -> None:
    assert ["There is no ledger" in one.advice for one in examine(tmp_path / "nowhere")] == [True]
    for name in ("ledger.sqlite3-wal", "ledger.sqlite3-shm"):
        (done.folder / name).unlink(missing_ok=True)
    (done.folder / "ledger.sqlite3").write_bytes(b"this is no database " * 500)
    assert ["damaged" in one.advice for one in errors(done)] == [True]


def test_unsent_requests_that_nobody_wants_are_ended_by_a_repair(world: World) -> None:
    attempt = world.ask()
    write_columns(Home(world.folder).rows(PlanId("plan")), id=[1])
    world.ledger.plans.close(PlanId("plan"), PlanState.CANCELLED)  # and then it was killed
    [found] = examine(world.folder, world.clock)
    assert found.subject == f"attempt {attempt.id}"
    [done] = repair(world.ledger)
    assert (done.done, done.said.split()[0]) == (True, "3")
    assert examine(world.folder, world.clock) == []


def test_leftovers_and_missing_raw_results_are_notes(done: World) -> None:
    write_columns(done.folder / "manifests" / f"{'a' * 16}.parquet", row=[0], key=["a"])
    write_columns(done.folder / "answers" / SPEC.task / "unnamed.parquet", key=["a"])
    shutil.rmtree(done.folder / "results")
    found = examine(done.folder, done.clock)
    assert {one.level for one in found} == {Level.NOTE}
    assert len(found) == 3


def test_a_full_disk_is_a_warning(done: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(done.folder)

    def full(path: Path) -> object:
        return usage._replace(free=5_000_000)

    monkeypatch.setattr(shutil, "disk_usage", full)
    [found] = examine(done.folder, done.clock)
    assert (found.level, found.wrong) == (Level.WARNING, "has 5 MB left on its disk")


# ---- incidents and stuck batches -----------------------------------------------------------------------------------


def test_every_kind_of_incident_has_advice() -> None:
    code = "\n".join(path.read_text() for room in ROOMS for path in room.rglob("*.py"))
    recorded = set(re.findall(r"\b[iI]ncident\(\s*\"([^\"]+)\"|\bkind = \"([^\"]+)\"\n", code))
    recorded = {kind for found in recorded for kind in found if kind}
    assert recorded == set(ADVICE)
    assert "read its message" in advice("of another version")


def test_a_batch_is_overdue_a_while_after_its_deadline(world: World) -> None:
    world.server.seconds = 10 * 86400.0
    attempt = world.ask()
    assert overdue([world.now(attempt)], world.clock.now() + 1e9) == []  # it isn't out yet
    world.machine().send(attempt.id)
    out = world.now(attempt)
    assert out.expires_at is not None
    assert overdue([out], out.expires_at + 60.0) == []
    assert overdue([out], out.expires_at + 1000.0) == [out]


def test_windows_are_read(world: World) -> None:
    assert window_seconds(["7d", "24h"]) == 7 * 86400.0
    assert window_seconds(["30m"]) == 1800.0
    assert window_seconds([]) == window_seconds(["whenever", "", "h", "-1h"]) == 86400.0
