import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import pytest
from dagster_batch_llm.resources.errors import StorageError, TableLockedError
from dagster_batch_llm.resources.tables import DuckDBTables, table_name

from .world import write_columns

KEY = dg.AssetKey(["shop", "reviews"])
TYPES = {"id": "BIGINT", "text": "VARCHAR"}
HOSTILE = ["it's", 'say "x"', "a.b", "select", "a b", "; DROP TABLE x; --", "ü", "x]", "--", "ROW", "0"]


@pytest.fixture
def tables(tmp_path: Path) -> DuckDBTables:
    return DuckDBTables(path=str(tmp_path / "new" / "lake.duckdb"), lock_timeout=0.2)


def rows(tables: DuckDBTables, key: dg.AssetKey = KEY) -> list[dict[str, Any]]:
    return tables.query(f"FROM lake.{table_name(key)} ORDER BY ALL").to_pylist()


def written(tables: DuckDBTables, tmp_path: Path, ids: list[int], *, key: dg.AssetKey = KEY, **options: Any) -> int:
    file = write_columns(tmp_path / "rows.parquet", id=ids, text=[f"text {number}" for number in ids])
    return tables.replace(key, file, types=TYPES, **options)


# ---- replacing ----


def test_a_table_is_made_and_replaced_as_a_whole(tables: DuckDBTables, tmp_path: Path) -> None:
    assert not tables.exists(KEY)
    assert written(tables, tmp_path, [1, 2]) == 2
    assert tables.exists(KEY)
    assert written(tables, tmp_path, [3]) == 1
    assert rows(tables) == [{"id": 3, "text": "text 3"}]
    assert written(tables, tmp_path, []) == 0
    assert rows(tables) == []


def test_only_the_given_partitions_are_replaced(tables: DuckDBTables, tmp_path: Path) -> None:
    by_parity: dict[str, Any] = {"partition_expr": "CASE id % 2 WHEN 0 THEN 'even' ELSE 'odd' END"}
    written(tables, tmp_path, [1, 2, 3, 4], **by_parity, partitions=["even", "odd"])
    assert written(tables, tmp_path, [5], **by_parity, partitions=["odd"]) == 1
    assert [row["id"] for row in rows(tables)] == [2, 4, 5]
    assert written(tables, tmp_path, [], **by_parity, partitions=["even"]) == 0
    assert [row["id"] for row in rows(tables)] == [5]


def test_a_partition_key_is_a_value(tables: DuckDBTables, tmp_path: Path) -> None:
    for name in [*HOSTILE, *HOSTILE]:
        file = write_columns(tmp_path / "rows.parquet", id=[1], text=[name])
        tables.replace(KEY, file, types=TYPES, partition_expr="text", partitions=[name])
    assert sorted(row["text"] for row in rows(tables)) == sorted(HOSTILE)


def test_a_failed_write_leaves_the_old_table(tables: DuckDBTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1])
    broken = write_columns(tmp_path / "broken.parquet", id=["2", "three"], text=["a", "b"])
    with pytest.raises(StorageError, match=r'(?s)"shop"\."reviews".*can\'t be written.*three.*as it was before'):
        tables.replace(KEY, broken, types=TYPES)
    with pytest.raises(StorageError, match="as it was before"):
        tables.replace(KEY, broken, types=TYPES, partition_expr="id", partitions=["1"])
    assert rows(tables) == [{"id": 1, "text": "text 1"}]


def test_columns_that_changed_are_told(tables: DuckDBTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1])
    other = write_columns(tmp_path / "other.parquet", id=[2], score=[0.5])
    with pytest.raises(StorageError, match=r"(?s)score.*Drop the table if its columns have changed"):
        tables.replace(KEY, other, types={"id": "BIGINT", "score": "DOUBLE"}, partition_expr="id", partitions=["2"])
    assert rows(tables) == [{"id": 1, "text": "text 1"}]
    assert tables.replace(KEY, other, types={"id": "BIGINT", "score": "DOUBLE"}) == 1


def test_a_file_that_is_gone_is_told(tables: DuckDBTables, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone\.parquet"):
        tables.replace(KEY, tmp_path / "gone.parquet", types=TYPES)


def test_vectors_have_one_length(tables: DuckDBTables, tmp_path: Path) -> None:
    file = write_columns(tmp_path / "v.parquet", id=[1, 2], vector=[[0.5, 1.0, 2.0], None])
    tables.replace(KEY, file, types={"id": "BIGINT", "vector": "FLOAT[3]"})
    found = tables.query(f"SELECT typeof(vector) AS kind, vector FROM {table_name(KEY)} ORDER BY id").to_pylist()
    assert found == [{"kind": "FLOAT[3]", "vector": [0.5, 1.0, 2.0]}, {"kind": "FLOAT[3]", "vector": None}]
    short = write_columns(tmp_path / "short.parquet", id=[1], vector=[[0.5]])
    with pytest.raises(StorageError, match="as it was before"):
        tables.replace(KEY, short, types={"id": "BIGINT", "vector": "FLOAT[3]"})


# ---- names ----


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_and_columns_may_have_any_name(tables: DuckDBTables, tmp_path: Path, name: str) -> None:
    key = dg.AssetKey([name, name, name])
    file = write_columns(tmp_path / "it's.parquet", **{name: [1, 2]})
    options: dict[str, Any] = {"types": {name: "BIGINT"}, "partition_expr": "1", "partitions": ["1"]}
    for _ in range(2):
        assert tables.replace(key, file, **options) == 2
    assert rows(tables, key) == [{name: 1}, {name: 2}]
    assert tables.exists(key)


@pytest.mark.parametrize(
    "key",
    [["reviews"], ["main", "reviews"], ["value"], ["lake"], ["lake", "reviews"], ["temp", "x"], ["system", "x"]],
    ids="/".join,
)
def test_no_name_is_taken_for_something_of_duckdbs(tables: DuckDBTables, tmp_path: Path, key: list[str]) -> None:
    for _ in range(2):
        assert written(tables, tmp_path, [1], key=dg.AssetKey(key)) == 1
        assert rows(tables, dg.AssetKey(key)) == [{"id": 1, "text": "text 1"}]
    materialized(tables, dg.AssetKey(key), pd.DataFrame({"a": [1]}))
    assert rows(tables, dg.AssetKey(key)) == [{"a": 1}]


def test_a_table_does_not_take_the_place_of_one_with_other_capital_letters(
    tables: DuckDBTables, tmp_path: Path
) -> None:
    file = write_columns(tmp_path / "rows.parquet", id=[1])
    assert tables.replace(dg.AssetKey("Reviews"), file, types={"id": "BIGINT"}) == 1
    for refused in (
        lambda: tables.check(dg.AssetKey("reviews"), ["id"], ()),
        lambda: tables.replace(dg.AssetKey("reviews"), file, types={"id": "BIGINT"}),
    ):
        with pytest.raises(StorageError, match="can't tell that of asset"):
            refused()
    assert tables.replace(dg.AssetKey("Reviews"), file, types={"id": "BIGINT"}) == 1
    assert tables.replace(dg.AssetKey(["other", "reviews"]), file, types={"id": "BIGINT"}) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [(["a", "b", "c"], ["a.b", "c"]), (["a.b", "c"], ["a", "b", "c"]), (["x"], ["main", "x"]), (["main", "x"], ["x"])],
    ids="/".join,
)
@pytest.mark.parametrize("partitions", [(), ("1",)], ids=["whole", "partition"])
def test_two_assets_that_come_to_one_table_do_not_share_it(
    tables: DuckDBTables, tmp_path: Path, first: list[str], second: list[str], partitions: Sequence[str]
) -> None:
    file = write_columns(tmp_path / "rows.parquet", id=["1"])
    values: dict[str, Any] = {"types": {"id": "VARCHAR"}, "partition_expr": "id", "partitions": partitions}
    for _ in range(2):
        assert tables.replace(dg.AssetKey(first), file, **values) == 1
    for refused in (
        lambda: tables.check(dg.AssetKey(second), ["id"], ()),
        lambda: tables.replace(dg.AssetKey(second), file, **values),
    ):
        with pytest.raises(StorageError, match="can't tell that of asset"):
            refused()
    assert tables.replace(dg.AssetKey(first), file, **values) == 1


def test_the_place_of_a_table_is_shown(tables: DuckDBTables) -> None:
    shown = tables.metadata(KEY)
    assert shown["dagster/table_name"] == "lake.shop.reviews"
    assert shown["dagster/uri"] == str(Path(tables.path).absolute())


# ---- files that can't be used ----


def test_a_folder_that_can_not_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="Choose another path"):
        written(DuckDBTables(path=str(tmp_path / "file" / "x.duckdb")), tmp_path, [1])


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.duckdb").write_text("this is no database" * 1000)
    with pytest.raises(StorageError, match=r"x\.duckdb can't be opened") as caught:
        written(DuckDBTables(path=str(tmp_path / "x.duckdb")), tmp_path, [1])
    assert not isinstance(caught.value, TableLockedError)


@pytest.mark.parametrize("name", ["clock", "lock", "blocks.duckdb"])
def test_a_path_with_lock_in_it_is_not_a_locked_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match="can't be opened") as caught:
        written(DuckDBTables(path=str(tmp_path / name), lock_timeout=0.2), tmp_path, [1])
    assert not isinstance(caught.value, TableLockedError)


def test_reading_before_anything_was_written_says_so(tables: DuckDBTables, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Materialize the upstream assets first"):
        tables.query("SELECT 1")
    assert not Path(tables.path).exists()


# ---- other processes ----

_HOLDER = """
import sys, duckdb
db = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
db.close()
print("free", flush=True)
"""


@pytest.fixture
def holder(tables: DuckDBTables, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the file open for writing."""
    written(tables, tmp_path, [1])
    command = [sys.executable, "-c", _HOLDER, tables.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        if process.poll() is None:
            process.communicate("\n", timeout=30)


@pytest.mark.parametrize("read_only", [True, False])
def test_a_table_that_another_process_holds_names_it(
    tables: DuckDBTables, holder: subprocess.Popen[str], *, read_only: bool
) -> None:
    named = rf"PID {holder.pid}.*0\.2 s.*notebook"
    with pytest.raises(TableLockedError, match=named), tables.connection(read_only=read_only):
        pass


def test_a_table_is_waited_for(tables: DuckDBTables, tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    patient = DuckDBTables(path=tables.path, lock_timeout=30.0)
    assert holder.stdin is not None
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert written(patient, tmp_path, [2]) == 1


def test_the_file_is_closed_after_each_use(tables: DuckDBTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1])
    rows(tables)
    with pytest.raises(StorageError):
        tables.replace(KEY, tmp_path / "gone.parquet", types=TYPES)
    check = f"import duckdb; duckdb.connect({tables.path!r}).close()"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


# ---- as an IO manager ----


def output_context(**fields: Any) -> dg.OutputContext:
    return dg.build_output_context(**fields)  # pyright: ignore[reportUnknownMemberType]


def accepts(_: object, __: object) -> bool:
    return True


def materialized(tables: DuckDBTables, key: dg.AssetKey, value: object, **metadata: str) -> None:
    tables.handle_output(output_context(asset_key=key, definition_metadata=metadata), value)


def loaded(tables: DuckDBTables, kind: Any, key: dg.AssetKey = KEY) -> Any:
    upstream = output_context(asset_key=key)
    wanted = dg.DagsterType(accepts, "wanted", typing_type=kind)
    return tables.load_input(dg.build_input_context(asset_key=key, upstream_output=upstream, dagster_type=wanted))


FRAME = pd.DataFrame({"id": [1, 2], "text": ["a", None]})


def test_pandas_and_arrow_are_stored_and_loaded(tables: DuckDBTables) -> None:
    for value in (FRAME, pa.Table.from_pandas(FRAME)):
        materialized(tables, KEY, value)
        assert rows(tables) == [{"id": 1, "text": "a"}, {"id": 2, "text": None}]
    frame = loaded(tables, pd.DataFrame)
    assert isinstance(frame, pd.DataFrame)
    assert frame["id"].tolist() == [1, 2]
    for kind in (pa.Table, Any, None):
        assert loaded(tables, kind).to_pylist() == rows(tables)


def test_polars_is_stored(tables: DuckDBTables) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed here, so storing it is untested")
    materialized(tables, KEY, polars.DataFrame({"id": [1]}))
    assert rows(tables) == [{"id": 1}]


def test_nothing_is_stored_for_an_asset_that_wrote_its_table_itself(tables: DuckDBTables) -> None:
    materialized(tables, KEY, None)
    assert not Path(tables.path).exists()


@pytest.mark.parametrize("value", [5, "text", object(), {"a": 1}, [1, 2]], ids=lambda value: type(value).__name__)
def test_a_value_that_is_no_table_is_told(tables: DuckDBTables, value: object) -> None:
    with pytest.raises(StorageError, match=rf"shop/reviews.*{type(value).__name__}.*pandas"):
        materialized(tables, KEY, value)


def test_a_table_that_is_not_there_is_told(tables: DuckDBTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1], key=dg.AssetKey("other"))
    with pytest.raises(StorageError, match=r"no table.*reviews.*[Mm]aterialize"):
        loaded(tables, pd.DataFrame)


def test_partitions_go_through_dagster(tables: DuckDBTables) -> None:
    days = dg.StaticPartitionsDefinition(["mon", "tue"])
    metadata = {"partition_expr": "day"}

    @dg.asset(partitions_def=days, metadata=metadata, name="visits", key_prefix="shop")
    def visits(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.DataFrame({"day": [context.partition_key], "n": [len(context.run.run_id)]})

    @dg.asset(partitions_def=days, name="seen", ins={"visits": dg.AssetIn(key=["shop", "visits"])})
    def seen(context: dg.AssetExecutionContext, visits: pd.DataFrame) -> None:
        assert visits["day"].tolist() == [context.partition_key]

    @dg.asset(name="all_seen", ins={"visits": dg.AssetIn(key=["shop", "visits"])})
    def all_seen(visits: pa.Table) -> None:
        assert {str(day) for day in visits["day"].to_pylist()} == {"mon", "tue"}

    resources = {"io_manager": tables}
    with dg.instance_for_test() as instance:
        for day in ("mon", "tue", "mon"):
            assert dg.materialize([visits, seen], partition_key=day, resources=resources, instance=instance).success
        assert dg.materialize([visits, all_seen], selection=[all_seen], resources=resources, instance=instance).success
        event = instance.get_latest_materialization_event(dg.AssetKey(["shop", "visits"]))
    assert sorted(row["day"] for row in rows(tables, dg.AssetKey(["shop", "visits"]))) == ["mon", "tue"]
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["dagster/row_count"].value == 1


def test_a_partitioned_asset_has_to_say_how_its_rows_are_told_apart(tables: DuckDBTables) -> None:
    days = dg.StaticPartitionsDefinition(["mon"])
    context = output_context(asset_key=KEY, partition_key="mon", asset_partitions_def=days)
    with pytest.raises(StorageError, match=r"shop/reviews is partitioned.*Add metadata=\{'partition_expr'"):
        tables.handle_output(context, FRAME)


def test_a_partition_expression_that_is_wrong_is_told(tables: DuckDBTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1])
    with pytest.raises(StorageError, match=r"(?s)dya.*as it was before"):
        written(tables, tmp_path, [1], partition_expr="dya", partitions=["x"])


def test_an_export_keeps_the_rows(tables: DuckDBTables, tmp_path: Path) -> None:
    written(tables, tmp_path, [1, 2])
    tables.export(f"FROM {table_name(KEY)}", tmp_path / "it's out.parquet")
    with closing(duckdb.connect()) as db:
        assert db.read_parquet(str(tmp_path / "it's out.parquet")).fetchall() == [(1, "text 1"), (2, "text 2")]
