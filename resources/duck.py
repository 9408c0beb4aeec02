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
    write_parquets(engine, {path: query}, values)


def write_parquets(
    engine: duckdb.DuckDBPyConnection,
    queries: Mapping[Path, str],
    values: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write Parquet files, all of which are whole before the first one appears under its name.

    Args:
        engine: Where the queries are run.
        queries: The rows of each file.
        values: Values that are bound in each query.
        metadata: Key-value metadata of the files.
    """
    pairs = ", ".join(f"{literal(name)}: {literal(text)}" for name, text in (metadata or {}).items())
    told = f", KV_METADATA {{{pairs}}}" if pairs else ""
    partials = {path: path.with_name(f"{path.name}.{os.getpid()}.part") for path in queries}
    path = Path()
    try:
        for path, query in queries.items():
            make_folder(path.parent)
            target = literal(str(partials[path]))
            engine.execute(f"COPY ({query}) TO {target} (FORMAT parquet, COMPRESSION zstd{told})", values or None)
        for path, partial in partials.items():
            make_durable(partial, path)
    except (OSError, duckdb.IOException) as error:
        raise StorageError(
            f"{path} can't be written ({error}). Free some space or give this process the right to write there; "
            "nothing is lost, run it again."
        ) from error
    finally:
        for partial in partials.values():
            with contextlib.suppress(OSError):
                partial.unlink()


def exact(engine: duckdb.DuckDBPyConnection, query: str) -> str:
    """The same rows in types that Parquet has: a HUGEINT, such as every sum of integers, would become a float."""
    huge = [name for name, kind, *_ in rows(engine, f"DESCRIBE {query}") if kind in {"HUGEINT", "UHUGEINT"}]
    casts = ", ".join(f"{quoted(name)}::DECIMAL(38, 0) AS {quoted(name)}" for name in huge)
    return f"SELECT * REPLACE ({casts}) FROM ({query})" if huge else query


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        flush(folder.parent)


def make_durable(partial: Path, path: Path) -> None:
    """Flush a finished file and its folder to disk, and give the file its name."""
    with partial.open("rb+") as stream:
        os.fsync(stream.fileno())
    partial.replace(path)
    flush(path.parent)


def flush(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    entries = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


def rows(
    engine: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any] | None = None
) -> list[tuple[Any, ...]]:
    """A small result as Python tuples."""
    return engine.execute(query, values or None).fetchall()
