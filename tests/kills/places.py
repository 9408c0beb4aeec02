"""Where the points are: every durable effect of a process, before it and after it.

Nothing in the product knows of this; a process that is to be watched calls `watch` before it does anything.
"""

from __future__ import annotations

import inspect
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any, cast

import duckdb
import httpx
import uvicorn
from dagster_batch_llm.resources.clock import SystemClock
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine.default import DefaultDialect

from .points import Passage, anonymous

_HASTE = 0.1
"""Waiting takes a tenth of its time; what time does to leases is done by moving the clock."""
_PLUMBING = ("connect.py", "sqlite.py", "postgres.py", "new_rows.py", "store.py", "opening.py", "__init__.py")


def watch(role: str, folder: Path) -> None:
    """Make this process pass points."""
    passage = Passage(role, folder)
    _files(passage)
    if role == "server":
        tell_time(folder)
        _server_commits(passage)
        _server_replies(passage)
    else:
        _hurry(folder)
        _ledger_commits(passage)
        _tables(passage)
        _requests(passage)


def read_clock(folder: Path) -> float:
    """By how many seconds the world's clock is ahead."""
    return float((folder / "clock").read_text())


def move_clock(folder: Path, seconds: float) -> None:
    """Let time pass for everybody."""
    ahead = read_clock(folder) + seconds if (folder / "clock").exists() else seconds
    (folder / "clock.part").write_text(str(ahead))
    (folder / "clock.part").rename(folder / "clock")


def tell_time(folder: Path) -> Callable[[], float]:
    """Give this process, and what is forked from it, the world's clock; gives the one that it had."""
    real = time.time
    time.time = lambda: real() + read_clock(folder)  # Dagster's events and heartbeats have it, too
    return real


def _hurry(folder: Path) -> None:
    """Not for the server, which would call itself idle and stop."""
    steadily, patched = time.monotonic, cast("Any", SystemClock)

    def steady(_: SystemClock) -> float:
        return steadily() + read_clock(folder)

    def sleep(_: SystemClock, seconds: float) -> None:
        Event().wait(seconds * _HASTE)

    patched.monotonic, patched.sleep = steady, sleep


def _around(passage: Passage, call: Callable[..., Any], name: Callable[..., str | None]) -> Callable[..., Any]:
    @wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        step = name(*args, **kwargs)
        if step is None:
            return call(*args, **kwargs)
        passage.reach(f"before {step}")
        result = call(*args, **kwargs)
        passage.reach(f"after {step}")
        return result

    return watched


def _files(passage: Passage) -> None:
    def named(verb: str, path: str | Path) -> str | None:
        text = str(path)
        if not text.startswith(f"{passage.folder}/") or text.endswith((".lock", "-wal", "-shm")):
            return None
        # <folder>/<world>/…
        return f"{verb} {anonymous('/'.join(Path(text).relative_to(passage.folder).parts[1:]))}"

    def opened(verb: str, handle: int) -> str | None:
        return named(verb, Path(f"/proc/self/fd/{handle}").readlink())

    def unlinked(path: Path, **_: bool) -> str | None:
        return named("unlink", path) if path.exists() else None

    def given(verb: str, value: str | Path | int) -> str | None:
        return opened(verb, value) if isinstance(value, int) else named(verb, value)

    for owner, verb in ((os, "fsync"), (os, "write"), (os, "truncate"), (Path, "replace"), (Path, "hardlink_to")):
        patched: Any = owner
        name = partial(_first, partial(given, verb))
        setattr(patched, verb, _around(passage, getattr(patched, verb), name))
    Path.unlink = _around(passage, Path.unlink, unlinked)


def _first(name: Callable[[Any], str | None], value: Any, *_: Any) -> str | None:
    return name(value)


def _caller(part: str, plumbing: tuple[str, ...]) -> str:
    """The function of the product that led here."""
    frame = inspect.currentframe()
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if part in str(path) and path.name not in plumbing and not frame.f_code.co_name.startswith("_"):
            return frame.f_code.co_qualname.replace(".<locals>", "")
        frame = frame.f_back
    return "opening"


def _ledger_commits(passage: Passage) -> None:
    writing: list[str] = []

    def committing(connection: Connection) -> None:
        if connection.get_execution_options().get("batch_llm_write"):
            writing.append(f"commit {_caller('/resources/ledger/', _PLUMBING)}")
            passage.reach(f"before {writing[0]}")

    commit = DefaultDialect.do_commit

    def do_commit(self: DefaultDialect, dbapi_connection: Any) -> None:
        commit(self, dbapi_connection)
        if writing:
            passage.reach(f"after {writing.pop()}")

    event.listen(Engine, "commit", committing)
    DefaultDialect.do_commit = do_commit


def _tables(passage: Passage) -> None:
    def named(_: object) -> str:
        return "commit of the table"

    connection: Any = duckdb.DuckDBPyConnection
    connection.commit = _around(passage, connection.commit, named)


def _requests(passage: Passage) -> None:
    def named(_: httpx.HTTPTransport, request: httpx.Request) -> str:
        return f"{request.method} {anonymous(request.url.path)}"

    httpx.HTTPTransport.handle_request = _around(passage, httpx.HTTPTransport.handle_request, named)


def _server_commits(passage: Passage) -> None:
    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
            if sql != "COMMIT":
                return super().execute(sql, *values)
            step = f"commit {_caller('/resources/local/', ())}"
            passage.reach(f"before {step}")
            done = super().execute(sql)
            passage.reach(f"after {step}")
            return done

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> Any:
            step = f"commit {_caller('/resources/local/', ())}"
            if self.in_transaction and kind is None:
                passage.reach(f"before {step}")
            super().__exit__(kind, error, trace)
            if kind is None:
                passage.reach(f"after {step}")

    patched: Any = sqlite3
    patched.connect = partial(sqlite3.connect, factory=Watched)


def _server_replies(passage: Passage) -> None:
    patched: Any = uvicorn.Config
    make = patched.__init__

    def with_points(self: uvicorn.Config, app: Any, **kwargs: Any) -> None:
        async def watched(scope: Any, receive: Any, send: Any) -> None:
            step = f"{scope.get('method')} {anonymous(scope.get('path', ''))}"
            if "/v1/" not in step:
                return await app(scope, receive, send)

            async def sent(message: Any) -> None:
                if message["type"] == "http.response.start":
                    passage.reach(f"before the reply to {step}")
                await send(message)

            passage.reach(f"before {step}")
            return await app(scope, receive, sent)

        make(self, watched, **kwargs)

    patched.__init__ = with_points
