"""Transactions on the ledger, and repeating one that a lost connection has cut off."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import stamina
from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError, IntegrityError, ProgrammingError

from ..clock import Clock, SystemClock
from ..errors import StorageError
from .opening import known, opened
from .store import store_of

HOME_VARIABLE = "BATCH_LLM_HOME"
_PATIENCE = 20.0
"""How long a database that is away is waited for, in seconds; a server restarts in a few."""

P = ParamSpec("P")
T = TypeVar("T")


def default_home() -> Path:
    """The one folder that every run, the daemon and the CLI of a user share.

    ``BATCH_LLM_HOME`` if set, else ``~/.dagster-batch-llm``. It is not a temporary folder of Dagster's, because
    paid answers have to outlive `dg dev`.
    """
    configured = os.environ.get(HOME_VARIABLE)
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".dagster-batch-llm"


class Database:
    """Transactions on the ledger's database.

    Args:
        home: Folder that holds ``answers/``, and ``ledger.sqlite3`` if the ledger isn't elsewhere; made if missing.
        clock: Where time comes from.
        url: A Postgres database, or an empty text for the file; by default what ``BATCH_LLM_LEDGER`` says.
        read_only: Only look: nothing is made, migrated, locked or waited for.

    Raises:
        StorageError: The folder can't be written or the server not be reached, the schema is newer than this
            package, or the ledger does not belong to the answers beside it.
        MissingExtraError: The extra ``postgres`` is not installed.
    """

    def __init__(
        self, home: Path, clock: Clock | None = None, *, url: str | None = None, read_only: bool = False
    ) -> None:
        self.home = home
        self.clock = clock or SystemClock()
        self.store = store_of(home, url, read_only=read_only)
        self._read_only = read_only
        with self._mapped():
            self.id = known(self) if read_only else persist(lambda: opened(self))

    @contextmanager
    def read(self) -> Generator[Connection]:
        """One snapshot: all statements in it see the same moment."""
        with self._mapped(), self.store.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Generator[Connection]:
        """One transaction, with the write lock from its start."""
        if self._read_only:
            raise StorageError(f"The ledger {self.store.name} was opened readonly.")
        repeat = _REPEAT.get()
        with self._mapped(), self.store.engine.connect() as plain:
            again = repeat is not None and repeat.unsure
            connection = plain.execution_options(batch_llm_write=True, batch_llm_again=again)
            with connection.begin():
                yield connection
                if repeat is not None:
                    repeat.unsure = True  # from here on a lost connection doesn't say whether it was committed

    @contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except (OSError, DatabaseError) as error:
            if isinstance(error, IntegrityError | ProgrammingError):
                raise  # ours, not the disk's
            kind = _PassingError if self.store.passes(error) else StorageError
            raise kind(self.store.explain(error)) from error


class _PassingError(StorageError):
    """The transaction was cut off; it may be made again."""


@dataclass
class _Repeat:
    unsure: bool = False


_REPEAT: ContextVar[_Repeat | None] = ContextVar("_REPEAT", default=None)


def persist(work: Callable[[], T]) -> T:
    """Do something of at most one writing transaction, and again if that is cut off, for some seconds.

    If the cut came during a commit, nobody knows whether it was made. What is done again must therefore do no harm
    if it was; `was_cut_off` tells it.

    Raises:
        StorageError: The database stayed away.
    """
    token = _REPEAT.set(_Repeat())
    try:
        with suppress(_PassingError):
            return work()  # nearly always; a plan for more tries takes longer to make than a transaction of SQLite
        for attempt in stamina.retry_context(
            on=_PassingError, attempts=None, timeout=_PATIENCE, wait_initial=0.05, wait_max=1.0, wait_jitter=0.05
        ):
            with attempt:
                return work()
        raise AssertionError("stamina returns or raises")
    finally:
        _REPEAT.reset(token)


def was_cut_off(connection: Connection) -> bool:
    """Whether this transaction may have been made once already."""
    return bool(connection.get_execution_options().get("batch_llm_again"))


class _HasDatabase(Protocol):
    _db: Database


S = TypeVar("S", bound=_HasDatabase)


def persistent(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """A method that is one transaction, and is made again if that is cut off; see `persist`."""

    @wraps(method)
    def persisting(self: S, *args: P.args, **kwargs: P.kwargs) -> T:
        return persist(lambda: method(self, *args, **kwargs))

    return persisting
