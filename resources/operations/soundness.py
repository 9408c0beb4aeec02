"""Whether a file is what the ledger says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from ..answers import COLUMNS, MANIFEST_COLUMNS
from ..duck import connect, parquet, quoted, rows


def problem_of_answers(path: Path, outcomes: Mapping[str, int]) -> str | None:
    """What is wrong with an answers file; None if all of it can be read and it adds up with its outcomes."""
    wrong = problem_of(path, COLUMNS)
    if wrong is not None:
        return wrong
    counted = dict(rows(connect(), f"SELECT outcome, count(*) FROM {parquet([path], COLUMNS)} GROUP BY outcome"))
    if counted != {outcome: count for outcome, count in outcomes.items() if count}:
        return f"has the outcomes {counted}, the ledger says {dict(outcomes)}"
    return None


def problem_of_manifest(path: Path, count: int) -> str | None:
    """What is wrong with the manifest of an attempt of so many rows."""
    return problem_of(path, MANIFEST_COLUMNS, count)


def problem_of(path: Path, columns: str = "", count: int | None = None) -> str | None:
    """What is wrong with a Parquet file: it is missing, can't be read to its end, or has other columns or rows."""
    if not path.is_file():
        return "is missing"
    engine = connect()
    relation = parquet([path], columns)
    try:
        described = {str(name): str(kind) for name, kind, *_ in rows(engine, f"DESCRIBE SELECT * FROM {relation}")}
        missing = [name for name, kind in _wanted(columns) if described.get(name) != kind]
        if missing:
            return f"doesn't have the column(s) {', '.join(missing)} as it should"
        # Every value is decoded: a footer may be whole where a page isn't.
        read = ", ".join(f"bit_xor(hash({quoted(name)}))" for name in described)
        found = int(rows(engine, f"SELECT count(*), {read} FROM {relation}")[0][0])
    except duckdb.Error as error:
        return f"can't be read ({error})"
    return None if count in {None, found} else f"has {found} rows, the ledger says {count}"


def _wanted(columns: str) -> Sequence[tuple[str, str]]:
    pairs = (column.strip().rsplit(" ", 1) for column in columns.split(",") if column.strip())
    return [(name, kind) for name, kind in pairs]
