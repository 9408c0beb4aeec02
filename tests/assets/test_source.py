"""Where rows come from: assets through any IO manager, SQL, Python functions, and partitions of each."""

import warnings
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import Labels, classify_asset, llm_table
from dagster_batch_llm.assets.source import AssetSource, FunctionSource, SqlSource, as_source
from dagster_batch_llm.resources import DuckDBTables, OpenAIBatch
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.ledger import PlanState, schema

from .conftest import House, failure, rows_asset
from .fake_provider import by_first_label, errored

GROUPS = dg.StaticPartitionsDefinition(["a", "b", "c", "d"])
ROWS = {"id": [1, 2, 3, 4, 5, 6], "text": list("uvwxyz"), "grp": ["a", "b", "c", "a", "b", "d"]}


NUMBERS = (
    "dagster/row_count",
    "batch_llm/rows_failed",
    "batch_llm/rows_asked",
    "batch_llm/rows_reused",
    "batch_llm/input_tokens",
    "batch_llm/output_tokens",
)


def moods(source: Any = "reviews", **changed: Any) -> dg.AssetsDefinition:
    given: dict[str, Any] = {"name": "moods", "row_key": "id", "prompt": "{text}", "labels": ["x", "y"], "model": "m"}
    more: dict[str, Any] = {"source": source, "llm": "llm", **changed}
    return classify_asset(**{**given, **more})


def grouped(source: Any = "reviews", **changed: Any) -> dg.AssetsDefinition:
    return moods(source, partitions_def=GROUPS, partition_expr="grp", keep=["grp"], **changed)


# ---- what is a source ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["reviews", "SELECT", "from", "re-views", "re.views"])
def test_a_single_word_names_an_asset(source: str) -> None:
    assert as_source(source) == AssetSource(dg.AssetKey([source]))


def test_a_slash_separates_the_parts_of_a_key() -> None:
    assert as_source("shop/reviews") == AssetSource(dg.AssetKey(["shop", "reviews"]))


def test_a_source_may_be_a_key_a_spec_or_a_definition() -> None:
    key = dg.AssetKey(["shop", "reviews"])

    @dg.asset(key=key)
    def reviews() -> None: ...

    assert as_source(key) == as_source(dg.AssetSpec(key)) == as_source(reviews) == AssetSource(key)


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("SELECT * FROM reviews", ["reviews"]),
        ("from reviews", ["reviews"]),
        ("\n  -- only the good ones\n  SELECT * FROM reviews;\n", ["reviews"]),
        ("(SELECT * FROM reviews)", ["reviews"]),
        ("SELECT 1 AS id", []),
        ("VALUES (1)", []),
        ("FROM range(10)", []),
        ('SELECT * FROM "reviews" JOIN "my table" USING (id)', ["reviews"]),
        ("FROM shop.reviews", ["shop/reviews"]),
        ('FROM "shop.eu".reviews', ["shop/eu/reviews"]),
        ("FROM main.reviews", ["reviews"]),
        ("FROM warehouse.main.reviews", ["reviews"]),
        ("FROM warehouse.shop.reviews", ["shop/reviews"]),
        ("SELECT * FROM a JOIN b USING (id) LEFT JOIN c ON c.id = a.id", ["a", "b", "c"]),
        ("SELECT * FROM a, b", ["a", "b"]),
        ("SELECT * FROM a UNION ALL SELECT * FROM b", ["a", "b"]),
        ("SELECT (SELECT max(id) FROM b) FROM a WHERE EXISTS (FROM c WHERE c.id = a.id)", ["a", "b", "c"]),
        ("WITH x AS (SELECT * FROM reviews) SELECT * FROM x", ["reviews"]),
        ("WITH x AS (FROM a), y AS (FROM x JOIN b USING (id)) FROM y JOIN X USING (id)", ["a", "b"]),
        ("WITH reviews AS (SELECT * FROM reviews WHERE id > 1) FROM reviews", ["reviews"]),
        ("WITH x AS (FROM a) SELECT * FROM main.x", ["x", "a"]),
        ("SELECT * FROM (WITH x AS (FROM a) FROM x) JOIN x USING (id)", ["a", "x"]),
        ("WITH RECURSIVE r AS (SELECT id FROM a UNION ALL SELECT b.id FROM r JOIN b USING (id)) FROM r", ["a", "b"]),
        ("UNPIVOT reviews ON text", ["reviews"]),
        ("FROM 'rows.parquet'", []),
        ("FROM 'data/rows*'", []),
        ("FROM read_parquet('rows.parquet') JOIN reviews USING (id)", ["reviews"]),
        ("SELECT 'FROM elsewhere' AS \"FROM other\" FROM reviews -- FROM comment", ["reviews"]),
    ],
)
def test_the_tables_that_a_query_reads_are_its_dependencies(sql: str, tables: list[str]) -> None:
    source = as_source(sql)
    assert isinstance(source, SqlSource)
    assert sorted(key.to_user_string() for key in source.deps) == sorted(tables)
    asset = moods(sql)
    assert asset.asset_deps[asset.key] == {dg.AssetKey.from_user_string(name) for name in tables}


def test_the_arguments_of_a_function_are_its_dependencies() -> None:
    def rows(context: dg.AssetExecutionContext, reviews: pd.DataFrame, shops: pa.Table) -> pd.DataFrame:
        raise NotImplementedError

    source = FunctionSource.of(rows)
    assert source.deps == [dg.AssetKey("reviews"), dg.AssetKey("shops")]
    assert source.wants_context


def test_a_function_with_arguments_that_name_no_asset_is_refused() -> None:
    def rows(*tables: pd.DataFrame) -> pd.DataFrame:
        raise NotImplementedError

    with pytest.raises(InputError, match=r"rows: \[.\*tables.*one argument per upstream asset"):
        FunctionSource.of(rows)


def test_an_annotation_that_is_only_there_for_the_type_checker_is_refused() -> None:
    def rows(reviews: Any) -> Any:
        raise NotImplementedError

    rows.__annotations__["reviews"] = "polars.DataFrame"
    with pytest.raises(InputError, match=r"rows: an annotation is not known at run time \(name 'polars'"):
        FunctionSource.of(rows)


# ---- reading it ------------------------------------------------------------------------------------------------------


def test_rows_come_through_the_default_io_manager_as_pandas(house: House) -> None:
    @dg.asset
    def reviews() -> pd.DataFrame:
        return pd.DataFrame(ROWS, index=[9, 8, 7, 6, 5, 4])

    house.done(reviews, moods(keep=["grp"]))
    assert house.rows("moods", "id, grp") == list(zip(ROWS["id"], ROWS["grp"], strict=True))


@pytest.mark.parametrize("kind", ["Table", "RecordBatchReader"])
def test_rows_may_be_any_arrow(house: House, kind: str) -> None:
    table = pa.table(ROWS)

    @llm_table(row_key="id", prompt="{text}", output=Labels(["x", "y"]), llm="llm", model="m")
    def moods() -> Any:
        return table if kind == "Table" else pa.RecordBatchReader.from_batches(table.schema, table.to_batches(2))

    house.done(moods)
    assert house.rows("moods", "id") == [(n,) for n in ROWS["id"]]


def test_rows_may_be_polars(house: House) -> None:
    polars: Any = pytest.importorskip("polars", reason="polars is not among the dependencies")

    @llm_table(row_key="id", prompt="{text}", output=Labels(["x", "y"]), llm="llm", model="m")
    def moods() -> Any:
        return polars.DataFrame(ROWS)

    house.done(moods)
    assert house.rows("moods", "id") == [(n,) for n in ROWS["id"]]


def test_a_query_joins_and_filters_tables(house: House) -> None:
    shops = rows_asset("shops", pa.table({"grp": ["a", "b"], "shop": ["one's", "two"]}))
    query = """
        WITH chosen AS (SELECT * FROM reviews WHERE id > 1)
        SELECT id, shop || ': ' || text AS "the text" FROM chosen JOIN shops USING (grp);
    """
    house.done(rows_asset("reviews", pa.table(ROWS)), shops, moods(query, prompt="{the text}"))
    assert sorted(house.server.prompts) == ["one's: x", "two: v", "two: y"]


@pytest.mark.parametrize("end", ["-- one is enough", "; -- one; is enough", "; /* one */ ;\n"])
def test_a_query_may_end_in_a_comment(house: House, end: str) -> None:
    house.done(rows_asset("reviews", pa.table(ROWS)), moods(f"SELECT *, 'é;' FROM reviews WHERE id = 1 {end}"))
    assert house.server.prompts == ["u"]


def test_a_query_reads_a_schema(house: House) -> None:
    reviews = rows_asset("reviews", pa.table(ROWS), key_prefix=["shop", "eu"])
    house.done(reviews, moods('SELECT * FROM "shop.eu".reviews'))
    assert len(house.server.prompts) == 6


@pytest.mark.parametrize("kind", [pd.DataFrame, pa.Table, None])
def test_a_function_gets_what_it_is_annotated_with(house: House, kind: type | None) -> None:
    got: list[Any] = []

    def moods(context: dg.AssetExecutionContext, reviews: Any) -> Any:
        got.extend([context, reviews])
        return reviews

    if kind is None:
        del moods.__annotations__["reviews"]
    else:
        moods.__annotations__["reviews"] = kind
    table = llm_table(row_key="id", prompt="{text}", output=Labels(["x", "y"]), llm="llm", model="m")(moods)
    house.done(rows_asset("reviews", pa.table(ROWS)), table)
    context, reviews = got
    assert context.asset_key == dg.AssetKey("moods")
    assert type(reviews) is (kind or pa.Table)
    assert len(house.server.prompts) == 6


def test_a_function_is_not_called_where_nothing_is_planned(house: House) -> None:
    calls: list[int] = []

    @llm_table(row_key="id", prompt="{text}", output=Labels(["x", "y"]), llm="llm", model="m")
    def moods(reviews: pd.DataFrame) -> pd.DataFrame:
        """Reviews in English."""
        calls.append(len(reviews))
        return reviews

    assert moods.descriptions_by_key[moods.key] == "Reviews in English."
    house.server.checks_before_end = 4
    house.done(rows_asset("reviews", pa.table(ROWS)), moods)
    assert calls == [6]


def test_a_source_that_was_never_materialized_says_so(house: House) -> None:
    reviews = rows_asset("reviews", pa.table(ROWS))
    table = moods()
    result = house.run(reviews, table, select=[table])
    assert "isn't there yet. Materialize the upstream assets first." in failure(result)
    house.done(rows_asset("other", pa.table(ROWS)))
    result = house.run(reviews, table, select=[table])
    assert not result.success
    assert "reviews" in failure(result)


# ---- partitions ------------------------------------------------------------------------------------------------------


def test_one_partition_of_an_unpartitioned_source_is_written(house: House) -> None:
    reviews, table = rows_asset("reviews", pa.table(ROWS)), grouped()
    house.done(reviews)
    house.done(reviews, table, select=[table], partition="a")
    assert sorted(house.server.prompts) == ["u", "x"]
    assert house.rows("moods", "id, grp, partition_key, status") == [(1, "a", "a", "ok"), (4, "a", "a", "ok")]
    house.done(reviews, table, select=[table], partition="b")
    assert house.rows("moods", "id, partition_key") == [(1, "a"), (2, "b"), (4, "a"), (5, "b")]


def test_a_range_of_partitions_is_one_run_and_leaves_the_others(house: House) -> None:
    reviews, table = rows_asset("reviews", pa.table(ROWS)), grouped()
    house.done(reviews)
    house.done(reviews, table, select=[table], partition="a")
    house.done(reviews, table, select=[table], partition="d")
    house.server.forget()
    house.done(reviews, table, select=[table], partitions=("b", "d"))
    assert sorted(house.server.prompts) == ["v", "w", "y"]
    assert house.rows("moods", "id, partition_key") == [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "b"), (6, "d")]


def test_each_partition_of_a_range_shows_its_own_numbers_and_they_add_up(house: House) -> None:
    more = {"id": [7, 8], "text": ["v", "bad"], "grp": ["c", "c"]}
    rows = {name: values + more[name] for name, values in ROWS.items()}
    reviews, table = rows_asset("reviews", pa.table(rows)), grouped()
    wrong = errored("too_long", "9 > 8", status=400)
    house.server.rule = lambda prompt, body: wrong if prompt == "bad" else by_first_label(prompt, body)
    house.done(reviews)
    house.done(reviews, table, select=[table], partition="d")
    result = house.run(reviews, table, select=[table], partitions=("b", "d"))
    shown = {
        found.partition: {name: found.metadata[name].value for name in NUMBERS}
        for found in result.asset_materializations_for_node("moods")
    }
    # "v" stands in b and in c: it is asked once, and counted where it stands first.
    assert shown == {
        "b": dict(zip(NUMBERS, (2, 0, 2, 0, 14, 6), strict=True)),
        "c": dict(zip(NUMBERS, (3, 1, 2, 0, 7, 3), strict=True)),
        "d": dict(zip(NUMBERS, (1, 0, 0, 1, 0, 0), strict=True)),
    }


def test_a_partition_that_is_materialized_again_replaces_its_own_rows_only(house: House) -> None:
    table = grouped()
    house.done(rows_asset("reviews", pa.table(ROWS)))
    for key in ("a", "b"):
        house.done(rows_asset("reviews", pa.table(ROWS)), table, select=[table], partition=key)
    fewer = rows_asset("reviews", pa.table(ROWS).slice(0, 1))
    house.done(fewer)
    house.done(fewer, table, select=[table], partition="a")
    assert house.rows("moods", "id, partition_key") == [(1, "a"), (2, "b"), (5, "b")]


def test_an_empty_partition_is_materialized_without_rows(house: House) -> None:
    reviews, table = rows_asset("reviews", pa.table(ROWS).slice(0, 2)), grouped()
    house.done(reviews)
    house.done(reviews, table, select=[table], partition="d")
    assert house.rows("moods") == []
    house.done(reviews, table, select=[table], partition="a")
    assert house.rows("moods", "id, partition_key, status") == [(1, "a", "ok")]


def test_a_null_partition_key_belongs_to_no_partition(house: House) -> None:
    reviews = rows_asset("reviews", pa.table({**ROWS, "grp": ["a", None, None, "b", "b", "d"]}))
    table = grouped()
    house.done(reviews)
    house.done(reviews, table, select=[table], partitions=("a", "d"))
    assert house.rows("moods", "id") == [(1,), (4,), (5,), (6,)]


@pytest.mark.parametrize("hostile", ["it's", 'quo"te', "); DROP TABLE reviews; --"])
def test_a_hostile_partition_key_is_a_value(house: House, hostile: str) -> None:
    partitions = dg.StaticPartitionsDefinition([hostile, "b"])
    reviews = rows_asset("reviews", pa.table({**ROWS, "grp": [hostile, "b", "c", hostile, "b", "d"]}))
    table = moods(partitions_def=partitions, partition_expr="grp")
    house.done(reviews)
    for key in (hostile, "b"):
        house.done(reviews, table, select=[table], partition=key)
    assert house.rows("moods", "id, partition_key") == [(1, hostile), (2, "b"), (4, hostile), (5, "b")]


def partitioned_reviews(io_manager: str) -> dg.AssetsDefinition:
    # Dagster's own file IO manager stores one partition per run.
    policy = dg.BackfillPolicy.single_run() if io_manager == "tables" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)

        @dg.asset(
            partitions_def=GROUPS,
            backfill_policy=policy,
            io_manager_key=io_manager,
            metadata={"partition_expr": "grp"},
        )
        def reviews(context: dg.AssetExecutionContext) -> pd.DataFrame:
            frame = pd.DataFrame(ROWS)
            return frame[frame["grp"].isin(list(context.partition_keys))]

    return reviews


@pytest.mark.parametrize("io_manager", ["tables", "io_manager"])
def test_an_equally_partitioned_source_gives_the_partitions_of_the_run(house: House, io_manager: str) -> None:
    reviews, table = partitioned_reviews(io_manager), grouped()
    for key in GROUPS.get_partition_keys():
        house.done(reviews, partition=key)
    house.done(reviews, table, select=[table], partition="a")
    assert sorted(house.server.prompts) == ["u", "x"]
    house.done(reviews, table, select=[table], partitions=("b", "d"))
    assert house.rows("moods", "id, partition_key") == [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "b"), (6, "d")]


@pytest.mark.parametrize("kind", [pd.DataFrame, pa.Table])
def test_a_function_gets_the_partitions_of_the_run_as_one_table(house: House, kind: type) -> None:
    got: list[Any] = []

    def moods(reviews: Any) -> Any:
        got.append(reviews)
        return reviews

    moods.__annotations__["reviews"] = kind
    table = llm_table(
        row_key="id",
        prompt="{text}",
        output=Labels(["x", "y"]),
        llm="llm",
        model="m",
        partitions_def=GROUPS,
        partition_expr="grp",
    )(moods)
    reviews = partitioned_reviews("tables")
    house.done(reviews, partitions=("a", "d"))
    house.done(reviews, table, select=[table], partitions=("b", "c"))
    assert [(type(value), len(value)) for value in got] == [(kind, 3)]
    assert house.rows("moods", "id") == [(2,), (3,), (5,)]


def test_an_unpartitioned_table_over_a_partitioned_source_is_refused_with_the_way_out(house: House) -> None:
    reviews = partitioned_reviews("tables")
    house.done(reviews, partitions=("a", "d"))
    table = moods()
    message = failure(house.run(reviews, table, select=[table]))
    assert message.startswith("moods: the source reviews is partitioned and the table isn't. Read it with SQL instead")
    by_query = moods("SELECT * FROM reviews")
    house.done(reviews, by_query, select=[by_query])
    assert house.rows("moods", "count(*)") == [(6,)]


@pytest.mark.parametrize(
    ("argument", "value", "says"),
    [
        ("row_key", ["id", "day"], r"t: row_key is a text; got a list\."),
        ("prompt", None, r"t: prompt is a text; got a NoneType\."),
        ("model", " ", r"t: model is a text; got an empty one\."),
        ("llm", OpenAIBatch(api_key="sk-secret"), r"t: llm is a text; got a OpenAIBatch\. .*resources=\{'…': …\}"),
        ("tables", DuckDBTables(path="x"), r"t: tables is a text; got a DuckDBTables\. It is the key of a resource"),
        ("source", pa.table({"id": [1]}), r"t: source is an asset.*got a Table\..*upstream asset"),
        ("labels", {"a", "b"}, r"t: Labels are a list"),
    ],
)
def test_an_argument_of_another_type_is_named(argument: str, value: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        moods(**{"name": "t", argument: value})
    assert "secret" not in str(raised.value)


def test_a_place_where_tables_can_not_be_written_is_told_before_anything_is_asked(house: House) -> None:
    reviews = rows_asset("reviews", pa.table(ROWS))
    house.done(reviews)
    other = moods(tables="io_manager")
    result = house.run(reviews, other, select=[other], resources={"io_manager": dg.mem_io_manager})
    assert "moods: resource 'io_manager' is a InMemoryIOManager, where LLM tables can't be written" in failure(result)
    assert house.server.requests == []


def test_a_partition_of_a_table_with_other_columns_is_not_asked(house: House) -> None:
    reviews, table = rows_asset("reviews", pa.table(ROWS)), grouped()
    house.done(reviews)
    house.done(reviews, table, select=[table], partition="a")
    house.server.forget()
    renamed = grouped(label_column="mood")
    result = house.run(reviews, renamed, select=[renamed], partition="b")
    assert "it has 'label' and doesn't have 'mood'. Nothing was asked." in failure(result)
    assert house.server.requests == []
    assert house.ledger.plans.find(schema.plan.c.state == PlanState.OPEN) == []


def test_a_source_that_nobody_made_is_told(house: House) -> None:
    table = moods("tikets")
    result = house.run(table)
    assert "moods: The source tikets can't be loaded by its IO manager" in failure(result)
    assert "Is an asset called so" in failure(result)
