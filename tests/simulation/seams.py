"""Where the simulation takes hold of the package: effects are announced, and what only costs time is left out.

Nothing of the machine's, the ledger's or the parser's own logic is replaced. What is: the ledger's file is a SQLite
database in memory, DuckDB is one engine whose cursors are opened anew, `fsync` does nothing, stamina doesn't wait.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

import duckdb
import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import stamina
from dagster_batch_llm.assets import convergence as convergence_module
from dagster_batch_llm.assets import look as look_module
from dagster_batch_llm.resources import answers as answers_module
from dagster_batch_llm.resources import render as render_module
from dagster_batch_llm.resources import sending as sending_module
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, Ledger, Plan, Snapshot
from dagster_batch_llm.resources.ledger import attempts as attempts_module
from dagster_batch_llm.resources.ledger import connect as connect_module
from dagster_batch_llm.resources.ledger import opening as opening_module
from dagster_batch_llm.resources.ledger import sqlite as sqlite_module
from dagster_batch_llm.resources.ledger.attempts import Attempts, Send
from dagster_batch_llm.resources.ledger.looks import Looks
from dagster_batch_llm.resources.ledger.plans import Plans
from sqlalchemy import Connection, StaticPool, create_engine

from . import quick_files, quick_http, quick_sql
from .hub import Hub

_READS: Mapping[Any, Sequence[str]] = {
    Attempts: ("get", "open_of_plan", "sends", "links"),
    Looks: ("spec", "snapshot", "room"),
    Plans: ("get", "with_work"),
}
_QUICK: Sequence[tuple[Any, str, Any]] = (
    (look_module, "_missing", quick_files.missing),
    (convergence_module, "unfinished", quick_files.unfinished),
    (sending_module, "write_request_file", quick_files.write_request_file),
    (answers_module, "parse_results", quick_files.parse_results),
    (httpx.Client, "build_request", quick_http.build_request),
    (httpx.Client, "stream", quick_http.stream),
    (stamina, "retry_context", quick_http.retry_context),
)
TransitionKey = tuple[str, str, str]


class _SameId(SystemClock):
    """The ledger's id is part of names in traces."""

    def token(self) -> str:
        return "c0ffee00c0ffee00"


class Seams:
    """Which simulation is running in this process now, and what it has seen."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.hub: Hub | None = None
        self.unsettled: set[str] = set()
        self.reads: dict[tuple[Any, ...], Any] = {}
        self.nothing: dict[tuple[Any, ...], list[str]] = {}
        self.transitions: Counter[TransitionKey] = Counter()
        self.faults_of: Callable[[str | None], set[str]] = lambda _: set()
        self.memory: sqlite3.Connection | None = None

    def effect(self, what: str) -> None:
        if self.hub is not None:
            self.hub.effect(what)

    def ledger(self, home: Path, hub: Hub) -> Ledger:
        """A new, empty ledger."""
        self.unsettled.clear()
        self.nothing.clear()
        self.reads.clear()
        if self.memory is None:
            self.memory = sqlite3.connect(
                ":memory:", check_same_thread=False, isolation_level=None, cached_statements=1000
            )
            with tempfile.TemporaryDirectory() as folder:
                Ledger(Path(folder), _SameId())
        self._empty(self.memory)
        return Ledger(home, hub)

    @staticmethod
    def _empty(memory: sqlite3.Connection) -> None:
        """A ledger without plans; what SQLite has prepared stays so."""
        if memory.in_transaction:
            memory.execute("ROLLBACK")
        memory.execute("PRAGMA foreign_keys = OFF")  # the next engine switches them on
        for (name,) in memory.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            if name not in {"ledger", "alembic_version"}:
                memory.execute(f"DELETE FROM {name}")

    def write(self, rows: Sequence[dict[str, Any]], path: Path) -> None:
        """A file as the package would have written it."""
        if self.quick:
            quick_files.write(rows, path)
        else:
            pq.write_table(pa.Table.from_pylist(list(rows)), path)  # pyright: ignore[reportUnknownMemberType]

    def read(self, path: Path) -> list[dict[str, Any]]:
        """The rows of a file that the package has written."""
        return quick_files.read(path) if self.quick else pq.read_table(path).to_pylist()  # pyright: ignore[reportUnknownMemberType]

    def engine(self, *_: object, **__: object) -> Any:
        memory = self.memory
        assert memory is not None
        return create_engine("sqlite://", creator=lambda: memory, poolclass=StaticPool)


@contextmanager
def home_folder() -> Generator[Path]:
    """A folder in memory, if there is such a thing."""
    shm = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="batch_llm_sim_", dir=shm if shm.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def installed(*, quick: bool = True) -> Generator[Seams]:
    """Everything in here runs under the simulation's hands; `quick` with stand-ins for DuckDB, SQLAlchemy and httpx."""
    seams = Seams(quick=quick)
    with ExitStack() as stack:

        def put(place: object, name: str, new: object) -> None:
            stack.enter_context(mock.patch.object(place, name, new))

        put(sqlite_module, "create_engine", seams.engine)
        put(opening_module, "_migrate", _once(opening_module._migrate))  # pyright: ignore[reportPrivateUsage]
        for place, name, new in _QUICK if quick else _engine(stack):
            put(place, name, new)
        put(look_module, "_LEASE_POLL", 7.0)
        put(convergence_module, "_STEP_SECONDS", 20.0)
        put(convergence_module, "unfinished", _counted_once(convergence_module.unfinished))
        put(look_module, "_missing", _remembered(seams, look_module._missing))  # pyright: ignore[reportPrivateUsage]
        put(httpx.Client, "send", _send)
        put(os, "fsync", _nothing)
        put(Path, "replace", _announced(seams, Path.replace, "rename"))
        put(Path, "unlink", _announced(seams, Path.unlink, "unlink"))
        for name in ("read", "write"):
            put(connect_module.Database, name, _transaction(seams, getattr(connect_module.Database, name), name))
        for place, names in _READS.items():
            for name in names:
                put(place, name, _read(seams, getattr(place, name), name))
        put(Attempts, "begin_send", _intent(seams, Attempts.begin_send))
        put(attempts_module, "_move", _counted(seams, attempts_module._move))  # pyright: ignore[reportPrivateUsage]
        stamina.set_testing(True, attempts=5, cap=True)
        stamina.instrumentation.set_on_retry_hooks([])
        try:
            yield seams
        finally:
            if seams.memory is not None:
                seams.memory.close()
            stamina.set_testing(False)
            stamina.instrumentation.set_on_retry_hooks(None)


def _engine(stack: ExitStack) -> Iterator[tuple[Any, str, Any]]:
    """One DuckDB engine for all."""
    base = stack.enter_context(duckdb.connect(":memory:", config={"preserve_insertion_order": True, "threads": 1}))
    base.execute("PRAGMA disable_optimizer")  # the files are small: thinking takes longer than doing
    for module in (answers_module, look_module, render_module):
        yield module, "connect", base.cursor
    yield look_module, "unanswered_sql", _in_order(look_module.unanswered_sql)


def _in_order(call: Callable[..., str]) -> Callable[..., str]:
    """A join gives its rows in any order; the stand-in has to give them in the same one."""

    def in_order(keys: str, *files: Any, **options: Any) -> str:
        return f"{call(keys, *files, **options)} ORDER BY {keys}.key"

    return in_order


def _once(call: Callable[..., None]) -> Callable[..., None]:
    """There is one database for all seeds."""
    done: list[None] = []

    def once(database: object) -> None:
        if not done:
            done.append(call(database))

    return once


def _nothing(_: int) -> None:
    pass


def _send(client: httpx.Client, request: httpx.Request, *, stream: bool = False, **_: object) -> httpx.Response:
    """httpx without cookies, authentication and redirects, none of which the package uses."""
    response = client._transport.handle_request(request)  # pyright: ignore[reportPrivateUsage]
    response.request = request
    if not stream:
        response.read()
    return response


def _remembered(seams: Seams, call: Callable[..., Any]) -> Callable[..., Any]:
    """A look that found nothing finds nothing again in the same files, which never change."""

    def missing(ledger: Ledger, home: Any, provider: Any, plan: Plan, snapshot: Snapshot) -> Any:
        key = (plan.id, tuple(snapshot.open_manifests), tuple(snapshot.answers_files))
        if key in seams.nothing:
            return [], seams.nothing[key]
        attempts, waits_for = call(ledger, home, provider, plan, snapshot)
        if not attempts:
            seams.nothing[key] = waits_for
        return attempts, waits_for

    return missing


def _counted_once(call: Callable[..., int]) -> Callable[..., int]:
    """The same answers files give the same number; a seed's ledger has its own."""
    known: WeakKeyDictionary[Ledger, dict[tuple[str, tuple[str, ...]], int]] = WeakKeyDictionary()

    def unfinished(ledger: Ledger, plan: Plan) -> int:
        counted = known.setdefault(ledger, {})
        files = plan.id, tuple(ledger.looks.snapshot(plan.task).answers_files)
        if files not in counted:
            counted[files] = call(ledger, plan)
        return counted[files]

    return unfinished


def _announced(seams: Seams, call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def announced(path: Path, *args: Any, **kwargs: Any) -> Any:
        if seams.hub is not None:
            seams.hub.effect(f"{name} {path.name}")
        return call(path, *args, **kwargs)

    return announced


class _Transaction:
    """All or nothing. Nobody else's turn comes within one, so one that only reads need not be begun."""

    def __init__(self, seams: Seams, begin: Callable[[], AbstractContextManager[Any]] | None, *, write: bool) -> None:
        self._seams = seams
        self._begin = begin
        self._write = write

    def __enter__(self) -> Any:
        seams = self._seams
        seams.effect("ledger write" if self._write else "ledger read")
        if self._begin is not None:
            self._real = self._begin()
            return self._real.__enter__()
        assert seams.memory is not None
        self._memory: sqlite3.Connection = seams.memory
        if self._write:
            self._memory.execute("BEGIN IMMEDIATE")
        return quick_sql.QuickConnection(self._memory)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._begin is not None:
            self._real.__exit__(kind, error, trace)
        elif self._write:
            self._memory.execute("COMMIT" if kind is None else "ROLLBACK")
        if self._write and kind is None:
            self._seams.reads.clear()


def _transaction(seams: Seams, call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def transaction(database: Any) -> _Transaction:
        quickly = seams.quick and seams.memory is not None and hasattr(database, "id")  # not while it is opened
        return _Transaction(seams, None if quickly else lambda: call(database), write=name == "write")

    return transaction


def _read(seams: Seams, call: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same question gets the same answer until somebody writes."""

    def read(place: Any, *args: Any, **kwargs: Any) -> Any:
        hub = seams.hub
        if hub is None:
            return call(place, *args, **kwargs)
        hub.effect(f"ledger read: {name}")
        key = (name, args, *kwargs.items())
        if key not in seams.reads:
            with hub.quietly():
                seams.reads[key] = call(place, *args, **kwargs)
        return seams.reads[key]

    return read


def _intent(seams: Seams, call: Callable[..., Attempt]) -> Callable[..., Attempt]:
    def begin_send(attempts: Attempts, attempt: Attempt, send: Send) -> Attempt:
        hub = seams.hub
        if hub is not None and hub.worker is not None:
            hub.worker.intent_at = send.t0 - (hub.now() - hub.monotonic())
        return call(attempts, attempt, send)

    return begin_send


def _counted(seams: Seams, call: Callable[..., Attempt]) -> Callable[..., Attempt]:
    """Transitions, and which faults their worker met since its last one."""

    def move(connection: Connection, attempt: Attempt, to: AttemptState, values: Mapping[str, Any]) -> Attempt:
        moved = call(connection, attempt, to, values)
        hub = seams.hub
        if hub is not None and hub.worker is not None:
            for fault in sorted(hub.worker.met | seams.faults_of(attempt.batch_id)) or ["none"]:
                seams.transitions[attempt.state.value, to.value, fault] += 1
            hub.worker.met.clear()
            if to in {AttemptState.CREATING, AttemptState.AMBIGUOUS}:
                seams.unsettled.add(attempt.id)
            else:
                seams.unsettled.discard(attempt.id)
            hub.say(f"{attempt.id[-4:]}: {attempt.state} → {to} (fence {attempt.fence})")
        return moved

    return move
