"""Tables in a DuckDB file: where LLM tables are written, and an IO manager for the assets around them.

A DuckDB file takes one writing process at a time, so it is opened late, closed early, and waited for.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import stamina

from .duck import UTC, literal, quoted, rows
from .errors import StorageError, TableLockedError

_LOCKED = "Could not set lock on file"
_HOLDER = re.compile(r"Conflicting lock is held in (.+?\(PID \d+\))")


class DuckDBTables(dg.ConfigurableIOManager):
    """Tables in one DuckDB file; asset ``["shop", "reviews"]`` is table ``shop.reviews``.

    As an IO manager it stores pandas, polars and Arrow, and loads what the downstream argument is annotated with:
    ``pandas.DataFrame`` or ``pyarrow.Table`` (the default). A partitioned asset needs metadata
    ``{"partition_expr": "<SQL that gives a row's partition key>"}`` to be replaced partition by partition.

    Args:
        path: The DuckDB file; it and its folder are made if missing.
        lock_timeout: Seconds to wait while another process has the file open.
    """

    path: str
    lock_timeout: float = 60.0

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
        with self.connection() as db:
            try:
                db.register("value", obj)
            except duckdb.Error as error:
                raise StorageError(
                    f"Asset {context.asset_key.to_user_string()} gave a {type(obj).__name__}, which can't be stored as "
                    "a table. Return a pandas or polars DataFrame or a pyarrow Table."
                ) from error
            count = self._replace(db, context.asset_key, "SELECT * FROM value", str(expression or ""), keys)
        context.add_output_metadata(  # pyright: ignore[reportUnknownMemberType]
            {"dagster/row_count": count, **self.metadata(context.asset_key)}
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Load an upstream table, or the asked partitions of it, as the annotated type."""
        partitions = context.asset_partition_keys if context.has_asset_partitions else ()
        upstream = context.upstream_output
        expression = ((upstream.definition_metadata if upstream else None) or {}).get("partition_expr")
        narrowed, values = "", {}
        if partitions and expression:
            narrowed = f"WHERE list_contains($keys, ({expression})::VARCHAR)"
            values = {"keys": list(partitions)}
        with self.connection(read_only=True) as db:
            if not _exists(db, context.asset_key):
                raise StorageError(
                    f"{self.path} has no table {table_name(context.asset_key)}. Materialize "
                    f"{context.asset_key.to_user_string()} first."
                )
            result = db.sql(f"SELECT * FROM {_place(db, context.asset_key)} {narrowed}", params=values or None)
            return result.df() if context.dagster_type.typing_type is pd.DataFrame else result.to_arrow_table()

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
        with self.connection() as db:
            source = f"SELECT {columns} FROM read_parquet({literal(str(file))})"
            return self._replace(db, key, source, partition_expr, partitions)

    def export(self, query: str, file: Path) -> None:
        """Copy a query's rows into a Parquet file, holding the database no longer than that takes."""
        with self.connection(read_only=True) as db:
            db.execute(f"COPY ({_exact(db, query)}) TO {literal(str(file))} (FORMAT parquet)")

    def query(self, sql: str, values: Mapping[str, Any] | Sequence[Any] | None = None) -> pa.Table:
        """Read with SQL, values bound."""
        with self.connection(read_only=True) as db:
            return db.sql(sql, params=values).to_arrow_table()

    def exists(self, key: dg.AssetKey) -> bool:
        """Whether the table is there."""
        if not Path(self.path).exists():
            return False
        with self.connection(read_only=True) as db:
            return _exists(db, key)

    def metadata(self, key: dg.AssetKey) -> dict[str, Any]:
        """What Dagster's UI shows as the place of a table."""
        return {
            "dagster/table_name": ".".join([Path(self.path).stem, *_names(key)]),
            "dagster/storage_kind": "duckdb",
            "dagster/uri": str(Path(self.path).absolute()),
        }

    @contextlib.contextmanager
    def connection(self, *, read_only: bool = False) -> Generator[duckdb.DuckDBPyConnection]:
        """A connection that is closed in any case.

        Raises:
            TableLockedError: Another process had the file open all the time.
            StorageError: The file or its folder can't be used.
        """
        path = Path(self.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The folder of {path} can't be made ({error}). Choose another path.") from error
        if read_only and not path.exists():
            raise StorageError(f"The DuckDB file {path} isn't there yet. Materialize the upstream assets first.")
        with contextlib.closing(self._open(path, read_only=read_only)) as db:
            db.execute(UTC)
            yield db

    def _open(self, path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        try:
            for attempt in stamina.retry_context(
                on=_is_locked,
                attempts=None,
                timeout=self.lock_timeout,
                wait_initial=0.05,
                wait_max=0.5,
                wait_jitter=0.1,
            ):
                with attempt:
                    return duckdb.connect(str(path), read_only=read_only)
        except duckdb.Error as error:
            if _is_locked(error):
                found = _HOLDER.search(str(error))
                holder = found.group(1) if found else "another process"
                raise TableLockedError(
                    f"{path} was locked by {holder} for {self.lock_timeout:g} s. Close it there (a notebook? the "
                    "duckdb shell?) and run again; nothing is lost, answers that are paid are kept."
                ) from error
            raise StorageError(f"The DuckDB file {path} can't be opened ({error}).") from error
        raise AssertionError("stamina returns or raises")

    def _replace(
        self, db: duckdb.DuckDBPyConnection, key: dg.AssetKey, source: str, expression: str, partitions: Sequence[str]
    ) -> int:
        name = _place(db, key)
        schema = name.removesuffix(f".{quoted(_names(key)[1])}")
        db.begin()
        try:
            db.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            if partitions and _exists(db, key):
                db.execute(
                    f"DELETE FROM {name} WHERE list_contains($keys, ({expression})::VARCHAR)",
                    {"keys": list(partitions)},
                )
                count = rows(db, f"INSERT INTO {name} BY NAME {source}")[0][0]
            else:
                db.execute(f"CREATE OR REPLACE TABLE {name} AS {source}")
                count = rows(db, f"SELECT count(*) FROM {name}")[0][0]
            db.commit()
        except duckdb.Error as error:
            db.rollback()
            raise StorageError(
                f"Table {table_name(key)} in {self.path} can't be written ({error}). The table is as it was before; "
                "answers that are paid are kept. Drop the table if its columns have changed, then run again."
            ) from error
        return int(count)


def _exact(db: duckdb.DuckDBPyConnection, query: str) -> str:
    """The same rows in types that Parquet has: a HUGEINT, such as every sum of integers, would become a float."""
    huge = [name for name, kind, *_ in rows(db, f"DESCRIBE {query}") if kind in {"HUGEINT", "UHUGEINT"}]
    casts = ", ".join(f"{quoted(name)}::DECIMAL(38, 0) AS {quoted(name)}" for name in huge)
    return f"SELECT * REPLACE ({casts}) FROM ({query})" if huge else query


def table_name(key: dg.AssetKey) -> str:
    """An asset's table, quoted for SQL."""
    return ".".join(quoted(name) for name in _names(key))


def _place(db: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> str:
    """The table with its database's name: a schema may be called as the file is, or ``temp``."""
    database: str = rows(db, "SELECT current_database()")[0][0]
    return f"{quoted(database)}.{table_name(key)}"


def _names(key: dg.AssetKey) -> tuple[str, str]:
    *schema, table = key.path
    return ".".join(schema) or "main", table


def _exists(db: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> bool:
    schema, table = _names(key)
    found = rows(
        db,
        """SELECT 1 FROM duckdb_tables()
        WHERE database_name = current_database() AND schema_name = $s AND table_name = $t""",
        {"s": schema, "t": table},
    )
    return bool(found)


def _is_locked(error: Exception) -> bool:
    return isinstance(error, duckdb.IOException) and _LOCKED in str(error)
