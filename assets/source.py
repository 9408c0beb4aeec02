"""Where a table's rows come from: another asset, SQL over the tables, or a Python function over assets.

A source is only read by the run that plans; the runs that collect use the plan's own copy.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_type_hints

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa

from ..resources.duck import connect, literal, rows
from ..resources.errors import InputError
from ..resources.tables import DuckDBTables

_ASSET_NAME = re.compile(r"[\w./-]+")
_KEY_PART = re.compile(r"[A-Za-z0-9_.-]+")  # what Dagster allows; a table with another name is no asset's


@dataclass(frozen=True)
class AssetSource:
    """Another asset, loaded through its IO manager."""

    key: dg.AssetKey

    @property
    def text(self) -> str:
        """What is declared of it, for the code version."""
        return self.key.to_user_string()

    @property
    def deps(self) -> Sequence[dg.AssetKey]:
        """The upstream assets."""
        return [self.key]

    def bind(self, engine: duckdb.DuckDBPyConnection, context: dg.AssetExecutionContext, **_: Any) -> None:
        """Make the rows the relation ``source``."""
        engine.register("source", _as_columns(_load(context, self.key, None), self.key.to_user_string()))


@dataclass(frozen=True)
class SqlSource:
    """A query over the tables; the tables that it names are its dependencies."""

    sql: str

    @property
    def text(self) -> str:
        """What is declared of it, for the code version."""
        return self.sql

    @property
    def deps(self) -> Sequence[dg.AssetKey]:
        """The assets behind the tables that the query reads; a schema is the key's prefix, as in `DuckDBTables`."""
        return [dg.AssetKey(path) for path in sorted(set(_tables_of(_parsed(self.sql), frozenset())))]

    def bind(
        self,
        engine: duckdb.DuckDBPyConnection,
        context: dg.AssetExecutionContext,
        *,
        tables: DuckDBTables,
        scratch: Path,
    ) -> None:
        """Make the rows the relation ``source``, through a copy, so that the database is free again at once."""
        del context
        file = scratch / "source.parquet"
        try:
            tables.export(_without_end(self.sql), file)
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            raise InputError(f"The source query failed ({error}): {self.sql!r}") from error
        engine.execute(f"CREATE TEMP VIEW source AS FROM read_parquet({literal(str(file))})")


@dataclass(frozen=True)
class FunctionSource:
    """A Python function over upstream assets; its arguments are asset names, as in Dagster's own assets."""

    function: Callable[..., Any]
    upstream: tuple[tuple[str, dg.AssetKey, type | None], ...]
    wants_context: bool

    @property
    def text(self) -> str:
        """What is declared of it, for the code version; the function's own code has ``code_version``."""
        return self.function.__name__

    @classmethod
    def of(cls, function: Callable[..., Any]) -> FunctionSource:
        """Read a function's signature.

        Raises:
            InputError: An annotation can't be resolved, or an argument can't be an asset's name.
        """
        try:
            hints = get_type_hints(function)
        except NameError as error:
            raise InputError(
                f"{function.__name__}: an annotation is not known at run time ({error}); import it outside of "
                "`if TYPE_CHECKING`."
            ) from error
        parameters = inspect.signature(function).parameters
        starred = [str(p) for p in parameters.values() if p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
        if starred:
            raise InputError(f"{function.__name__}: {starred} name no asset; write one argument per upstream asset.")
        names = list(parameters)
        wants_context = bool(names) and names[0] == "context"
        upstream = tuple((n, dg.AssetKey(n), hints.get(n)) for n in names[int(wants_context) :])
        return cls(function, upstream, wants_context)

    @property
    def deps(self) -> Sequence[dg.AssetKey]:
        """The upstream assets."""
        return [key for _, key, _ in self.upstream]

    def bind(self, engine: duckdb.DuckDBPyConnection, context: dg.AssetExecutionContext, **_: Any) -> None:
        """Make the rows the relation ``source``."""
        arguments = {name: _load(context, key, kind) for name, key, kind in self.upstream}
        value = self.function(context, **arguments) if self.wants_context else self.function(**arguments)
        engine.register("source", _as_columns(value, f"function {self.function.__name__}"))


Source = AssetSource | SqlSource | FunctionSource


def as_source(source: str | dg.AssetKey | dg.AssetsDefinition | dg.AssetSpec) -> Source:
    """What a user wrote for ``source=``: a string of one word names an asset, any other string is SQL."""
    if isinstance(source, str):
        named = _ASSET_NAME.fullmatch(source)
        return AssetSource(dg.AssetKey.from_user_string(source)) if named else SqlSource(source)
    return AssetSource(source if isinstance(source, dg.AssetKey) else source.key)


def _load(context: dg.AssetExecutionContext, key: dg.AssetKey, kind: type | None) -> Any:
    """An upstream asset's value; of a partitioned one, the partitions of this run."""
    upstream = context.job_def.asset_layer.get(key).partitions_def
    if upstream is None:
        return context.load_asset_value(key, python_type=kind)
    if not context.has_partition_key and not context.has_partition_key_range:
        raise InputError(
            f"the source {key.to_user_string()} is partitioned and the table isn't. Read it with SQL instead "
            "(source='SELECT … FROM …'), or partition the table alike."
        )
    values = [context.load_asset_value(key, python_type=kind, partition_key=k) for k in context.partition_keys]
    if len(values) == 1:
        return values[0]
    return _concatenated([_as_columns(value, key.to_user_string()) for value in values], kind)


def _concatenated(values: Sequence[Any], kind: type | None) -> Any:
    engine = connect()
    for number, value in enumerate(values):
        engine.register(f"part{number}", value)
    together = engine.sql(" UNION ALL BY NAME ".join(f"FROM part{n}" for n in range(len(values))))
    return together.df() if kind is not None and kind.__module__.startswith("pandas") else together.to_arrow_table()


def _as_columns(value: Any, what: str) -> Any:
    """Something that DuckDB can read as a table: Arrow, pandas, polars, or any Arrow stream."""
    if isinstance(value, pa.Table | pa.RecordBatchReader):
        return value
    try:
        if isinstance(value, pd.DataFrame):
            return pa.Table.from_pandas(value, preserve_index=False)
        if hasattr(value, "__arrow_c_stream__"):
            return pa.RecordBatchReader.from_stream(value)
    except (pa.ArrowException, TypeError, ValueError) as error:
        kind = type(value).__name__
        raise InputError(f"{what} gave a {kind} that can't be read as columns of one type each ({error}).") from error
    raise InputError(f"{what} gave a {type(value).__name__}; an LLM table needs pandas, polars or Arrow rows.")


def _parsed(sql: str) -> Any:
    """The query's syntax tree.

    DuckDB's own list of table names comes from binding the query, which needs the columns of tables that may not
    be there yet: ``JOIN … USING`` and ``read_parquet`` fail.
    """
    serialized = rows(connect(), "SELECT json_serialize_sql($sql::VARCHAR)", {"sql": sql})[0][0]
    tree: dict[str, Any] = json.loads(serialized)
    if tree["error"]:
        raise InputError(f"The source query can't be parsed ({tree['error_message']}): {sql!r}")
    if len(tree["statements"]) != 1:
        raise InputError(f"A source query has to be one SELECT, not {len(tree['statements'])} statements: {sql!r}")
    return tree["statements"][0]["node"]


def _without_end(sql: str) -> str:
    """The query without its semicolon, on lines of its own: a copy puts more after it, which a comment would hide."""
    encoded = sql.encode()  # offsets of tokens count bytes
    ends = [
        at for at, kind in duckdb.tokenize(sql) if kind == duckdb.token_type.operator and encoded[at : at + 1] == b";"
    ]
    return encoded[: ends[0] if ends else None].decode() + "\n"


def _tables_of(node: Any, ctes: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """The tables that a syntax tree reads, as asset key paths; names in `ctes` are the query's own."""
    if isinstance(node, list):
        for child in cast("list[Any]", node):
            yield from _tables_of(child, ctes)
    if not isinstance(node, dict):
        return
    fields = cast("dict[str, Any]", node)
    if fields.get("type") == "RECURSIVE_CTE_NODE":
        ctes |= {fields["cte_name"].lower()}
    own: list[dict[str, Any]] = fields.get("cte_map", {}).get("map", [])
    for entry in own:
        yield from _tables_of(entry["value"], ctes)
        ctes |= {entry["key"].lower()}
    if fields.get("type") == "BASE_TABLE":
        schema, table = fields.get("schema_name") or "", str(fields["table_name"])
        path = (*(schema.split(".") if schema not in {"", "main"} else ()), table)
        # Without a schema, a dot makes it a file: FROM 'reviews.parquet'.
        ours = schema or not (table.lower() in ctes or "." in table)
        if ours and all(_KEY_PART.fullmatch(part) for part in path):
            yield path
    for name, child in fields.items():
        if name != "cte_map":
            yield from _tables_of(child, ctes)
