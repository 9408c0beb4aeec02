"""Disks that are full or read-only: it is said in words, nothing is marked done, and when they are well all goes on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from random import Random

import dagster as dg
import pytest
from dagster_batch_llm.resources import DuckDBTables, ParquetTables
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.ledger import AttemptState, Ledger
from dagster_batch_llm.resources.operations import Level, examine
from dagster_batch_llm.resources.table_store import TableStore

from .small_disk import SmallDisk, small_disk
from .world import MakeWorld, World, copy_home, write_columns

Bad = Callable[[], AbstractContextManager[None]]
KEY = dg.AssetKey(["shop", "reviews"])
TYPES = {"id": "BIGINT", "text": "VARCHAR"}
NOBODY = 65534


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


@pytest.fixture(params=["full", "read-only"])
def bad(request: pytest.FixtureRequest, disk: SmallDisk) -> Bad:
    """What is wrong with the disk."""
    return disk.full if request.param == "full" else disk.read_only


def on_disk(world: World, disk: SmallDisk, place: str) -> World:
    """Have one folder of a home on the small disk, or the home itself."""
    if place == "home":
        world.folder = Path(shutil.copytree(world.folder, disk.folder / "home"))
        world.ledger = world.opened()
        return world
    shutil.rmtree(world.folder / place, ignore_errors=True)
    (world.folder / place).symlink_to(disk.folder)
    if place == "answers":
        (disk.folder / "LEDGER").write_text(world.ledger.id)
    return world


def goes_on(world: World) -> None:
    """Another worker comes to the end, and each row is paid once."""
    [attempt] = world.ledger.attempts.find()
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("place", ["home", "sends"])
def test_a_bad_disk_sends_nothing(make_world: MakeWorld, disk: SmallDisk, bad: Bad, place: str) -> None:
    world = on_disk(make_world(), disk, place)
    attempt, machine = world.ask(), world.machine()
    with bad(), pytest.raises(StorageError, match=r"disk full|free some space"):
        machine.send(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    assert world.server.seen == []
    goes_on(world)


def test_a_send_that_can_not_be_noted_is_not_made(make_world: MakeWorld, disk: SmallDisk, bad: Bad) -> None:
    world = on_disk(make_world(), disk, "answers")
    attempt, machine = world.ask(), world.machine()
    with bad(), pytest.raises(StorageError):
        machine.send(attempt.id)
    assert world.server.creates() == 0
    assert world.state(attempt) is AttemptState.PLANNED
    goes_on(world)


@pytest.mark.parametrize("place", ["home", "results", "answers"])
def test_a_bad_disk_closes_nothing(make_world: MakeWorld, disk: SmallDisk, bad: Bad, place: str) -> None:
    world = on_disk(make_world(), disk, place)
    attempt, machine = world.ask(), world.machine()
    machine.send(attempt.id)
    world.clock.sleep(400.0)
    machine.poll("llm")
    with bad(), pytest.raises(StorageError, match=r"disk full|[Ff]ree some space"):
        machine.collect(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    assert world.ledger.upkeep.answers_files() == []
    goes_on(world)


def test_a_disk_may_be_full_after_any_page(make_world: MakeWorld, disk: SmallDisk) -> None:
    """What the ledger has begun when its own file can't grow is either made or undone."""
    template = make_world().folder
    ends: set[AttemptState] = set()
    for number, leave in enumerate(range(40_000, 140_000, 12_288)):
        home = Path(shutil.copytree(template, disk.folder / f"home{number}"))
        world = World(home)
        attempt, machine = world.ask(), world.machine()
        said: list[str] = []
        with disk.full(leave):
            for _ in range(4):
                try:
                    machine.step(world.now(attempt))
                    machine.poll("llm")
                except StorageError as error:
                    said.append(error.message)
                world.clock.sleep(400.0)
            ends.add(world.state(attempt))
        assert all("disk full" in message or "ree some space" in message for message in said)
        goes_on(world)
        shutil.rmtree(home)
    assert len(ends) > 1


@pytest.mark.parametrize("store", ["duckdb", "parquet"])
def test_a_table_on_a_bad_disk_stays_as_it_was(disk: SmallDisk, tmp_path: Path, bad: Bad, store: str) -> None:
    place = str(disk.folder / "tables")
    tables: TableStore = DuckDBTables(path=place) if store == "duckdb" else ParquetTables(folder=place)
    dice = Random(0)
    new = [dice.randbytes(50).hex() for _ in range(3000)]
    files = [
        write_columns(tmp_path / f"{len(texts)}.parquet", id=range(len(texts)), text=texts) for texts in (["old"], new)
    ]
    tables.replace(KEY, files[0], types=TYPES)
    with bad(), pytest.raises(StorageError, match=r"space|Read-only"):
        tables.replace(KEY, files[1], types=TYPES)
    assert tables.query("SELECT * FROM shop.reviews").to_pylist() == [{"id": 0, "text": "old"}]
    assert tables.replace(KEY, files[1], types=TYPES) == 3000
    assert tables.query("SELECT count(*) AS n FROM shop.reviews").to_pylist() == [{"n": 3000}]


def test_a_ledger_that_can_not_be_made_is_made_later(disk: SmallDisk, bad: Bad) -> None:
    home = disk.folder / "new"
    with bad(), pytest.raises(StorageError, match="BATCH_LLM_HOME"):
        Ledger(home)
    assert Ledger(home).attempts.find() == []


def test_a_read_only_home_can_be_looked_at(make_world: MakeWorld, disk: SmallDisk) -> None:
    world = on_disk(make_world(), disk, "home")
    world.ledger.attempts.incident("kind", "subject", "message")
    with disk.read_only():
        assert (str(world.folder), "can't be written") in {(one.subject, one.wrong) for one in examine(world.folder)}


# ---- permissions ----


@contextmanager
def not_root() -> Generator[None]:
    """Root may do anything, so in here it is somebody else."""
    if os.geteuid() == 0:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if os.getresuid()[2] == 0:
            os.setresuid(0, 0, 0)


@pytest.fixture
def others(migrated_home: Path) -> Iterator[World]:
    """A home that everybody may read and only its owner may write."""
    folder = Path(tempfile.mkdtemp(prefix="batch-llm-others-"))  # not in pytest's folders, where only its user may look
    folder.chmod(0o755)
    world = World(copy_home(migrated_home, folder / "home"))
    world.ledger.attempts.incident("kind", "subject", "message")
    for path in [world.folder, *world.folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield world
    for path in [world.folder, *world.folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_home_of_somebody_else_is_told(others: World) -> None:
    with not_root():
        with pytest.raises(StorageError, match=r"ermission denied.*may this process not write there\?"):
            others.opened()
        with pytest.raises(StorageError, match="readonly"):
            others.ledger.attempts.incident("kind", "other subject", "message")
        found = {(one.subject, one.wrong) for one in examine(others.folder)}
    assert (str(others.folder), "can't be written") in found
    assert (str(others.folder / "answers"), "can't be written") in found


def test_a_home_that_may_not_be_read_is_told(others: World) -> None:
    others.folder.chmod(0o000)
    with not_root():
        with pytest.raises(StorageError, match=r"can't be opened"):
            Ledger(others.folder, read_only=True)
        with pytest.raises(StorageError, match=r"ermission denied"):
            others.opened()
        assert [one.level for one in examine(others.folder)].count(Level.ERROR) >= 1
