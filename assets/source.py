"""Where a table's rows come from: another asset, SQL over the tables, or a Python function over assets.

A source is only read by the run that plans; the runs that collect use the plan's own copy.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa

from ..resources.duck import connect, literal
from ..resources.errors import InputError, StorageError
from ..resources.query import tables_of, without_end
from ..resources.table_store import TableStore, converted

_ASSET_NAME = re.compile(r"[\w./-]+")


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
        """The assets behind the tables that the query reads; a schema is the key's prefix."""
        return [dg.AssetKey(path) for path in tables_of(self.sql)]

    def bind(
        self,
        engine: duckdb.DuckDBPyConnection,
        context: dg.AssetExecutionContext,
        *,
        tables: TableStore,
        scratch: Path,
    ) -> None:
        """Make the rows the relation ``source``, through a copy, so that the database is free again at once."""
        del context
        file = scratch / "source.parquet"
        try:
            tables.export(without_end(self.sql), file)
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            raise InputError(
                f"The source query failed ({error}): {self.sql!r}. It reads tables of the resource where this table is "
                "written; an asset is among them if its io_manager_key names that resource."
            ) from error
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
    """What a user wrote for ``source=``: a string of one word names an asset, any other string is SQL.

    Raises:
        InputError: It is none of these.
    """
    if isinstance(source, str):
        named = _ASSET_NAME.fullmatch(source)
        return AssetSource(dg.AssetKey.from_user_string(source)) if named else SqlSource(source)
    key: Any = source if isinstance(source, dg.AssetKey) else getattr(source, "key", None)
    if not isinstance(key, dg.AssetKey):
        raise InputError(
            f"source is an asset, its name or key, or SQL over the tables; got a {type(source).__name__}. Rows that "
            "Python makes are an upstream asset, or a function under @llm_table."
        )
    return AssetSource(key)


def _load(context: dg.AssetExecutionContext, key: dg.AssetKey, kind: type | None) -> Any:
    """An upstream asset's value; of a partitioned one, the partitions of this run.

    Raises:
        InputError: The source is partitioned in another way.
        StorageError: Its IO manager has no value of it.
    """
    upstream = context.job_def.asset_layer.get(key).partitions_def
    if upstream is None:
        return _loaded(context, key, kind)
    if not context.has_partition_key and not context.has_partition_key_range:
        raise InputError(
            f"the source {key.to_user_string()} is partitioned and the table isn't. Read it with SQL instead "
            "(source='SELECT … FROM …'), or partition the table alike."
        )
    values = [_loaded(context, key, kind, partition_key=k) for k in context.partition_keys]
    if len(values) == 1:
        return values[0]
    return _concatenated([_as_columns(value, key.to_user_string()) for value in values], kind)


def _loaded(context: dg.AssetExecutionContext, key: dg.AssetKey, kind: type | None, **partition: str) -> Any:
    try:
        return context.load_asset_value(key, python_type=kind, **partition)
    except (OSError, LookupError) as error:
        raise StorageError(
            f"The source {key.to_user_string()} can't be loaded by its IO manager ({error!r}). Is an asset called so, "
            "and has it been materialized?"
        ) from error


def _concatenated(values: Sequence[Any], kind: type | None) -> Any:
    engine = connect()
    for number, value in enumerate(values):
        engine.register(f"part{number}", value)
    together = engine.sql(" UNION ALL BY NAME ".join(f"FROM part{n}" for n in range(len(values))))
    return converted(together, kind)


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
