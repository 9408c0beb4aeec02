"""Tables as Parquet files in a folder: no database, no lock, readable by everything."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import Any

import dagster as dg
import duckdb

from .duck import connect, exact, literal, quoted, rows, write_parquet, write_parquets
from .errors import StorageError
from .file_names import decoded, encoded
from .parquet_columns import differing, storable, stored_sql, types_of
from .query import tables_of
from .table_store import TableStore, listed

_SUFFIX = ".parquet"
_KEY = "__batch_llm_partition"


class ParquetTables(TableStore):
    """Tables as Parquet files; asset ``["shop", "reviews"]`` is ``shop/reviews.parquet`` in `folder`.

    A partitioned table is a folder of that name, ``shop/reviews.parquet/``, with a file per partition. Names and
    partition keys are percent-encoded, capital letters too. Each file is replaced as a whole; a run that brings several
    partitions replaces their files one after the other, when all of them are written.

    As an IO manager it does what `DuckDBTables` does. A query over the tables names them as it would there:
    ``SELECT * FROM shop.reviews``.

    Args:
        folder: Where the tables are; made if missing.
    """

    folder: str

    def exists(self, key: dg.AssetKey) -> bool:
        """Whether the table is there."""
        return bool(self._files(key))

    def check(self, key: dg.AssetKey, columns: Sequence[str], partitions: Sequence[str]) -> None:
        self._check_layout(key, partitions)
        super().check(key, columns, partitions)

    def metadata(self, key: dg.AssetKey) -> dict[str, Any]:
        """What Dagster's UI shows as the place of a table."""
        return {
            "dagster/table_name": ".".join(key.path),
            "dagster/storage_kind": "parquet",
            "dagster/uri": str(self._place(key).absolute()),
        }

    def opened(self, *, read_only: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        del read_only
        return contextlib.closing(connect())

    def see(self, engine: duckdb.DuckDBPyConnection, sql: str) -> None:
        """Each table that the query names and that is there becomes a view."""
        for path in tables_of(sql):
            key = dg.AssetKey(path)
            if self.exists(key):
                schema = quoted(".".join(path[:-1]) or "main")
                engine.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
                engine.execute(
                    f"CREATE VIEW IF NOT EXISTS {schema}.{quoted(path[-1])} AS {self._rows(engine, key, ())}"
                )

    def read(
        self, engine: duckdb.DuckDBPyConnection, key: dg.AssetKey, expression: str, partitions: Sequence[str]
    ) -> duckdb.DuckDBPyRelation:
        del expression
        return engine.sql(self._rows(engine, key, partitions))

    def write(
        self,
        engine: duckdb.DuckDBPyConnection,
        key: dg.AssetKey,
        source: str,
        expression: str,
        partitions: Sequence[str],
    ) -> int:
        place = self._place(key)
        try:
            self._check_layout(key, partitions)
            if partitions:
                return self._write_partitions(engine, key, source, expression, partitions)
            query, metadata = storable(engine, source)
            write_parquets(engine, {place: query}, metadata=metadata)
            return _count(engine, [place])
        except duckdb.Error as error:
            raise StorageError(
                f"Table {key.to_user_string()} in {self.folder} can't be written ({error}). The table is as it was "
                "before; answers that are paid are kept."
            ) from error

    def _check_layout(self, key: dg.AssetKey, partitions: Sequence[str]) -> None:
        place = self._place(key)
        if place.is_file() if partitions else place.is_dir():
            raise StorageError(
                f"{place} holds the table {'without' if partitions else 'with'} partitions, and it is to be written "
                f"{'with' if partitions else 'without'} them. Move it away and run again; answers that are paid are "
                "kept."
            )

    def _write_partitions(
        self,
        engine: duckdb.DuckDBPyConnection,
        key: dg.AssetKey,
        source: str,
        expression: str,
        partitions: Sequence[str],
    ) -> int:
        source = exact(engine, source)
        stay = [file for name, file in self._files(key).items() if name not in partitions]
        with tempfile.TemporaryDirectory(prefix="batch_llm_") as scratch:
            # A value may be a stream, which can be read once only.
            file = Path(scratch) / "rows.parquet"
            write_parquet(engine, f"SELECT *, ({expression})::VARCHAR AS {_KEY} FROM ({source})", file)
            incoming = f"SELECT * FROM read_parquet({literal(str(file))})"
            self.refuse_others(engine, key, f"({incoming})", _KEY, partitions)
            types = types_of(engine, source)
            typed = ", ".join(f"{quoted(name)}::{kind} AS {quoted(name)}" for name, kind in types.items())
            query, metadata = storable(
                engine, self._fitting(engine, key, f"SELECT {typed}, {_KEY} FROM ({incoming})", stay)
            )
            written = {
                self._partition(key, name): f"SELECT * EXCLUDE ({_KEY}) FROM ({query}) WHERE {_KEY} = {literal(name)}"
                for name in dict.fromkeys(partitions)
            }
            write_parquets(engine, written, metadata=metadata)
        return _count(engine, list(written))

    def _fitting(self, engine: duckdb.DuckDBPyConnection, key: dg.AssetKey, query: str, stay: Sequence[Path]) -> str:
        """The rows in the types of the partitions that stay; a column without a value has no type of its own."""
        if not stay:
            return query
        old = types_of(engine, stored_sql(engine, stay[:1]))
        with tempfile.TemporaryDirectory(prefix="batch_llm_") as scratch:
            # A file may have another type than the value had, so files are compared.
            file = Path(scratch) / "none.parquet"
            empty, metadata = storable(engine, f"SELECT * EXCLUDE ({_KEY}) FROM ({query}) LIMIT 0")
            write_parquets(engine, {file: empty}, metadata=metadata)
            new = types_of(engine, stored_sql(engine, [file]))
        other = list(differing(new, old))
        shared = [name for name in other if name in new and name in old]
        counts = ", ".join(f"count({quoted(name)})" for name in shared)
        filled = rows(engine, f"SELECT {counts} FROM ({query})")[0] if shared else ()
        if shared != other or any(filled):
            said = ", ".join(f"{name} ({old.get(name, 'missing')} → {new.get(name, 'missing')})" for name in other)
            raise StorageError(
                f"Table {key.to_user_string()} in {self.folder} has other columns than the rows for it: {said}. "
                f"Nothing was written. Materialize all partitions in one run, or delete {self._place(key)} and "
                "materialize them again; answers that are paid are kept."
            )
        casts = ", ".join(f"{quoted(name)}::{old[name]} AS {quoted(name)}" for name in shared)
        return f"SELECT * REPLACE ({casts}) FROM ({query})" if shared else query

    def _rows(self, engine: duckdb.DuckDBPyConnection, key: dg.AssetKey, partitions: Sequence[str]) -> str:
        """SQL for a table's rows, or those of the given partitions."""
        files = self._files(key)
        if not files:
            raise StorageError(
                f"{self.folder} has no table {key.to_user_string()}. Materialize {key.to_user_string()} first."
            )
        wanted = list(files.values())
        if partitions and None not in files:
            missing = [name for name in partitions if name not in files]
            if missing:
                raise StorageError(
                    f"Table {key.to_user_string()} in {self.folder} has no partition(s) {listed(missing)}. "
                    "Materialize them first."
                )
            wanted = [files[name] for name in partitions]
        sql = stored_sql(engine, wanted)
        try:
            engine.sql(sql)
        except duckdb.Error as error:
            raise StorageError(f"The files of table {key.to_user_string()} can't be read ({error}).") from error
        return sql

    def _place(self, key: dg.AssetKey) -> Path:
        *above, name = (encoded(part) for part in key.path)
        return Path(self.folder, *above, name.with_name(name.name + _SUFFIX))

    def _partition(self, key: dg.AssetKey, name: str) -> Path:
        path = encoded(name)
        return self._place(key) / path.with_name(path.name + _SUFFIX)

    def _files(self, key: dg.AssetKey) -> Mapping[str | None, Path]:
        """A table's files by partition, in order of the keys; without partitions one, under None.

        Raises:
            StorageError: The folder of a partitioned table holds something else.
        """
        place = self._place(key)
        if not place.is_dir():
            return {None: place} if place.is_file() else {}
        found: dict[str | None, Path] = {}
        foreign: list[str] = []
        for file in sorted(path for path in place.rglob("*") if not path.is_dir() and path.suffix != ".part"):
            path = PurePosixPath(file.relative_to(place))
            name = decoded(path.with_suffix("")) if path.suffix == _SUFFIX else None
            if name is None:
                foreign.append(str(path))
            else:
                found[name] = file
        if foreign:
            raise StorageError(
                f"The folder {place} holds files that are no partitions of table {key.to_user_string()}: "
                f"{listed(foreign)}. Move them away; only dagster-batch-llm may write there."
            )
        return found


def _count(engine: duckdb.DuckDBPyConnection, files: Sequence[Path]) -> int:
    return int(rows(engine, f"SELECT count(*) FROM ({stored_sql(engine, files)})")[0][0])
