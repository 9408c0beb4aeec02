"""Opening a ledger: its schema version, and the answers store it is bound to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from alembic import command
from alembic.config import Config
from filelock import FileLock, Timeout
from sqlalchemy import Connection, func, inspect, select, text

from ..duck import make_durable
from ..errors import StorageError
from . import schema
from .high_water import note_sends, noted_sends, older, sends_in
from .sqlite import SqliteStore

LOCK_SECONDS = 45.0
"""How long another process may open or migrate the ledger; a tick of the sensor has longer, so it can say so."""

if TYPE_CHECKING:
    from .connect import Database


def known(database: Database) -> str:
    """The id of a ledger that is there and has this package's schema; nothing is made."""
    store = database.store
    found = None
    if store.exists():
        with database.read() as connection:
            version = _version(connection)
            if version == schema.SCHEMA_VERSION:
                found = connection.execute(select(schema.ledger.c.id)).scalar_one()
            elif version is not None:
                raise StorageError(
                    f"The ledger {store.name} has schema {version}, this package knows {schema.SCHEMA_VERSION}. Use "
                    "the same version of dagster-batch-llm as your runs do; one run of this version migrates an "
                    "older ledger."
                )
    if found is None:
        where = database.home if isinstance(store, SqliteStore) else store.name
        raise StorageError(
            f"There is no ledger in {where} yet: nothing was asked from there. If something was, set "
            "BATCH_LLM_HOME to the folder that your runs use, and BATCH_LLM_LEDGER to their ledger."
        )
    return found


def opened(database: Database) -> str:
    """The id of the ledger, which is made and migrated if need be."""
    answers = database.home / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    lock = database.home / "ledger.lock"
    try:
        with FileLock(lock, timeout=LOCK_SECONDS):
            _migrate(database)
            return _bind(database, answers / "LEDGER")
    except Timeout as error:
        raise StorageError(
            f"Another process has been opening the ledger for {LOCK_SECONDS:g} s and holds {lock}. Is it stopped? "
            "Wake or end it and run again; nothing was asked."
        ) from error


def _migrate(database: Database) -> None:
    with database.read() as connection:
        if _version(connection) == schema.SCHEMA_VERSION:
            return
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    with database.write() as connection:  # whoever has the lock looks once more: another process may have been here
        version = _version(connection)
        if version is not None and version > schema.SCHEMA_VERSION:
            raise StorageError(
                f"The ledger {database.store.name} has schema {version}, this package knows {schema.SCHEMA_VERSION}. "
                "It was written by a newer dagster-batch-llm: upgrade this environment. Nothing was changed."
            )
        database.store.prepare(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _bind(database: Database, marker: Path) -> str:
    """Give a new ledger its id and leave it with the answers; refuse answers that know another ledger."""
    bound = (marker.read_text().strip() or None) if marker.exists() else None
    with database.write() as connection:
        own = connection.execute(select(schema.ledger.c.id)).scalar_one_or_none()
        if own is None and bound is None and _is_blank(database.home):
            own = database.clock.token()
            connection.execute(schema.ledger.insert().values(id=own, created_at=database.clock.now()))
        if own is None or (bound is not None and bound != own):
            raise _refusal(database, marker.parent, bound, own)
        if bound is None and not isinstance(database.store, SqliteStore):
            _know_the_files(database, connection, own)
        noted, known = noted_sends(database.home), sends_in(connection)
        if noted > known:
            raise StorageError(f"{older(database.store.name, noted, known)} Nothing was asked.")
        if known:
            note_sends(database.home, known)
    if bound is None:
        partial = marker.with_name(f"{marker.name}.part")
        partial.write_text(own)
        make_durable(partial, marker)
    return own


def _is_blank(home: Path) -> bool:
    """Whether nothing was ever asked from here, so that a new ledger forgets nothing."""
    traces = any((home / name).exists() for name in ("plans", "manifests", "results"))
    return not traces and not any((home / "answers").iterdir())


def _refusal(database: Database, answers: Path, bound: str | None, own: str | None) -> StorageError:
    where = database.home if isinstance(database.store, SqliteStore) else database.store.name
    return StorageError(
        f"The answers in {answers} belong to ledger {bound or 'unknown'}, but {where} has "
        f"{'an empty ledger' if own is None else f'ledger {own}'}. Put the right {database.store.original} back, or "
        "point to another folder; going on would pay for the same answers again."
    )


def _know_the_files(database: Database, connection: Connection, own: str) -> None:
    """A ledger on a server is seen from everywhere, the files that it speaks of are not."""
    plans = connection.execute(select(func.count()).select_from(schema.plan)).scalar_one()
    if plans and not (database.home / "plans").exists():
        raise StorageError(
            f"The ledger {database.store.name} ({own}) has {plans} plans, and {database.home} has none of their files. "
            "All processes of one ledger need the same BATCH_LLM_HOME, on a disk that they share; a second home needs "
            "a database of its own."
        )
