"""A look at a table's rows in Dagster's UI: Markdown that nothing in a row can break out of."""

from __future__ import annotations

import re
from collections.abc import Sequence

import duckdb

from ..resources.duck import quoted, rows
from ..resources.visible import visible
from .task import ERROR, STATUS

_ROWS = 5
_REASONS = 5
_CELL = 60
_INLINE = 1000
"""Dagster's UI shows shorter Markdown at once and hides longer behind a button (dagster-webserver 1.13.27)."""
_MARKUP = re.compile(r"[\\`*_\[\]<>|~&]")


def first_rows(engine: duckdb.DuckDBPyConnection, relation: str) -> str:
    """The first rows of a table as a Markdown table, each value cut to 60 characters.

    Args:
        engine: Where the relation can be read.
        relation: SQL of the table, in its order.

    Returns:
        As many rows, at most five, as the UI shows without a click; at least one.
    """
    names = [name for name, *_ in rows(engine, f"DESCRIBE FROM {relation}")]
    # One character more than is shown, so that a cut shows; the vectors of five rows are never cast whole to text.
    texts = ", ".join(f"left({quoted(name)}::VARCHAR, {_CELL + 1})" for name in names)
    return _table(names, rows(engine, f"SELECT {texts} FROM (FROM {relation} LIMIT {_ROWS})"))


def reasons(engine: duckdb.DuckDBPyConnection, relation: str) -> str:
    """The most frequent reasons of a table's error rows as a Markdown table; empty if it has none."""
    found = rows(
        engine,
        f"""
        SELECT count(*)::VARCHAR, {STATUS}, left(split_part({ERROR}, chr(10), 1), 3 * {_CELL}) AS why
        FROM {relation} WHERE {STATUS} <> 'ok'
        GROUP BY {STATUS}, why ORDER BY count(*) DESC, {STATUS}, why
        LIMIT {_REASONS}""",
    )
    return _table(["rows", STATUS, ERROR], found, width=3 * _CELL) if found else ""


def _table(names: Sequence[str], lines: Sequence[Sequence[str | None]], width: int = _CELL) -> str:
    table = _line([_cell(name, width) for name in names]) + _line(["---"] * len(names))
    for number, line in enumerate(lines):
        more = _line([_cell(text, width) for text in line])
        if number and len(table) + len(more) >= _INLINE:
            break
        table += more
    return table


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cell(text: str | None, width: int) -> str:
    """One value on one line, with everything that Markdown or a page would act on taken as text."""
    if text is None:
        return ""
    shown = text if len(text) <= width else f"{text[: width - 1]}…"
    return _MARKUP.sub(r"\\\g<0>", visible(" ".join(shown.split())))
