"""Opening the ledger: where it is, its schema version, and the answers store it is bound to."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from filelock import FileLock
from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect, select, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DatabaseError, IntegrityError, ProgrammingError
from sqlalchemy.pool import ConnectionPoolEntry

from ..clock import Clock, SystemClock
from ..duck import make_durable
from ..errors import StorageError
from . import schema

_HOME_VARIABLE = "BATCH_LLM_HOME"
_LOCK_SECONDS = 30.0
"""How long a transaction waits for another one; ours take milliseconds."""


def default_home() -> Path:
    """The one folder that every run, the daemon and the CLI of a user share.

    ``BATCH_LLM_HOME`` if set, else ``~/.dagster-batch-llm``. It is not a temporary folder of Dagster's, because
    paid answers have to outlive `dg dev`.
    """
    configured = os.environ.get(_HOME_VARIABLE)
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".dagster-batch-llm"


class Database:
    """Transactions on the ledger's database.

    Args:
        home: Folder that holds ``ledger.sqlite3`` and ``answers/``; made if missing.
        clock: Where time comes from.
        read_only: Only look: nothing is made, migrated or locked.

    Raises:
        StorageError: The folder can't be written, the schema is newer than this package, or the ledger does not
            belong to the answers beside it.
    """

    def __init__(self, home: Path, clock: Clock | None = None, *, read_only: bool = False) -> None:
        self.home = home
        self.clock = clock or SystemClock()
        self._path = home / "ledger.sqlite3"
        self._engine = _sqlite(self._path, read_only=read_only)
        with self._mapped():
            if read_only:
                self.id = _known(self, self._engine, self._path)
                return
            (home / "answers").mkdir(parents=True, exist_ok=True)
            with FileLock(home / "ledger.lock"):
                _migrate(self._engine, self._path)
                self.id = _bind(self, home / "answers" / "LEDGER")

    @contextmanager
    def read(self) -> Generator[Connection]:
        """One snapshot: all statements in it see the same moment."""
        with self._mapped(), self._engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection]:
        """One transaction, with the write lock from its start."""
        with self._mapped(), self._engine.connect() as plain:
            connection = plain.execution_options(batch_llm_write=True)
            with connection.begin():
                yield connection

    @contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except (OSError, DatabaseError) as error:
            if isinstance(error, IntegrityError | ProgrammingError):
                raise  # ours, not the disk's
            if "not a database" in str(error) or "malformed" in str(error):
                raise StorageError(
                    f"The ledger {self._path} is damaged ({error}). Put it back from a backup; nothing was asked."
                ) from error
            raise StorageError(
                f"The ledger {self._path} can't be opened or written ({error}). Give {_HOME_VARIABLE} a folder that "
                "this process may write; runs, daemon and CLI must all use the same one."
            ) from error


def _sqlite(path: Path, *, read_only: bool = False) -> Engine:
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


def _known(database: Database, engine: Engine, path: Path) -> str:
    """The id of a ledger that is there and has this package's schema."""
    if not path.exists():
        raise StorageError(
            f"There is no ledger in {database.home} yet: nothing was asked from there. If something was, set "
            f"{_HOME_VARIABLE} to the folder that your runs use."
        )
    version = _version(engine)
    if version != schema.SCHEMA_VERSION:
        raise StorageError(
            f"The ledger {path} has schema {version}, this package knows {schema.SCHEMA_VERSION}. Use the same version "
            "of dagster-batch-llm as your runs do; one run of this version migrates an older ledger."
        )
    with database.read() as connection:
        return connection.execute(select(schema.ledger.c.id)).scalar_one()


def _migrate(engine: Engine, path: Path) -> None:
    version = _version(engine)
    if version == schema.SCHEMA_VERSION:
        return
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    if version is not None and version > schema.SCHEMA_VERSION:
        raise StorageError(
            f"The ledger {path} has schema {version}, this package knows {schema.SCHEMA_VERSION}. It was written by "
            "a newer dagster-batch-llm: upgrade this environment. Nothing was changed."
        )
    with engine.connect().execution_options(batch_llm_write=True) as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _version(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _bind(database: Database, marker: Path) -> str:
    """Give a new ledger its id and leave it with the answers; refuse answers that know another ledger."""
    bound = (marker.read_text().strip() or None) if marker.exists() else None
    with database.write() as connection:
        own = connection.execute(select(schema.ledger.c.id)).scalar_one_or_none()
        if own is None and bound is None and not any(marker.parent.iterdir()):
            own = database.clock.token()
            connection.execute(schema.ledger.insert().values(id=own, created_at=database.clock.now()))
        if own is None or (bound is not None and bound != own):
            raise StorageError(
                f"The answers in {marker.parent} belong to ledger {bound or 'unknown'}, but {database.home} has "
                f"{'an empty ledger' if own is None else f'ledger {own}'}. Put the right ledger.sqlite3 back, or "
                "point to another folder; going on would pay for the same answers again."
            )
    if bound is None:
        partial = marker.with_name(f"{marker.name}.part")
        partial.write_text(own)
        make_durable(partial, marker)
    return own
