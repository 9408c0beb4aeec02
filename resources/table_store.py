"""What every place for tables offers: LLM tables are written there, and it is an IO manager for the assets around."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pyarrow as pa

from .duck import exact, literal, quoted, rows
from .errors import StorageError


class TableStore(dg.ConfigurableIOManager, ABC):
    """A place for tables that an LLM table names by its resource key: ``tables="tables"``."""

    @abstractmethod
    def exists(self, key: dg.AssetKey) -> bool:
        """Whether the table is there."""

    @abstractmethod
    def metadata(self, key: dg.AssetKey) -> dict[str, Any]:
        """What Dagster's UI shows as the place of a table."""

    @abstractmethod
    def opened(self, *, read_only: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """An engine that reads, or also writes, the tables; closed in any case."""

    @abstractmethod
    def see(self, engine: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Make the tables that a query names known to the engine."""

    @abstractmethod
    def read(
        self, engine: duckdb.DuckDBPyConnection, key: dg.AssetKey, expression: str, partitions: Sequence[str]
    ) -> duckdb.DuckDBPyRelation:
        """A table's rows, or those of the given partitions."""

    @abstractmethod
    def write(
        self,
        engine: duckdb.DuckDBPyConnection,
        key: dg.AssetKey,
        source: str,
        expression: str,
        partitions: Sequence[str],
    ) -> int:
        """Replace a table, or the given partitions of it, with a query's rows; gives their number."""

    def check(self, key: dg.AssetKey, columns: Sequence[str], partitions: Sequence[str]) -> None:
        """Raise `StorageError` if rows of these columns couldn't be written; asked before they are paid."""
        if not partitions or not self.exists(key):
            return
        with self.opened(read_only=True) as engine:
            old = self.read(engine, key, "", ()).columns
        gone, new = [sorted(set(a) - set(b)) for a, b in ((old, columns), (columns, old))]
        if gone or new:
            said = [f"{words} {listed(names)}" for words, names in (("has", gone), ("doesn't have", new)) if names]
            raise StorageError(
                f"Table {key.to_user_string()} has other columns than the rows for its partition(s) "
                f"{listed(partitions)}: it {' and '.join(said)}. Nothing was asked. Drop the table and materialize "
                "all its partitions again; answers that are paid are kept."
            )

    def refuse_others(
        self,
        engine: duckdb.DuckDBPyConnection,
        key: dg.AssetKey,
        incoming: str,
        expression: str,
        partitions: Sequence[str],
    ) -> None:
        """Raise `StorageError` if rows belong to none of the partitions that are to be replaced."""
        name = f"({expression})::VARCHAR"
        others = f"SELECT DISTINCT {name} FROM {incoming} WHERE list_contains($keys, {name}) IS NOT TRUE"
        found = [row[0] for row in rows(engine, f"{others} LIMIT 5", {"keys": list(partitions)})]
        if found:
            raise StorageError(
                f"Table {key.to_user_string()}: this run writes the partition(s) {listed(partitions)}, but it gave "
                f"rows of {listed(found)}. Filter them, or correct partition_expr {expression!r}."
            )

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Store an asset's value; an LLM table has written its own already and passes nothing."""
        if obj is None:
            return
        keys = context.asset_partition_keys if context.has_asset_partitions else ()
        expression = (context.definition_metadata or {}).get("partition_expr")
        if keys and not expression:
            raise StorageError(
                f"Asset {context.asset_key.to_user_string()} is partitioned, but its metadata has no 'partition_expr', "
                "so its rows can't be told apart. Add metadata={'partition_expr': '<SQL that gives the key>'}."
            )
        with self.opened(read_only=False) as engine:
            try:
                engine.register("value", obj)
            except duckdb.Error as error:
                why = str(error).splitlines()[0]
                raise StorageError(
                    f"Asset {context.asset_key.to_user_string()} gave a {type(obj).__name__} that can't be stored as a "
                    f"table ({why}). Return a pandas or polars DataFrame or a pyarrow Table, with columns of types "
                    "that DuckDB has."
                ) from error
            count = self.write(engine, context.asset_key, "SELECT * FROM value", str(expression or ""), keys)
        context.add_output_metadata(  # pyright: ignore[reportUnknownMemberType]
            {"dagster/row_count": count, **self.metadata(context.asset_key)}
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Load an upstream table, or the asked partitions of it, as the annotated type."""
        partitions = context.asset_partition_keys if context.has_asset_partitions else ()
        upstream = context.upstream_output
        expression = ((upstream.definition_metadata if upstream else None) or {}).get("partition_expr")
        with self.opened(read_only=True) as engine:
            found = self.read(engine, context.asset_key, str(expression or ""), partitions)
            return converted(found, context.dagster_type.typing_type)

    def replace(
        self,
        key: dg.AssetKey,
        file: Path,
        *,
        types: Mapping[str, str],
        partition_expr: str = "",
        partitions: Sequence[str] = (),
    ) -> int:
        """Replace a table, or only the given partitions of it, with a Parquet file's rows, atomically.

        Args:
            key: Which asset's table.
            file: The new rows.
            types: SQL type per column, in the table's order.
            partition_expr: SQL that gives a row's partition key.
            partitions: Keys to replace; none for the whole table.

        Returns:
            Rows written.
        """
        columns = ", ".join(f"{quoted(name)}::{kind} AS {quoted(name)}" for name, kind in types.items())
        with self.opened(read_only=False) as engine:
            source = f"SELECT {columns} FROM read_parquet({literal(str(file))})"
            return self.write(engine, key, source, partition_expr, partitions)

    def export(self, query: str, file: Path) -> None:
        """Copy a query's rows into a Parquet file, holding the tables no longer than that takes."""
        with self.opened(read_only=True) as engine:
            self.see(engine, query)
            rows_of_query = exact(engine, query)
            try:
                engine.execute(f"COPY ({rows_of_query}) TO {literal(str(file))} (FORMAT parquet)")
            except duckdb.IOException as error:
                raise StorageError(
                    f"The source's rows can't be copied to {file} ({error}). Free some space for temporary files, or "
                    "let TMPDIR name another folder; nothing was asked."
                ) from error

    def query(self, sql: str, values: Mapping[str, Any] | Sequence[Any] | None = None) -> pa.Table:
        """Read with SQL, values bound."""
        with self.opened(read_only=True) as engine:
            self.see(engine, sql)
            return engine.sql(sql, params=values).to_arrow_table()


def listed(names: Sequence[str | None]) -> str:
    """The first of some partitions or files, for a message."""
    shown = ", ".join("null" if name is None else repr(name[:80]) for name in names[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown


def converted(relation: duckdb.DuckDBPyRelation, kind: object) -> Any:
    """Rows as the annotated type: pandas or polars if it is one of theirs, else a ``pyarrow.Table``."""
    library = getattr(kind, "__module__", "").partition(".")[0]
    if library == "pandas":
        return relation.df()
    if library == "polars":
        frame: Any = relation.pl()
        return frame.lazy() if getattr(kind, "__name__", "") == "LazyFrame" else frame
    return relation.to_arrow_table()
