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
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb
import stamina
from dagster_batch_llm.assets import look as look_module
from dagster_batch_llm.resources import answers as answers_module
from dagster_batch_llm.resources import render as render_module
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, Ledger
from dagster_batch_llm.resources.ledger import attempts as attempts_module
from dagster_batch_llm.resources.ledger import connect as connect_module
from dagster_batch_llm.resources.ledger.attempts import Attempts, Send
from sqlalchemy import Connection, StaticPool, create_engine

from .hub import Hub

TransitionKey = tuple[str, str, str]


class Seams:
    """Which simulation is running in this process now, and what it has seen."""

    def __init__(self) -> None:
        self.hub: Hub | None = None
        self.transitions: Counter[TransitionKey] = Counter()
        self.memory: sqlite3.Connection | None = None
        self._template: bytes | None = None

    def effect(self, what: str) -> None:
        if self.hub is not None:
            self.hub.effect(what)

    def ledger(self, home: Path, hub: Hub) -> Ledger:
        """A new, empty ledger."""
        if self._template is None:
            with tempfile.TemporaryDirectory() as folder:
                self._open()
                Ledger(Path(folder), SystemClock())
                assert self.memory is not None
                self._template = self.memory.serialize()
                self.close()
        self._open()
        assert self.memory is not None
        self.memory.deserialize(self._template)
        return Ledger(home, hub)

    def close(self) -> None:
        """The seed's ledger is not needed any more."""
        if self.memory is not None:
            self.memory.close()
            self.memory = None

    def _open(self) -> None:
        self.memory = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)

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
def installed() -> Generator[Seams]:
    """Everything in here runs under the simulation's hands."""
    seams = Seams()
    base = duckdb.connect(":memory:", config={"preserve_insertion_order": True, "threads": 1})
    with ExitStack() as stack:

        def put(place: object, name: str, new: object) -> None:
            stack.enter_context(mock.patch.object(place, name, new))

        put(connect_module, "create_engine", seams.engine)
        for module in (answers_module, look_module, render_module):
            put(module, "connect", base.cursor)
        put(look_module, "_LEASE_POLL", 7.0)
        put(os, "fsync", _nothing)
        put(Path, "replace", _announced(seams, Path.replace, "rename"))
        put(Path, "unlink", _announced(seams, Path.unlink, "unlink"))
        for name in ("read", "write"):
            put(connect_module.Database, name, _transaction(seams, getattr(connect_module.Database, name), name))
        put(Attempts, "begin_send", _intent(seams, Attempts.begin_send))
        put(attempts_module, "_move", _counted(seams, attempts_module._move))  # pyright: ignore[reportPrivateUsage]
        stamina.set_testing(True, attempts=5, cap=True)
        stamina.instrumentation.set_on_retry_hooks([])
        try:
            yield seams
        finally:
            stamina.set_testing(False)
            stamina.instrumentation.set_on_retry_hooks(None)
            base.close()


def _nothing(_: int) -> None:
    pass


def _announced(seams: Seams, call: Callable[..., Any], name: str) -> Callable[..., Any]:
    def announced(path: Path, *args: Any, **kwargs: Any) -> Any:
        if seams.hub is not None:
            seams.hub.effect(f"{name} {path.name}")
        return call(path, *args, **kwargs)

    return announced


def _transaction(seams: Seams, call: Callable[..., Any], name: str) -> Callable[..., Any]:
    @contextmanager
    def transaction(database: Any) -> Generator[Connection]:
        seams.effect(f"ledger {name}")
        with call(database) as connection:
            yield connection

    return transaction


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
            for fault in sorted(hub.worker.met) or ["none"]:
                seams.transitions[attempt.state.value, to.value, fault] += 1
            hub.worker.met.clear()
            hub.say(f"{attempt.id[-4:]}: {attempt.state} → {to} (fence {attempt.fence})")
        return moved

    return move
