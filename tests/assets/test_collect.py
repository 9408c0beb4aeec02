"""The table: every type survives, and no name of a column is too odd."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import Text, classify_asset, embed_asset, llm_table

from .conftest import House, rows_asset
from .fake_provider import answered


def moods(**changed: Any) -> dg.AssetsDefinition:
    given: dict[str, Any] = {
        "name": "moods",
        "source": "reviews",
        "row_key": "id",
        "prompt": "{text}",
        "labels": ["x", "y"],
        "llm": "llm",
        "model": "m",
    }
    return classify_asset(**{**given, **changed})


UTC = dt.UTC
KEYS = {
    "integer": pa.array([2**62, 1, -5], pa.int64()),
    "small integer": pa.array([1, 2, 3], pa.int16()),
    "unsigned": pa.array([2**64 - 1, 0, 7], pa.uint64()),
    "unicode": pa.array(["ключ", "鍵 😀", "e\u0301"]),
    "hostile": pa.array(["'; DROP TABLE moods; --", '{"id": 1}', "a-b\n"]),
    "date": pa.array([dt.date(2026, 1, n) for n in (1, 2, 3)]),
    "timestamp": pa.array([dt.datetime(2026, 1, 1, 12, 0, 0, n) for n in (1, 2, 3)], pa.timestamp("us")),
    "instant": pa.array([dt.datetime(2026, 1, n, tzinfo=UTC) for n in (1, 2, 3)], pa.timestamp("us", "UTC")),
    "decimal": pa.array([Decimal("1.10"), Decimal("2.20"), Decimal("3.30")], pa.decimal128(38, 2)),
    "bytes": pa.array([b"\x00", b"\x01", b"\xff"], pa.binary()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_row_key_keeps_its_type_and_its_values(house: House, kind: str) -> None:
    table = pa.table({"id": KEYS[kind], "text": ["a", "b", "c"]})
    house.done(rows_asset("reviews", table), moods(keep=["text"]))
    written = house.tables.query("SELECT id, text FROM moods ORDER BY text")
    # DuckDB shows instants in the time zone of the session, whatever zone they were written in.
    shown = house.types("SELECT id FROM moods")["id"].replace("tz=Etc/UTC", "tz=UTC")
    assert shown == str(KEYS[kind].type)
    assert written.to_pydict() == table.to_pydict()


KEPT = {
    "nullable_int": pa.array([1, None, 3], pa.int32()),
    "nullable_bool": pa.array([True, None, False]),
    "real": pa.array([0.1, None, -1e300], pa.float64()),
    "numbers": pa.array([[1, 2], [], None], pa.list_(pa.field("l", pa.int64()))),
    "record": pa.array([{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}]),
    "seconds": pa.array([dt.datetime(2026, 1, 1), None, None], pa.timestamp("ns")),
    "raw": pa.array([b"\x00\xff", None, b""], pa.binary()),
    "all_null": pa.array([None, None, None], pa.int64()),
}


def test_kept_columns_keep_their_types_and_values(house: House) -> None:
    table = pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"], **KEPT})
    house.done(rows_asset("reviews", table), moods(keep=list(KEPT)))
    written = house.tables.query(f"SELECT {', '.join(KEPT)} FROM moods ORDER BY id")
    assert written.to_pydict() == table.select(list(KEPT)).to_pydict()
    assert house.types(f"SELECT {', '.join(KEPT)} FROM moods") == {name: str(kept.type) for name, kept in KEPT.items()}


def test_nullable_integers_of_pandas_stay_integers(house: House) -> None:
    @dg.asset
    def reviews() -> pd.DataFrame:
        stars = pd.array([5, None, 3], dtype="Int64")
        return pd.DataFrame({"id": [1, 2, 3], "text": ["a", "b", "c"], "stars": stars})

    house.done(reviews, moods(keep=["stars"], prompt="{text} {stars}"))
    assert house.rows("moods", "id, stars, status") == [(1, 5, "ok"), (2, None, "not_asked"), (3, 3, "ok")]
    assert sorted(house.server.prompts) == ["a 5", "c 3"]


OURS = ["answer", "outcome", "reason", "vector", "key", "row", "n", "best", "answered", "prompt", "bytes", "source"]
ODD = ["a.b", 'quo"te', "it's", "ünï", "select", "$task", "my col", "{x}"]


def test_kept_columns_may_be_called_like_ours_or_anything(house: House) -> None:
    columns = {name: [f"{name} 1", f"{name} 2"] for name in OURS + ODD}
    house.done(rows_asset("reviews", pa.table({"id": [1, 2], "text": ["a", "b"], **columns})), moods(keep=OURS + ODD))
    table = house.table("moods")
    assert table.schema.names == ["id", *OURS, *ODD, "label", "status", "error"]
    assert table.select(OURS + ODD).to_pydict() == columns
    assert table.column("label").to_pylist() == ["x", "x"]


@pytest.mark.parametrize("name", ["key", "row", "answer", 'quo"te.'])
def test_a_row_key_may_be_called_anything(house: House, name: str) -> None:
    house.done(rows_asset("reviews", pa.table({name: [2, 1], "text": ["a", "b"]})), moods(row_key=name))
    assert house.table("moods").schema.names == [name, "label", "status", "error"]
    assert [row[0] for row in house.rows("moods")] == [1, 2]


@pytest.mark.parametrize("name", ["answer", "outcome", "key", "a'b\"c.d\\e ünï"])
def test_an_output_column_may_be_called_anything(house: House, name: str) -> None:
    house.done(rows_asset("reviews", pa.table({"id": [1], "text": ["a"]})), moods(label_column=name))
    assert house.rows("moods") == [(1, "x", "ok", None)]


def test_rows_come_in_the_order_of_the_source(house: House) -> None:
    ids = [5, 3, 9, 1, 7] * 20
    table = pa.table({"id": [f"{n}-{x}" for n, x in enumerate(ids)], "text": [str(x) for x in ids]})
    house.done(rows_asset("reviews", table), moods())
    assert house.tables.query("SELECT id FROM moods").column(0).to_pylist() == table.column(0).to_pylist()


def vectors(**changed: Any) -> dg.AssetsDefinition:
    given: dict[str, Any] = {"name": "vectors", "source": "reviews", "row_key": "id", "prompt": "{text}", "model": "m"}
    return embed_asset(llm="llm", **{**given, **changed})


def test_vectors_have_one_length_in_duckdb_and_in_arrow(house: House) -> None:
    metadata = house.done(rows_asset("reviews", pa.table({"id": [1, 2], "text": ["a", None]})), vectors())
    ((kind,),) = house.rows("(SELECT typeof(vector) AS kind FROM vectors LIMIT 1)")
    assert kind == "FLOAT[3]"
    assert house.types("FROM vectors")["vector"].startswith("fixed_size_list<")
    assert house.types("FROM vectors")["vector"].endswith(": float>[3]")
    assert house.rows("vectors", "id, vector") == [(1, [1.0, 1.0, 0.5]), (2, None)]
    columns = {column.name: column.type for column in metadata["dagster/column_schema"].columns}
    assert columns == {"id": "BIGINT", "vector": "FLOAT[3]", "status": "VARCHAR", "error": "VARCHAR"}


def test_a_vector_is_searched_with_duckdbs_own_functions(house: House) -> None:
    house.done(rows_asset("reviews", pa.table({"id": [1, 2], "text": ["a", "bbbbbb"]})), vectors())
    query = "(SELECT id, array_distance(vector, [1, 1, 0.5]::FLOAT[3]) AS far FROM vectors)"
    assert house.rows(query, order="far")[0] == (1, 0.0)


def test_partitions_of_vectors_fit_together_whichever_comes_first(house: House) -> None:
    groups = dg.StaticPartitionsDefinition(["none", "some", "null"])
    table = pa.table({"id": [1, 2], "text": ["a", None], "grp": ["some", "null"]})
    reviews, parts = rows_asset("reviews", table), vectors(partitions_def=groups, partition_expr="grp")
    house.done(reviews)
    for key in ("none", "some", "null", "some"):
        house.done(reviews, parts, select=[parts], partition=key)
    assert house.rows("vectors", "id, vector, status") == [(1, [1.0, 1.0, 0.5], "ok"), (2, None, "not_asked")]


def test_free_text_is_kept_as_it_came(house: House) -> None:
    house.server.rule = lambda prompt, body: answered(f'{{"not": "parsed"}} 😀\n\t"{prompt}" \\ \u2028')

    @llm_table(row_key="id", prompt="{text}", output=Text("summary", "Summarize."), llm="llm", model="m")
    def summaries(reviews: pd.DataFrame) -> pd.DataFrame:
        return reviews

    house.done(rows_asset("reviews", pa.table({"id": [1], "text": ["a"]})), summaries)
    assert house.rows("summaries") == [(1, '{"not": "parsed"} 😀\n\t"a" \\ \u2028', "ok", None)]
    assert house.server.requests[0]["messages"][0]["content"] == "Summarize."


def test_hostile_rows_are_asked_and_answered_as_they_are(house: House) -> None:
    texts = ["{text}", "'; DROP TABLE x; --", "nul \x00!", "😀", '{"custom_id": "x"}', "a\u2028b\r\nc", "\\u0041"]
    house.server.rule = lambda prompt, body: answered(json.dumps({"label": "y" if prompt == texts[2] else "x"}))
    house.done(rows_asset("reviews", pa.table({"id": texts, "text": texts})), moods())
    assert sorted(house.server.prompts) == sorted(texts)
    assert dict(house.rows("moods", "id, label")) == {text: "y" if text == texts[2] else "x" for text in texts}
