"""Tables in a DuckDB file: where LLM tables are written, and an IO manager for the assets around them.

A DuckDB file takes one writing process at a time, so it is opened late, closed early, and waited for.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import stamina

from .duck import UTC, literal, quoted, rows
from .errors import StorageError, TableLockedError
from .table_store import TableStore

_LOCKED = "Could not set lock on file"
_INCOMING = "__batch_llm_incoming"
_OWNER = "asset "
_HOLDER = re.compile(r"Conflicting lock is held in (.+?\(PID \d+\))")


class DuckDBTables(TableStore):
    """Tables in one DuckDB file; asset ``["shop", "reviews"]`` is table ``shop.reviews``.

    As an IO manager it stores pandas, polars and Arrow, and loads what the downstream argument is annotated with:
    pandas, polars or ``pyarrow.Table`` (the default). A partitioned asset needs metadata
    ``{"partition_expr": "<SQL that gives a row's partition key>"}`` to be replaced partition by partition.

    Args:
        path: The DuckDB file; it and its folder are made if missing.
        lock_timeout: Seconds to wait while another process has the file open.
    """

    path: str
    lock_timeout: float = 60.0

    def exists(self, key: dg.AssetKey) -> bool:
        """Whether the table is there."""
        if not Path(self.path).exists():
            return False
        with self.connection(read_only=True) as db:
            return _exists(db, key)

    def check(self, key: dg.AssetKey, columns: Sequence[str], partitions: Sequence[str]) -> None:
        if Path(self.path).exists():
            with self.connection(read_only=True) as db:
                self._refuse_others_place(db, key)
        super().check(key, columns, partitions)

    def _refuse_others_place(self, db: duckdb.DuckDBPyConnection, key: dg.AssetKey) -> None:
        """Two assets may come to one table: DuckDB knows no capitals, one schema level, and a schema called main."""
        schema, table = _names(key)
        found = rows(
            db,
            """SELECT schema_name, table_name, comment FROM duckdb_tables() WHERE database_name = current_database()
            AND lower(schema_name) = lower($s) AND lower(table_name) = lower($t)
            AND (table_name <> $t OR (starts_with(comment, $prefix) AND comment <> $mine))""",
            {"s": schema, "t": table, "prefix": _OWNER, "mine": _owner(key)},
        )
        if found:
            *name, comment = found[0]
            of = f" of {comment}" if comment else ""
            raise StorageError(
                f"{self.path} has a table {'.'.join(name)!r}{of}, and DuckDB can't tell that of asset {key.path} from "
                "it. Rename one of the assets, or use ParquetTables; nothing was asked. If that asset is gone, drop "
                "its table."
            )

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

    def opened(self, *, read_only: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return self.connection(read_only=read_only)

    def see(self, engine: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Nothing: the file's tables are all there."""

    def read(
        self, engine: duckdb.DuckDBPyConnection, key: dg.AssetKey, expression: str, partitions: Sequence[str]
    ) -> duckdb.DuckDBPyRelation:
        if not _exists(engine, key):
            raise StorageError(f"{self.path} has no table {table_name(key)}. Materialize {key.to_user_string()} first.")
        narrowed, values = "", {}
        if partitions and expression:
            narrowed = f"WHERE list_contains($keys, ({expression})::VARCHAR)"
            values = {"keys": list(partitions)}
        return engine.sql(f"SELECT * FROM {_place(engine, key)} {narrowed}", params=values or None)

    def write(
        self,
        engine: duckdb.DuckDBPyConnection,
        key: dg.AssetKey,
        source: str,
        expression: str,
        partitions: Sequence[str],
    ) -> int:
        self._refuse_others_place(engine, key)
        name = _place(engine, key)
        schema = name.removesuffix(f".{quoted(_names(key)[1])}")
        engine.begin()
        try:
            if partitions:  # a value may be a stream, which can be read once only
                engine.execute(f"CREATE OR REPLACE TEMP TABLE {_INCOMING} AS {source}")
                source = f"FROM temp.{_INCOMING}"
                self.refuse_others(engine, key, f"temp.{_INCOMING}", expression, partitions)
            engine.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
            if partitions and _exists(engine, key):
                engine.execute(
                    f"DELETE FROM {name} WHERE list_contains($keys, ({expression})::VARCHAR)",
                    {"keys": list(partitions)},
                )
                count = rows(engine, f"INSERT INTO {name} BY NAME {source}")[0][0]
            else:
                engine.execute(f"CREATE OR REPLACE TABLE {name} AS {source}")
                count = rows(engine, f"SELECT count(*) FROM {name}")[0][0]
            engine.execute(f"COMMENT ON TABLE {name} IS {literal(_owner(key))}")
            engine.commit()
        except StorageError:
            engine.rollback()
            raise
        except duckdb.Error as error:
            with contextlib.suppress(duckdb.Error):  # on a full disk a failed commit has rolled back already
                engine.rollback()
            raise StorageError(
                f"Table {table_name(key)} in {self.path} can't be written ({error}). The table is as it was before; "
                "answers that are paid are kept. Free some space if the disk is full. Drop the table if its columns "
                "have changed, then run again."
            ) from error
        return int(count)


def _owner(key: dg.AssetKey) -> str:
    """Whose table it is, as its comment."""
    return f"{_OWNER}{json.dumps(key.path)}"


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
