"""DuckDB as the engine for columns: connections, quoting, and Parquet written durably."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from .errors import StorageError

UTC = "SET TimeZone = 'UTC'"
"""An instant reads the same wherever a process runs: what is rendered from it is part of the question."""


def connect() -> duckdb.DuckDBPyConnection:
    """A private in-memory engine; Parquet files come and go in the order of their rows."""
    engine = duckdb.connect(
        ":memory:", config={"preserve_insertion_order": True, "autoinstall_known_extensions": False}
    )
    engine.execute(UTC)
    return engine


def quoted(identifier: str) -> str:
    """An identifier for SQL, whatever it contains."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal for SQL, where a value can't be bound."""
    return "'" + text.replace("'", "''") + "'"


def parquet(paths: Sequence[Path], columns: str) -> str:
    """SQL that reads Parquet files; with no file it is an empty relation of ``columns`` (``name TYPE, …``)."""
    if not paths:
        names = [column.strip().rsplit(" ", 1) for column in columns.split(",")]
        empty = ", ".join(f"NULL::{kind} AS {name}" for name, kind in names)
        return f"(SELECT {empty} WHERE false)"
    listed = ", ".join(literal(str(path)) for path in paths)
    return f"read_parquet([{listed}])"


def write_parquet(
    engine: duckdb.DuckDBPyConnection, query: str, path: Path, values: Mapping[str, Any] | None = None
) -> None:
    """Write a query's rows to a Parquet file that appears under its name only when it is whole and durable."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        engine.execute(f"COPY ({query}) TO {literal(str(partial))} (FORMAT parquet, COMPRESSION zstd)", values or None)
        make_durable(partial, path)
    except (OSError, duckdb.IOException) as error:
        raise StorageError(
            f"{path} can't be written ({error}). Free some space or give this process the right to write there; "
            "nothing is lost, run it again."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def make_durable(partial: Path, path: Path) -> None:
    """Flush a finished file and its folder to disk, and give the file its name."""
    with partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def rows(
    engine: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """A small result as Python tuples."""
    return engine.execute(query, values or None).fetchall()
