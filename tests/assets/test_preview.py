"""What a person sees of a table in Dagster's UI: a Markdown parser is the second opinion."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from dagster_batch_llm.assets.preview import first_rows, reasons
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from .conftest import House
from .fake_provider import errored
from .test_body import moods, reviews

HOSTILE = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](data:image/png;base64,AAAA)",
    "a | b\n| --- |\n# title",
    "`code` **bold** _it_ ~~gone~~ &lt; \\| \\",
    "\x1b[2Jred \u202egnp.exe\x00",
    "=HYPERLINK(1)",
]


def relation(table: pa.Table) -> tuple[duckdb.DuckDBPyConnection, str]:
    engine = duckdb.connect()
    engine.register("value", table)
    return engine, "value"


def cells(markdown: str) -> list[list[str]]:
    """A page's one table as text; anything in a cell that isn't plain text fails."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    assert {token.type.removesuffix("_open").removesuffix("_close") for token in tokens} <= {
        *("table", "thead", "tbody", "tr", "th", "td", "inline")
    }
    lines: list[list[str]] = []
    for token in tokens:
        if token.type == "tr_open":
            lines.append([])
        if token.type == "inline":
            children = token.children or []
            assert {child.type for child in children} <= {"text", "text_special"}
            lines[-1].append("".join(child.content for child in children))
    return lines


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_stays_text_in_its_own_cell(text: str) -> None:
    head, row = cells(first_rows(*relation(pa.table({"id": [1], "text": [text], "status": ["ok"]}))))
    assert head == ["id", "text", "status"]
    assert (row[0], row[2]) == ("1", "ok")
    assert all(character.isprintable() for character in row[1])


@given(st.lists(st.text(max_size=80), min_size=1, max_size=4), st.text(min_size=1, max_size=20))
def test_whatever_the_rows_and_the_column_are_called_each_value_is_one_cell(texts: list[str], name: str) -> None:
    table = pa.table({"key": list(range(len(texts))), f"c{name}".replace("\x00", ""): texts})
    head, *body = cells(first_rows(*relation(table)))
    assert len(head) == 2
    assert [row[0] for row in body] == [str(number) for number in range(len(body))]
    assert {len(row) for row in body} == {2}


def test_a_preview_is_short_enough_to_be_shown_without_a_click() -> None:
    table = pa.table({f"column_{n}": ["*" * 500] * 100 for n in range(9)} | {"nothing": [None] * 100})
    text = first_rows(*relation(table))
    assert len(cells(text)) == 2  # the names and one row: a row alone may be longer than that
    narrow = first_rows(*relation(pa.table({"id": range(100), "vector": [[0.5] * 384] * 100})))
    assert len(narrow) < 1000
    assert [row[0] for row in cells(narrow)] == ["id", "0", "1", "2", "3", "4"]
    assert cells(narrow)[1][1].endswith("…")


def test_reasons_are_counted_and_the_most_frequent_comes_first() -> None:
    status = ["ok", "invalid", "errored", "invalid"]
    table = pa.table({"status": status, "error": [None, "no *label*", "<b>quota</b>", "no *label*"]})
    assert cells(reasons(*relation(table))) == [
        ["rows", "status", "error"],
        ["2", "invalid", "no *label*"],
        ["1", "errored", "<b>quota</b>"],
    ]
    assert reasons(*relation(table.slice(0, 1))) == ""


def test_a_materialization_shows_its_first_rows_and_why_others_failed(house: House) -> None:
    fine = house.done(reviews("a", "b"), moods())
    assert cells(fine["batch_llm/preview"])[1][:2] == ["1", "good"]
    assert "batch_llm/errors" not in fine
    house.server.rule = lambda prompt, body: errored("gone", "the <i>model</i> is gone")
    failed = house.done(reviews("a", "b", "c"), moods())
    [_, row] = cells(failed["batch_llm/errors"])
    assert (row[0], row[1]) == ("1", "errored")
    assert "<i>" in row[2]
