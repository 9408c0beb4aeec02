import itertools
import os
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dagster_batch_llm.resources import ParquetTables, StorageError
from dagster_batch_llm.resources.table_store import TableStore
from dagster_batch_llm.resources.tables import DuckDBTables
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from .world import write_columns

KEY = dg.AssetKey(["shop", "reviews"])
TYPES = {"id": "BIGINT", "text": "VARCHAR"}
PARITY: dict[str, Any] = {"partition_expr": "CASE id % 2 WHEN 0 THEN 'even' ELSE 'odd' END"}


@pytest.fixture
def tables(tmp_path: Path) -> ParquetTables:
    return ParquetTables(folder=str(tmp_path / "new" / "ware[house]"))


@pytest.fixture(params=["duckdb", "parquet"])
def either(request: pytest.FixtureRequest, tmp_path: Path, tables: ParquetTables) -> TableStore:
    return tables if request.param == "parquet" else DuckDBTables(path=str(tmp_path / "lake.duckdb"))


def written(tables: TableStore, tmp_path: Path, ids: list[int], *, key: dg.AssetKey = KEY, **options: Any) -> int:
    file = write_columns(tmp_path / "rows.parquet", id=ids, text=[f"text {number}" for number in ids])
    return tables.replace(key, file, types=TYPES, **options)


def ids(tables: TableStore) -> list[Any]:
    return tables.query("FROM shop.reviews ORDER BY id")["id"].to_pylist()


def files(tables: ParquetTables) -> list[str]:
    folder = Path(tables.folder)
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def by_arrow(file: Path) -> Any:
    """What anybody reads who knows nothing of us."""
    return pq.read_table(file)  # pyright: ignore[reportUnknownMemberType]


def _anything(_: object, __: object) -> bool:
    return True


def _output(key: dg.AssetKey, **options: Any) -> dg.OutputContext:
    return dg.build_output_context(asset_key=key, **options)  # pyright: ignore[reportUnknownMemberType]


def materialized(tables: TableStore, value: object, *, key: dg.AssetKey = KEY, **metadata: str) -> None:
    tables.handle_output(_output(key, definition_metadata=metadata), value)


def loaded(tables: TableStore, kind: Any, key: dg.AssetKey = KEY) -> Any:
    wanted = dg.DagsterType(_anything, "wanted", typing_type=kind)
    context = dg.build_input_context(asset_key=key, upstream_output=_output(key), dagster_type=wanted)
    return tables.load_input(context)


# ---- replacing ---------------------------------------------------------------------------------------------------


def test_a_table_is_a_file_and_replaced_as_a_whole(tables: ParquetTables, tmp_path: Path) -> None:
    assert not tables.exists(KEY)
    assert written(tables, tmp_path, [1, 2]) == 2
    assert tables.exists(KEY)
    assert files(tables) == ["shop/reviews.parquet"]
    assert written(tables, tmp_path, [3]) == 1
    assert ids(tables) == [3]
    assert written(tables, tmp_path, []) == 0
    assert ids(tables) == []
    other = write_columns(tmp_path / "other.parquet", score=[0.5])
    assert tables.replace(KEY, other, types={"score": "DOUBLE"}) == 1
    assert tables.query("FROM shop.reviews").to_pylist() == [{"score": 0.5}]


def test_a_partition_is_a_file_and_only_the_given_ones_are_replaced(tables: ParquetTables, tmp_path: Path) -> None:
    assert written(tables, tmp_path, [1, 2, 3, 4], **PARITY, partitions=["even", "odd"]) == 4
    assert files(tables) == ["shop/reviews.parquet/even.parquet", "shop/reviews.parquet/odd.parquet"]
    assert written(tables, tmp_path, [5], **PARITY, partitions=["odd"]) == 1
    assert ids(tables) == [2, 4, 5]
    assert written(tables, tmp_path, [], **PARITY, partitions=["even"]) == 0
    assert ids(tables) == [5]


def test_rows_of_a_partition_that_is_not_written_are_refused(either: TableStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"writes the partition\(s\) 'odd'.*rows of 'even'.*Filter"):
        written(either, tmp_path, [1, 2], **PARITY, partitions=["odd"])
    with pytest.raises(StorageError, match="rows of null"):
        written(either, tmp_path, [1], partition_expr="NULL", partitions=["odd"])
    assert not either.exists(KEY)


def test_a_table_beside_a_prefix_of_its_name_is_another_one(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1], key=dg.AssetKey(["a", "b"]))
    written(tables, tmp_path, [2], key=dg.AssetKey(["a"]), partition_expr="'b'", partitions=["b"])
    assert tables.query("FROM a.b")["id"].to_pylist() == [1]
    assert tables.query("FROM a")["id"].to_pylist() == [2]


def test_partitions_that_come_or_go_are_told(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1])
    with pytest.raises(StorageError, match=r"without partitions.*written with them.*Move it away"):
        written(tables, tmp_path, [1], **PARITY, partitions=["odd"])
    other = dg.AssetKey("other")
    written(tables, tmp_path, [1], key=other, **PARITY, partitions=["odd"])
    with pytest.raises(StorageError, match=r"with partitions.*written without them.*Move it away"):
        written(tables, tmp_path, [1], key=other)


def test_columns_that_changed_are_told(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1, 2], **PARITY, partitions=["even", "odd"])
    other = write_columns(tmp_path / "other.parquet", id=[3], score=[0.5])
    options: dict[str, Any] = {"types": {"id": "BIGINT", "score": "DOUBLE"}, **PARITY}
    with pytest.raises(StorageError, match=r"score \(missing → DOUBLE\), text \(VARCHAR → missing\).*delete .*reviews"):
        tables.replace(KEY, other, **options, partitions=["odd"])
    narrow = write_columns(tmp_path / "narrow.parquet", id=[3], text=["a"])
    with pytest.raises(StorageError, match=r"id \(BIGINT → INTEGER\)"):
        tables.replace(KEY, narrow, types={"id": "INTEGER", "text": "VARCHAR"}, **PARITY, partitions=["odd"])
    assert ids(tables) == [1, 2]
    assert tables.replace(KEY, other, **options, partitions=["even", "odd"]) == 1  # nothing of the old one stays


def test_a_column_without_a_value_takes_the_tables_type(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1, 2], **PARITY, partitions=["even", "odd"])
    empty = write_columns(tmp_path / "empty.parquet", id=[3], text=[None])
    tables.replace(KEY, empty, types={"id": "BIGINT", "text": "INTEGER"}, **PARITY, partitions=["odd"])
    assert tables.query("FROM shop.reviews ORDER BY id").to_pylist() == [
        {"id": 2, "text": "text 2"},
        {"id": 3, "text": None},
    ]


def test_a_failed_write_leaves_the_old_table(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1])
    broken = write_columns(tmp_path / "broken.parquet", id=["2", "three"], text=["a", "b"])
    with pytest.raises(StorageError, match=r"(?s)shop/reviews.*three.*as it was before"):
        tables.replace(KEY, broken, types=TYPES)
    with pytest.raises(StorageError, match=r"gone\.parquet"):
        tables.replace(KEY, tmp_path / "gone.parquet", types=TYPES)
    assert ids(tables) == [1]
    assert files(tables) == ["shop/reviews.parquet"]


def test_no_partition_changes_before_all_are_written(
    tables: ParquetTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tables, tmp_path, [1, 2], **PARITY, partitions=["even", "odd"])
    done = itertools.count()
    flush = os.fsync

    def full(descriptor: int) -> None:
        if next(done) == 0:
            raise OSError(28, "No space left on device")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"can't be written.*No space.*run it again"):
        written(tables, tmp_path, [3, 4], **PARITY, partitions=["even", "odd"])
    assert ids(tables) == [1, 2]
    assert len(files(tables)) == 2


def test_every_file_and_new_folder_is_flushed_before_it_has_its_name(
    tables: ParquetTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    flush = os.fsync

    def watched(descriptor: int) -> None:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    written(tables, tmp_path, [1])
    partial = f"reviews.parquet.{os.getpid()}.part"
    assert seen == [tmp_path.name, "new", "ware[house]", partial, "shop"]


def test_a_folder_that_can_not_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="can't be written"):
        written(ParquetTables(folder=str(tmp_path / "file")), tmp_path, [1])


# ---- names and foreign files -----------------------------------------------------------------------------------------


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=300))
@example("../x")
@example("x" * 300)
@example("Ü" * 300)
@example("it's")
@example("*?[a]")
def test_a_partition_key_may_be_any_text(tables: ParquetTables, tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"partition_expr": "text", "partitions": [name]}
    file = write_columns(tmp_path / "rows.parquet", text=[name])
    for _ in range(2):
        assert tables.replace(dg.AssetKey("t"), file, types={"text": "VARCHAR"}, **options) == 1
    assert name in tables.query("FROM t")["text"].to_pylist()
    assert {path.parts[0] for path in map(Path, files(tables))} == {"t.parquet"}


def test_names_that_differ_by_case_are_two_tables(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1], key=dg.AssetKey("Reviews"))
    written(tables, tmp_path, [2], key=dg.AssetKey("reviews"))
    assert tables.query('FROM "Reviews"')["id"].to_pylist() == [1]
    assert len({name.lower() for name in files(tables)}) == 2


@pytest.mark.parametrize("name", ["notes.txt", "Part.parquet", "a/b.parquet", ".DS_Store", "a b.parquet"])
def test_a_foreign_file_in_a_tables_folder_is_named(tables: ParquetTables, tmp_path: Path, name: str) -> None:
    written(tables, tmp_path, [1], **PARITY, partitions=["odd"])
    file = Path(tables.folder, "shop", "reviews.parquet", name)
    file.parent.mkdir(exist_ok=True)
    file.write_text("x")
    for use in (lambda: ids(tables), lambda: written(tables, tmp_path, [1], **PARITY, partitions=["odd"])):
        with pytest.raises(StorageError, match=rf"no partitions of table shop/reviews: '{name}'.*Move them away"):
            use()


def test_what_a_killed_writer_left_is_not_read(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1], **PARITY, partitions=["odd"])
    Path(tables.folder, "shop", "reviews.parquet", "odd.parquet.1.part").write_text("half")
    assert ids(tables) == [1]


def test_a_file_that_is_no_parquet_is_told(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1])
    Path(tables.folder, "shop", "reviews.parquet").write_text("no parquet at all")
    with pytest.raises(StorageError, match=r"reviews\.parquet can't be read as Parquet.*run again"):
        ids(tables)


# ---- columns -----------------------------------------------------------------------------------------------------


def test_vectors_have_one_length_for_every_reader(tables: ParquetTables, tmp_path: Path) -> None:
    file = write_columns(tmp_path / "v.parquet", id=[1, 2], vector=[[0.5, 1.0, 2.0], None])
    tables.replace(KEY, file, types={"id": "BIGINT", "vector": "FLOAT[3]"})
    rows = [{"id": 1, "vector": [0.5, 1.0, 2.0]}, {"id": 2, "vector": None}]
    kinds = tables.query("SELECT DISTINCT typeof(vector) AS kind FROM shop.reviews")["kind"].to_pylist()
    assert kinds == ["FLOAT[3]"]
    stored = Path(tables.folder, "shop", "reviews.parquet")
    # pyarrow before 26 can't read such a file with a missing vector, not even its own.
    readers = [loaded(tables, pa.Table), *([by_arrow(stored)] if int(pa.__version__.split(".")[0]) >= 26 else [])]
    for table in readers:
        assert str(table.schema.field("vector").type).endswith("[3]")
        assert table.to_pylist() == rows
    assert pl.read_parquet(stored, glob=False).schema["vector"] == pl.Array(pl.Float32, 3)
    short = write_columns(tmp_path / "short.parquet", id=[1], vector=[[0.5]])
    with pytest.raises(StorageError, match="as it was before"):
        tables.replace(KEY, short, types={"id": "BIGINT", "vector": "FLOAT[3]"})
    assert loaded(tables, pa.Table).to_pylist() == rows


def test_a_length_inside_of_other_types_and_names_is_kept(tables: ParquetTables) -> None:
    with duckdb.connect() as db:
        value = db.sql("""SELECT {'a[2]': [1, 2]::INTEGER[2]} AS "s[3]", [[1, 2]::INTEGER[2]] AS l, 2::HUGEINT AS h""")
        materialized(tables, value.to_arrow_table())
        kinds = tables.query('SELECT typeof("s[3]") AS s, typeof(l) AS l, typeof(h) AS h FROM shop.reviews').to_pylist()
    assert kinds[0]["s"] == 'STRUCT("a[2]" INTEGER[2])'
    assert kinds[0]["l"] == "INTEGER[2][]"
    assert by_arrow(Path(tables.folder, "shop", "reviews.parquet")).num_rows == 1


# ---- SQL over tables -------------------------------------------------------------------------------------------------


def test_a_query_names_tables_as_it_would_in_duckdb(either: TableStore, tmp_path: Path) -> None:
    written(either, tmp_path, [1, 2])
    written(either, tmp_path, [2, 3], key=dg.AssetKey("seen"), **PARITY, partitions=["even", "odd"])
    sql = "WITH r AS (FROM shop.reviews) SELECT id FROM r ANTI JOIN seen USING (id) WHERE id >= $least"
    assert either.query(sql, {"least": 1})["id"].to_pylist() == [1]
    either.export("SELECT sum(id) AS total FROM shop.reviews", tmp_path / "it's out.parquet")
    assert by_arrow(tmp_path / "it's out.parquet").to_pylist() == [{"total": 3}]
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        either.query("FROM nowhere")


# ---- as an IO manager ------------------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"id": [1, 2], "text": ["a", None]})
ROWS = [{"id": 1, "text": "a"}, {"id": 2, "text": None}]


@pytest.mark.parametrize(
    "value",
    [FRAME, pa.Table.from_pandas(FRAME), pl.from_pandas(FRAME), pl.from_pandas(FRAME).lazy()],
    ids=lambda value: f"{type(value).__module__.partition('.')[0]}.{type(value).__name__}",
)
def test_what_one_library_stores_any_other_loads(either: TableStore, value: object) -> None:
    materialized(either, value)
    for kind in (pa.Table, Any, None):
        assert loaded(either, kind).to_pylist() == ROWS
    frame = loaded(either, pd.DataFrame)
    assert isinstance(frame, pd.DataFrame)
    assert frame["id"].tolist() == [1, 2]
    eager, lazy = loaded(either, pl.DataFrame), loaded(either, pl.LazyFrame)
    assert isinstance(eager, pl.DataFrame)
    assert isinstance(lazy, pl.LazyFrame)
    assert eager.to_dicts() == lazy.collect().to_dicts() == ROWS


def test_a_stream_is_stored_partition_by_partition(tables: ParquetTables) -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"id": [1, 2, 3], "vector": [[1.0], [2.0], None]}))
    with tables.opened(read_only=False) as engine:
        engine.register("value", pa.RecordBatchReader.from_batches(table.schema, table.to_batches()))
        assert tables.write(engine, KEY, "SELECT * FROM value", PARITY["partition_expr"], ["even", "odd"]) == 3
    assert ids(tables) == [1, 2, 3]


def test_nothing_is_stored_for_an_asset_that_wrote_its_table_itself(tables: ParquetTables) -> None:
    materialized(tables, None)
    assert not Path(tables.folder).exists()


@pytest.mark.parametrize("value", [5, "text", {"a": 1}], ids=lambda value: type(value).__name__)
def test_a_value_that_is_no_table_is_told(tables: ParquetTables, value: object) -> None:
    with pytest.raises(StorageError, match=rf"shop/reviews.*{type(value).__name__}.*pandas"):
        materialized(tables, value)


def test_a_table_that_is_not_there_is_told(tables: ParquetTables) -> None:
    with pytest.raises(StorageError, match=r"no table shop/reviews. Materialize"):
        loaded(tables, pd.DataFrame)


def test_partitions_go_through_dagster(tables: ParquetTables) -> None:
    days = dg.StaticPartitionsDefinition(["mon", "tue"])

    @dg.asset(partitions_def=days, metadata={"partition_expr": "day"}, name="visits", key_prefix="shop")
    def visits(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return pl.DataFrame({"day": [context.partition_key], "n": [1]})

    @dg.asset(partitions_def=days, name="seen", ins={"visits": dg.AssetIn(key=["shop", "visits"])})
    def seen(context: dg.AssetExecutionContext, visits: pd.DataFrame) -> None:
        assert visits["day"].tolist() == [context.partition_key]

    @dg.asset(name="all_seen", ins={"visits": dg.AssetIn(key=["shop", "visits"])})
    def all_seen(visits: pa.Table) -> None:
        assert sorted(map(str, visits["day"].to_pylist())) == ["mon", "tue"]

    resources = {"io_manager": tables}
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        for day in ("mon", "tue", "mon"):
            assert dg.materialize([visits, seen], partition_key=day, resources=resources, instance=instance).success
        assert dg.materialize([visits, all_seen], selection=[all_seen], resources=resources, instance=instance).success
        Path(tables.folder, "shop", "visits.parquet", "tue.parquet").unlink()
        failed = dg.materialize(
            [visits, seen], selection=[seen], partition_key="tue", resources=resources, instance=instance,
            raise_on_error=False,
        )  # fmt: skip
        event = instance.get_latest_materialization_event(dg.AssetKey(["shop", "visits"]))
    assert "has no partition(s) 'tue'" in str(failed.all_events)
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata
    assert shown["dagster/row_count"].value == 1
    assert shown["dagster/table_name"].value == "shop.visits"
    assert shown["dagster/uri"].value == str(Path(tables.folder, "shop", "visits.parquet").absolute())


# ---- before anything is paid ---------------------------------------------------------------------------------------


def test_a_table_with_other_columns_is_told_before_its_partition_is_asked(either: TableStore, tmp_path: Path) -> None:
    either.check(KEY, ["id", "label"], ["odd"])  # there is no table yet
    written(either, tmp_path, [1], **PARITY, partitions=["odd"])
    either.check(KEY, ["text", "id"], ["even"])
    says = r"shop/reviews has other columns.*'even'.*it has 'text' and doesn't have 'label'\. Nothing was asked"
    with pytest.raises(StorageError, match=says):
        either.check(KEY, ["id", "label"], ["even"])


def test_a_whole_table_may_have_other_columns_than_before(either: TableStore, tmp_path: Path) -> None:
    written(either, tmp_path, [1])
    either.check(KEY, ["id", "label"], [])
    file = write_columns(tmp_path / "other.parquet", id=[2], label=["new"])
    assert either.replace(KEY, file, types={"id": "BIGINT", "label": "VARCHAR"}) == 1


def test_a_folder_that_can_not_take_the_table_is_told_before_it_is_asked(tables: ParquetTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1], **PARITY, partitions=["odd"])
    with pytest.raises(StorageError, match=r"with partitions.*without them"):
        tables.check(KEY, ["id", "text"], [])
    Path(tables.folder, "shop", "reviews.parquet", "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"no partitions of table shop/reviews: 'notes\.txt'"):
        tables.check(KEY, ["id", "text"], ["odd"])
