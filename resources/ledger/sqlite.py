"""A ledger in a SQLite file: for all processes of one machine."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry

_LOCK_SECONDS = 30.0
"""How long a transaction waits for another one; ours take milliseconds."""


class SqliteStore:
    """One file in WAL mode."""

    original = "ledger.sqlite3"

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._path = path
        self.name = str(path)
        self.engine = _engine(path, read_only=read_only)

    def exists(self) -> bool:
        return self._path.exists()

    def prepare(self, connection: Connection) -> None:
        """The file is there as soon as a connection is."""

    def passes(self, error: Exception) -> bool:  # noqa: ARG002 - Postgres looks at it
        return False  # the driver has waited for the lock already

    def explain(self, error: Exception) -> str:
        words = str(error.orig if isinstance(error, DBAPIError) else error)
        if "not a database" in words or "malformed" in words:
            return f"The ledger {self.name} is damaged ({words}). Put it back from a backup; nothing was asked."
        return (
            f"The ledger {self.name} can't be opened or written ({words}). Is its disk full, or may this process not "
            "write there? BATCH_LLM_HOME names the folder, for runs, daemon and CLI alike. Nothing is lost: mend it "
            "and run it again."
        )


def _engine(path: Path, *, read_only: bool) -> Engine:
    url = URL.create("sqlite", database=str(path))  # a path in a text would be parsed
    if read_only:
        url = URL.create("sqlite", database=path.absolute().as_uri(), query={"mode": "ro", "uri": "true"})
    engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": _LOCK_SECONDS})

    # The driver's own transaction handling begins too late for a snapshot, so it is switched off.
    def connected(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in () if read_only else ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("batch_llm_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", begun)
    return engine
