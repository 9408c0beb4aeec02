"""Where a ledger's tables are: a SQLite file in the home folder, or a database on a Postgres server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ..errors import StorageError
from .postgres import DRIVERS, PostgresStore
from .sqlite import SqliteStore

LEDGER_VARIABLE = "BATCH_LLM_LEDGER"


class Store(Protocol):
    """What the ledger asks of its database; writing transactions come one after the other in each."""

    @property
    def name(self) -> str:
        """For messages; never with a password."""
        ...

    @property
    def original(self) -> str:
        """What to put back when the tables are lost."""
        ...

    @property
    def engine(self) -> Engine:
        """Connections. One with the option ``batch_llm_write`` begins with the write lock, others read a snapshot."""
        ...

    def exists(self) -> bool:
        """Whether there is something to read; what can't be made sure of without reading exists."""
        ...

    def prepare(self, connection: Connection) -> None:
        """Make, in a writing transaction, what the first migration needs."""
        ...

    def passes(self, error: Exception) -> bool:
        """Whether the transaction may simply be repeated, perhaps a little later."""
        ...

    def explain(self, error: Exception) -> str:
        """What is wrong and what to do."""
        ...


def store_of(home: Path, url: str | None = None, *, read_only: bool = False) -> Store:
    """The store that a URL names, by default that of ``BATCH_LLM_LEDGER``; without one, the file in the home folder.

    Raises:
        StorageError: It names nothing that can hold a ledger.
        MissingExtraError: The extra ``postgres`` is not installed.
    """
    given = os.environ.get(LEDGER_VARIABLE, "") if url is None else url
    if not given.strip():
        return SqliteStore(home / "ledger.sqlite3", read_only=read_only)
    try:
        parsed = make_url(given.strip())
    except (ArgumentError, ValueError):
        parsed = None  # not told in the error's own words: they may have the password
    if parsed is None or parsed.drivername not in DRIVERS or not parsed.database:
        raise StorageError(
            f"{LEDGER_VARIABLE} is no address of a Postgres database. It looks like "
            "postgresql+psycopg://user@host:5432/database; without it the ledger is a SQLite file in BATCH_LLM_HOME."
        )
    return PostgresStore(parsed)
