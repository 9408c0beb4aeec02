"""A ledger in a Postgres database, in a schema of its own, so that it may share the database that Dagster has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.util import find_spec

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import DBAPIError, OperationalError

from ..errors import MissingExtraError

DRIVERS = frozenset({"postgresql", "postgres", "postgresql+psycopg"})
SCHEMA = "batch_llm"

_LOCK_SECONDS = 30
_IDLE_SECONDS = 60
"""A process that was stopped, or cut off from the server, in a transaction loses it after this long."""
WRITE_LOCK = 0x62_6C_6C_6D
"""The advisory lock of every writing transaction; any number does that nobody else in the database uses."""

# One writer at a time, as on SQLite: what a transaction has read holds until its end, nothing can deadlock, and two
# processes that start together migrate once. READ COMMITTED, so that every statement after the lock sees what its
# last owner committed; a snapshot would be older than the lock. The lock is released after the commit is visible.
BEGIN_WRITE = f"""
SET TRANSACTION ISOLATION LEVEL READ COMMITTED READ WRITE;
SET LOCAL search_path TO {SCHEMA};
SET LOCAL lock_timeout = '{_LOCK_SECONDS}s';
SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s';
SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off';
SELECT pg_advisory_xact_lock({WRITE_LOCK})
"""
BEGIN_READ = f"""
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL search_path TO {SCHEMA};
SET LOCAL idle_in_transaction_session_timeout = '{_IDLE_SECONDS}s'
"""

_CONNECTION: Mapping[str, object] = {
    "application_name": "dagster-batch-llm",
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "target_session_attrs": "read-write",  # of several hosts the one that isn't a replica: a look must not lag
    "prepare_threshold": None,  # a pooler that gives out a connection per transaction knows no prepared statements
}
_PASSING_STATES = re.compile(r"08...|40001|40P01|57P0[1-3]|53300|25P0[34]")
"""Lost or refused connections, serialization, deadlock, shutdown and start, too many clients, idle too long."""
_WRONG_ADDRESS = re.compile(r"authentication failed|no password supplied|does not exist|pg_hba\.conf|resolve host")


class PostgresStore:
    """One schema of one database; connections aren't kept, so a process may fork."""

    original = "database"

    def __init__(self, url: URL) -> None:
        self._secret, url = _secret(url)
        kept = {name: value for name, value in url.query.items() if name in {"host", "port"}}
        # Made anew: `URL.set(password=None)` would leave the password where it is.
        shown = URL.create("postgresql", url.username, None, url.host, url.port, url.database, kept)
        self.name = shown.render_as_string(hide_password=False)
        self.engine = _engine(url)

    def exists(self) -> bool:
        return True

    def prepare(self, connection: Connection) -> None:
        # Not IF NOT EXISTS, which asks for the right to make schemas also where one was made for us.
        if connection.execute(text(f"SELECT to_regnamespace('{SCHEMA}')")).scalar_one() is None:
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))

    def passes(self, error: Exception) -> bool:
        if not isinstance(error, DBAPIError):
            return False
        state = getattr(error.orig, "sqlstate", None)
        if state is not None:
            return _PASSING_STATES.fullmatch(state) is not None
        if error.connection_invalidated:
            return True
        return isinstance(error, OperationalError) and not _WRONG_ADDRESS.search(str(error.orig))

    def explain(self, error: Exception) -> str:
        words = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        words = words.replace(self._secret, "***") if self._secret else words
        if getattr(getattr(error, "orig", None), "sqlstate", None) == "55P03":
            words = f"locked by another process for {_LOCK_SECONDS} s: {words}"
        return (
            f"The ledger {self.name} can't be reached, read or written ({words}). Is the server up, and does "
            "BATCH_LLM_LEDGER name it, for runs, daemon and CLI alike? Nothing is lost: run it again."
        )


def _secret(url: URL) -> tuple[str, URL]:
    """The password, and the URL with it in its proper place, where nobody prints it."""
    query = url.query.get("password")
    if isinstance(query, str):
        url = url.difference_update_query(["password"]).set(password=url.password or query)
    return str(url.password or ""), url


def _engine(url: URL) -> Engine:
    if find_spec("psycopg") is None:
        raise MissingExtraError("A ledger on Postgres needs psycopg: pip install 'dagster-batch-llm[postgres]'")
    defaults = {name: value for name, value in _CONNECTION.items() if name not in url.query}
    try:
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"), poolclass=NullPool, connect_args=defaults, hide_parameters=True
        )
    except ImportError as error:  # psycopg without libpq
        raise MissingExtraError(
            f"A ledger on Postgres needs psycopg with libpq ({error}): pip install 'dagster-batch-llm[postgres]'"
        ) from error

    def begun(connection: Connection) -> None:
        writes = connection.get_execution_options().get("batch_llm_write")
        connection.exec_driver_sql(BEGIN_WRITE if writes else BEGIN_READ)

    event.listen(engine, "begin", begun)
    return engine
