from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.ledger import (
    AttemptState,
    Ledger,
    PlanId,
    default_home,
    migrations,
    opening,
    schema,
    sqlite,
)
from filelock import FileLock
from sqlalchemy import Connection, create_engine

from ..effects import Died, Effects
from ..fake_clock import FakeClock
from ..world import copy_home

NO_DATABASE = b"this is no database, and it is long enough to be read as one" * 200
TABLES = set(schema.metadata.tables)
FIRST = TABLES - {"retry", "forgotten"}
"""Of the first schema; each migration is committed by itself."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def known(tmp_path: Path, migrated_home: Path) -> Path:
    """A home whose ledger has been opened before."""
    return copy_home(migrated_home, tmp_path / "known")


def revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]


def tables(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@pytest.fixture
def migrated(known: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///{known / 'ledger.sqlite3'}")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def test_a_blank_folder_gets_the_newest_schema(folder: Path) -> None:
    ledger = Ledger(folder, FakeClock())
    assert tables(folder) >= TABLES
    assert (folder / "answers" / "LEDGER").read_text() == ledger.id
    assert Ledger(folder).id == ledger.id


def test_the_version_that_the_code_names_is_the_newest_migration() -> None:
    assert revisions()[0] == schema.SCHEMA_VERSION
    assert sorted(revisions()) == list(reversed(revisions()))


def test_the_migrated_schema_is_the_declared_one(migrated: Connection) -> None:
    context = MigrationContext.configure(migrated, opts={"compare_type": True, "compare_server_default": True})
    assert compare_metadata(context, schema.metadata) == []


def test_a_newer_ledger_is_refused_and_left_alone(known: Path) -> None:
    with closing(sqlite3.connect(known / "ledger.sqlite3")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    before = (known / "ledger.sqlite3").read_bytes()
    with pytest.raises(StorageError, match=r"schema 9999.*newer dagster-batch-llm.*upgrade"):
        Ledger(known)
    assert (known / "ledger.sqlite3").read_bytes() == before


def test_a_ledger_of_the_first_schema_is_migrated_and_keeps_what_it_knows(folder: Path) -> None:
    folder.mkdir()
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    engine = create_engine(f"sqlite:///{folder / 'ledger.sqlite3'}")
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    assert tables(folder) == FIRST | {"alembic_version"}
    with closing(sqlite3.connect(folder / "ledger.sqlite3")) as db, db:
        db.executescript(OLD)
    ledger = Ledger(folder, FakeClock())
    assert tables(folder) >= TABLES
    [attempt] = ledger.attempts.find()
    assert (attempt.id, attempt.state, attempt.rows, attempt.unwanted_at) == ("a", AttemptState.ANSWERED, 2, None)
    snapshot = ledger.looks.snapshot(attempt.task)
    assert (snapshot.answers_files, snapshot.forgiven) == (["f.parquet"], frozenset())
    ledger.upkeep.ask_again(attempt.task, 1)
    assert ledger.looks.snapshot(attempt.task).forgiven == {"f.parquet"}
    assert ledger.upkeep.end(PlanId("p"), "by hand", batches=True) == 0
    assert ledger.plans.get(PlanId("p")).message == "by hand"


OLD = """
INSERT INTO ledger VALUES ('0123456789abcdef', 1.0);
INSERT INTO task (hash, spec, fence, lease_until) VALUES ('t', '{}', 1, 0);
INSERT INTO plan (id, state, asset, partitions, task, llm, spec, code_version, inputs, origin, run, holder_until, rows,
    keys, asked, created_at) VALUES ('p', 'open', 'x', '[]', 't', 'llm', '{}', 'v', '{}', 'r', 'r', 0, 2, 2, 2, 1.0);
INSERT INTO attempt (id, state, task, plan, llm, account, manifest, rows, fence, lease_until, due, waits, send_no,
    total, completed, failed, created_at)
    VALUES ('a', 'answered', 't', 'p', 'llm', 'acme', 'a.parquet', 2, 1, 0, 0, 0, 1, 2, 2, 0, 1.0);
INSERT INTO answers VALUES ('f.parquet', 't', 'a', '{"ok": 1, "invalid": 1}', 0, 0, 2.0);
"""


def test_an_opening_may_be_cut_off_anywhere(tmp_path: Path) -> None:
    effects = Effects()
    with effects.watched():
        Ledger(tmp_path / "whole", FakeClock())
    assert len(effects.done) >= 2
    for last in range(len(effects.done)):
        folder = tmp_path / str(last)
        with pytest.raises(Died), Effects(last).watched():
            Ledger(folder, FakeClock())
        assert tables(folder).isdisjoint(TABLES) or tables(folder) >= FIRST
        ledger = Ledger(folder, FakeClock())
        assert (folder / "answers" / "LEDGER").read_text() == ledger.id


# ---- a ledger belongs to its answers ----


def test_an_emptied_ledger_beside_answers_is_refused(known: Path) -> None:
    (known / "ledger.sqlite3").unlink()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"has an empty ledger.*Put the right ledger.sqlite3 back"):
            Ledger(known)


def test_answers_that_name_no_ledger_are_no_new_beginning(known: Path) -> None:
    (known / "ledger.sqlite3").unlink()
    (known / "answers" / "LEDGER").unlink()
    (known / "answers" / "task").mkdir()
    with pytest.raises(StorageError, match="belong to ledger unknown"):
        Ledger(known)


def test_a_ledger_of_other_answers_is_refused(known: Path, folder: Path) -> None:
    clock = FakeClock()
    for _ in range(5):
        clock.token()
    other = Ledger(folder, clock)
    shutil.copy(folder / "ledger.sqlite3", known / "ledger.sqlite3")
    with pytest.raises(StorageError, match=f"has ledger {other.id}"):
        Ledger(known)


@pytest.mark.parametrize("name", ["plans", "manifests", "results"])
def test_a_new_ledger_beside_files_of_an_old_one_is_refused(known: Path, name: str) -> None:
    (known / "ledger.sqlite3").unlink()
    shutil.rmtree(known / "answers")
    (known / name).mkdir()
    with pytest.raises(StorageError, match="belong to ledger unknown"):
        Ledger(known)


def test_a_lost_note_of_the_ledgers_id_is_written_again(known: Path) -> None:
    note = known / "answers" / "LEDGER"
    note.unlink()
    assert Ledger(known).id == note.read_text()
    note.write_text("")
    assert Ledger(known).id == note.read_text()


# ---- a folder that can't be used ----


def test_a_file_where_a_folder_is_needed_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(StorageError, match="BATCH_LLM_HOME"):
            Ledger(folder)


def test_a_folder_where_the_ledger_is_needed_says_so(folder: Path) -> None:
    (folder / "ledger.sqlite3").mkdir(parents=True)
    with pytest.raises(StorageError, match="BATCH_LLM_HOME"):
        Ledger(folder)


def test_a_file_that_is_no_database_says_so(folder: Path) -> None:
    folder.mkdir()
    (folder / "ledger.sqlite3").write_bytes(NO_DATABASE)
    with pytest.raises(StorageError, match=r"ledger\.sqlite3"):
        Ledger(folder)


def test_a_ledger_that_breaks_while_it_is_open_says_so(known: Path) -> None:
    ledger = Ledger(known, FakeClock())
    (known / "ledger.sqlite3").write_bytes(NO_DATABASE)
    for name in ("ledger.sqlite3-wal", "ledger.sqlite3-shm"):
        (known / name).unlink(missing_ok=True)
    with pytest.raises(StorageError, match=r"ledger\.sqlite3"):
        ledger.attempts.find()
    with pytest.raises(StorageError, match=r"ledger\.sqlite3"):
        ledger.attempts.incident("kind", "subject", "message")


def test_a_process_that_stands_still_while_it_opens_the_ledger_is_not_waited_for_without_end(
    known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "LOCK_SECONDS", 0.05)
    with FileLock(known / "ledger.lock"), pytest.raises(StorageError, match="Is it stopped"):
        Ledger(known)
    assert Ledger(known).id


def test_a_ledger_that_is_locked_for_long_says_so(known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_LOCK_SECONDS", 0.05)
    ledger = Ledger(known, FakeClock())
    with closing(sqlite3.connect(known / "ledger.sqlite3", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        assert ledger.attempts.incidents() == []
        with pytest.raises(StorageError, match="locked"):
            ledger.attempts.incident("kind", "subject", "message")
        db.execute("ROLLBACK")
    assert ledger.attempts.incident("kind", "subject", "message")


@pytest.mark.parametrize("name", ["a b", "it's", "100%", "what?", "a#b", "ü", "%2F", "a;b", "a&b=c"])
def test_a_home_may_have_any_name(tmp_path: Path, name: str) -> None:
    ledger = Ledger(tmp_path / name, FakeClock())
    assert (tmp_path / name / "ledger.sqlite3").stat().st_size > 0
    assert Ledger(tmp_path / name).id == ledger.id


def test_the_default_home_is_absolute_and_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BATCH_LLM_HOME", "~/here")
    assert default_home() == Path.home() / "here"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCH_LLM_HOME", "here")
    assert default_home() == tmp_path / "here"
    for value in (None, ""):
        if value is None:
            monkeypatch.delenv("BATCH_LLM_HOME")
        else:
            monkeypatch.setenv("BATCH_LLM_HOME", value)
        assert default_home() == Path.home() / ".dagster-batch-llm"


# ---- many at once ----


_OPENER = """
import sys, pathlib
from dagster_batch_llm.resources.ledger import Ledger
sys.stdin.readline()
for number in range(5):
    ledger = Ledger(pathlib.Path(sys.argv[1]))
    assert ledger.attempts.incident("opened", f"{sys.argv[2]}/{number}", "x")
print(ledger.id)
"""


def test_processes_that_open_a_new_ledger_together_share_one(folder: Path) -> None:
    openers = [
        subprocess.Popen(
            [sys.executable, "-c", _OPENER, str(folder), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for opener in openers:  # all are loaded before the first may begin
        assert opener.stdin is not None
        opener.stdin.write("go\n")
    ids = {opener.communicate(timeout=60)[0] for opener in openers}
    assert {opener.returncode for opener in openers} == {0}
    assert ids == {f"{Ledger(folder).id}\n"}
    assert len(Ledger(folder).attempts.incidents()) == 15
