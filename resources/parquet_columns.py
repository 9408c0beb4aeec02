"""Columns in Parquet files: vectors keep their length, in the Arrow schema that a file carries.

Parquet knows no list of a fixed length. Arrow writes its own schema into a file's metadata, and pyarrow, polars and
pandas heed it; DuckDB does neither, so both are done here.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from .duck import exact, literal, quoted, rows
from .errors import StorageError

_SCHEMA = "ARROW:schema"
_LENGTH_OR_QUOTED = re.compile(r""""(?:[^"]|"")*"|'(?:[^']|'')*'|\[\d+\]""")


def types_of(engine: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    """SQL type per column of a query."""
    return {name: kind for name, kind, *_ in rows(engine, f"DESCRIBE {query}")}


def storable(engine: duckdb.DuckDBPyConnection, query: str) -> tuple[str, Mapping[str, str]]:
    """A query's rows in types that Parquet has, and the metadata with which a file gives the vectors back."""
    query = exact(engine, query)
    types = types_of(engine, query)
    # A null vector written as ARRAY has elements, which pyarrow refuses to read (DuckDB 2.0, pyarrow 26); a LIST's
    # has none.
    lists = {name: _any_length(kind) for name, kind in types.items() if _any_length(kind) != kind}
    if not lists:
        return query, {}
    columns = ", ".join(f"NULL::{kind} AS {quoted(name)}" for name, kind in types.items())
    schema: Any = engine.sql(f"SELECT {columns} WHERE false").to_arrow_table().schema
    return f"SELECT * REPLACE ({_casts(lists)}) FROM ({query})", {_SCHEMA: _text_of(schema)}


def stored_sql(engine: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> str:
    """SQL for the rows of files that have one schema, vectors with the length that the first file says.

    Raises:
        StorageError: The first file can't be read.
    """
    listed = ", ".join(literal(_not_a_pattern(str(path))) for path in files)
    # A folder may be called `a=b` without meaning a column.
    plain = f"SELECT * FROM read_parquet([{listed}], hive_partitioning = false)"
    try:
        schema = pq.read_schema(files[0])  # pyright: ignore[reportUnknownMemberType]
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"{files[0]} can't be read as Parquet ({error}). Put it back, or delete it and run again."
        ) from error
    asked = engine.from_arrow(schema.empty_table())
    fixed = {
        name: str(kind)
        for name, kind in zip(asked.columns, asked.types, strict=True)
        if _any_length(str(kind)) != str(kind)
    }
    return plain.replace("*", f"* REPLACE ({_casts(fixed)})", 1) if fixed else plain


def _any_length(kind: str) -> str:
    """A type with lists in the place of fixed-size lists, at any depth; names and values in quotes stay."""
    return _LENGTH_OR_QUOTED.sub(lambda found: "[]" if found[0].startswith("[") else found[0], kind)


def _casts(types: Mapping[str, str]) -> str:
    return ", ".join(f"{quoted(name)}::{kind} AS {quoted(name)}" for name, kind in types.items())


def _text_of(schema: Any) -> str:
    serialized: bytes = schema.serialize().to_pybytes()
    return base64.b64encode(serialized).decode()


def _not_a_pattern(path: str) -> str:
    return re.sub(r"[*?\[]", lambda found: f"[{found[0]}]", path)


def differing(new: Mapping[str, str], old: Mapping[str, str]) -> Iterable[str]:
    """The columns that only one of two tables has, or that have two types."""
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))
