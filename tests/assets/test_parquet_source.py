"""LLM tables in Parquet: body, collect and SQL sources take either kind of tables."""

from pathlib import Path

import dagster as dg
import polars as pl
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import Labels, classify_asset, embed_asset, llm_table
from dagster_batch_llm.resources import ParquetTables

from .conftest import House, failure, rows_asset
from .fake_provider import FakeServer

REVIEWS = pa.table({"id": [1, 2, 3], "country": ["DE", "fr", "DE"], "text": ["warm", "cold", None]})


@pytest.fixture
def parquet(server: FakeServer, house: House, tmp_path: Path) -> House:
    return House(server, ParquetTables(folder=str(tmp_path / "warehouse")), house.instance)


def test_a_table_is_written_as_parquet_and_read_by_sql(parquet: House) -> None:
    reviews = rows_asset("reviews", REVIEWS, key_prefix=["shop"])
    moods = classify_asset(
        name="moods",
        key_prefix=["shop"],
        source="SELECT * FROM shop.reviews WHERE id > 1",
        row_key="id",
        prompt="{text}",
        labels=["good", "bad"],
        llm="llm",
        model="m",
    )
    vectors = embed_asset(
        name="vectors", source="SELECT * FROM shop.moods", row_key="id", prompt="{label}", llm="llm", model="m"
    )
    shown = parquet.done(reviews, moods, vectors)
    assert shown["dagster/storage_kind"] == "parquet"
    assert parquet.rows("shop.moods", "id, label, status") == [(2, "good", "ok"), (3, None, "not_asked")]
    assert parquet.types("FROM vectors")["vector"].endswith("]")


def test_partitions_of_a_table_are_files_of_a_folder(parquet: House) -> None:
    moods = classify_asset(
        name="moods",
        source="FROM reviews",
        row_key="id",
        prompt="{text}",
        labels=["good", "bad"],
        llm="llm",
        model="m",
        partitions_def=dg.StaticPartitionsDefinition(["DE", "fr", "it"]),
        partition_expr="country",
    )
    parquet.done(rows_asset("reviews", REVIEWS))
    parquet.done(moods, partition="DE")
    parquet.done(moods, partitions=("fr", "it"))
    parquet.done(moods, partition="DE")
    assert parquet.rows("moods", "id, partition_key", "id") == [(1, "DE"), (2, "fr"), (3, "DE")]
    assert isinstance(parquet.tables, ParquetTables)
    folder = Path(parquet.tables.folder, "moods.parquet")
    assert sorted(path.name for path in folder.iterdir()) == ["%44%45.parquet", "fr.parquet", "it.parquet"]


def test_a_query_over_a_table_that_is_not_there_says_which(parquet: House) -> None:
    moods = classify_asset(
        name="moods", source="FROM reviews", row_key="id", prompt="{text}", labels=["a", "b"], llm="llm", model="m"
    )
    assert "reviews" in failure(parquet.run(moods))


def test_a_function_gets_polars_if_it_is_annotated_so(parquet: House) -> None:
    @llm_table(row_key="id", prompt="{text}", output=Labels(["good", "bad"]), llm="llm", model="m")
    def moods(reviews: pl.DataFrame) -> pl.DataFrame:
        return reviews.filter(pl.col("id") < 2)

    parquet.done(rows_asset("reviews", REVIEWS), moods)
    assert parquet.rows("moods", "id, label") == [(1, "good")]


def test_a_function_gets_several_partitions_as_polars(house: House) -> None:
    days = dg.StaticPartitionsDefinition(["DE", "fr"])

    @dg.asset(partitions_def=days, io_manager_key="tables", metadata={"partition_expr": "country"})
    def reviews(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame(REVIEWS).filter(pl.col("country").is_in(context.partition_keys))

    @llm_table(
        row_key="id", prompt="{text}", output=Labels(["good", "bad"]), llm="llm", model="m",
        partitions_def=days, partition_expr="country",
    )  # fmt: skip
    def moods(reviews: pl.DataFrame) -> pl.DataFrame:
        return reviews.filter(pl.col("text").is_not_null())

    for day in ("DE", "fr"):
        house.done(reviews, partition=day)
    house.done(reviews, moods, select=[moods], partitions=("DE", "fr"))
    assert house.rows("moods", "id, label", "id") == [(1, "good"), (2, "good")]
