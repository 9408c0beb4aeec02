"""A run on a full disk says so; when there is space again, the next one brings the table, and nothing is paid twice."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.resources import DuckDBTables, ParquetTables
from dagster_batch_llm.resources.ledger import PlanState

from ..resources.small_disk import SmallDisk, small_disk
from .conftest import House, failure, rows_asset

REVIEWS = rows_asset("reviews", pa.table({"id": [1, 2], "text": ["a", "b"]}))


def moods() -> dg.AssetsDefinition:
    return classify_asset(
        name="moods",
        source="SELECT id, text FROM reviews",
        row_key="id",
        prompt="{text}",
        labels=["good", "bad"],
        llm="llm",
        model="m",
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def materialized(house: House) -> None:
    house.done(REVIEWS, moods(), select=[moods()])
    assert sorted(house.server.prompts) == ["a", "b"]
    assert house.rows("moods", "id::VARCHAR, status") == [("1", "ok"), ("2", "ok")]


def on_disk(folder: Path, disk: SmallDisk) -> None:
    """Have a folder, with what is in it, on the small disk."""
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.move(path, disk.folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.symlink_to(disk.folder)


@pytest.mark.parametrize("place", ["plans", "manifests", "sends", "answers", "duckdb", "parquet", "scratch"])
def test_a_full_disk_fails_the_run_and_costs_nothing(
    house: House, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    if place == "duckdb":
        house.tables = DuckDBTables(path=str(disk.folder / "tables"))
    elif place == "parquet":
        house.tables = ParquetTables(folder=str(disk.folder / "tables"))
    house.done(REVIEWS)
    home = house.ledger.home
    if place == "scratch":
        monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    elif place not in {"duckdb", "parquet"}:
        on_disk(home / place, disk)
    with disk.full():
        said = failure(house.run(REVIEWS, moods(), select=[moods()]))
    assert re.search("moods: .*([Ff]ree some space|disk full)", said, re.DOTALL), said
    assert {plan.state for plan in house.ledger.plans.find()} <= {PlanState.OPEN}
    materialized(house)
