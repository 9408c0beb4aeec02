"""A ledger that was put back from a backup has forgotten what was paid since; it is refused before it asks again."""

from __future__ import annotations

import pytest
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.ledger import schema
from dagster_batch_llm.resources.ledger.high_water import note_path, note_sends, noted_sends
from dagster_batch_llm.resources.operations import Level, examine
from sqlalchemy import Connection, Table, delete, insert, select

from ..world import PROMPTS, World, write_columns

Backup = dict[Table, list[dict[str, object]]]
TABLES = schema.metadata.sorted_tables


def copied(c: Connection) -> Backup:
    return {table: [dict(row) for row in c.execute(select(table)).mappings()] for table in TABLES}


def put_back(world: World, backup: Backup) -> None:
    """The whole ledger as it was."""
    with world.database.write() as c:
        for table in reversed(TABLES):
            c.execute(delete(table))
        for table in TABLES:
            if backup[table]:
                c.execute(insert(table), backup[table])


@pytest.fixture
def older(world: World) -> World:
    """A home whose ledger is from before its last batch."""
    world.finish(world.ask(["old"], name="first"))
    with world.database.read() as c:
        backup = copied(c)
    world.finish(world.ask())
    put_back(world, backup)
    return world


def test_a_ledger_from_an_older_backup_is_refused_and_asks_nothing(
    older: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCH_LLM_LEDGER", older.url)
    creates = older.server.creates()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"knows 1 of at least 2 .* older backup.*Nothing was asked"):
            older.opened()
    assert older.server.creates() == creates
    [found] = [one for one in examine(older.folder, older.clock) if one.subject == "ledger"]
    assert found.level is Level.ERROR
    assert "older backup" in found.advice


def test_going_on_without_what_is_forgotten_is_a_persons_decision(older: World) -> None:
    note_path(older.folder).unlink()
    assert older.opened().id == older.ledger.id
    assert noted_sends(older.folder) == 1


def test_a_ledger_from_before_a_batch_ended_only_collects_it(world: World) -> None:
    attempt = world.ask()
    world.machine().send(attempt.id)
    with world.database.read() as c:
        backup = copied(c)
    world.finish(attempt)
    put_back(world, backup)
    world.ledger = world.opened()
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_send_that_was_never_made_is_never_counted(world: World) -> None:
    """A worker that dies between the intent and the note leaves a ledger that is ahead of it, which is no harm."""
    world.finish(world.ask())
    note_path(world.folder).unlink()
    assert world.opened().id == world.ledger.id
    assert noted_sends(world.folder) == 1


@pytest.mark.parametrize("text", [b"", b"\x00" * 21, b"nonsense", b"-5", "²".encode()])
def test_a_note_that_can_not_be_read_is_written_anew(world: World, text: bytes) -> None:
    world.finish(world.ask())
    note_path(world.folder).write_bytes(text)
    world.opened()
    assert noted_sends(world.folder) == 1


def test_the_note_never_goes_back(world: World) -> None:
    write_columns(world.folder / "answers" / "x.parquet", key=PROMPTS)
    note_sends(world.folder, 12)
    note_sends(world.folder, 7)
    assert noted_sends(world.folder) == 12
