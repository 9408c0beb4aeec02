"""The HTTP surface: OpenAI's files and batches, or another provider's way to speak of them, and realtime endpoints."""

from __future__ import annotations

import hmac
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..clock import Clock
from .answer import Engine
from .batch_routes import BatchRoutes
from .conduct import Conduct
from .desk import Desk
from .emulator.dialects.dialect import Dialect
from .file_routes import FileRoutes
from .reading import read_json
from .store import Store
from .wire import RefusalError, error_body
from .worker import Worker


class Activity:
    """When the server was last asked something; it does not stop in the middle of a request."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._last = clock.monotonic()

    def started(self) -> None:
        with self._lock:
            self._running += 1

    def ended(self) -> None:
        with self._lock:
            self._running -= 1
            self._last = self._clock.monotonic()

    def idle_seconds(self) -> float:
        """Seconds since the end of the last request; 0 while one is running."""
        with self._lock:
            return 0.0 if self._running else self._clock.monotonic() - self._last


@dataclass(frozen=True)
class Parts:
    """What the server is made of.

    Attributes:
        identity: What ``GET /healthz`` tells those who know the token: which process this is, and its settings.
        conduct: How batches are shown.
        more_routes: What else this server can be asked.
        speaks: The protocol that is spoken instead of OpenAI's.
    """

    store: Store
    engine: Engine
    worker: Worker
    activity: Activity
    clock: Clock
    token: str
    identity: Mapping[str, object]
    conduct: Conduct = field(default_factory=Conduct)
    more_routes: Sequence[BaseRoute] = ()
    speaks: Callable[[Desk], Dialect] | None = None

    @cached_property
    def desk(self) -> Desk:
        return Desk(self.store, self.worker, self.engine, self.clock, self.conduct)

    @cached_property
    def dialect(self) -> Dialect | None:
        return self.speaks(self.desk) if self.speaks else None

    def admits(self, scope: Scope) -> bool:
        """Whether a request comes from somebody who knows the token."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        # In constant time, so that the token can't be found out byte by byte.
        given = headers.get("authorization", "").encode()
        if hmac.compare_digest(given, f"Bearer {self.token}".encode()):
            return True
        return self.dialect is not None and self.dialect.admits(headers, self.token)


def make_app(parts: Parts) -> Starlette:
    """The server's application."""
    routes: list[BaseRoute] = [
        *(parts.dialect.routes() if parts.dialect else ()),
        *FileRoutes(parts.store, parts.desk).routes(),
        *BatchRoutes(parts.desk).routes(),
        *_engine_routes(parts),
        *parts.more_routes,
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={RefusalError: _error, HTTPException: _error, OSError: _error, sqlite3.Error: _error},
    )
    app.add_middleware(_Guard, parts=parts)
    return app


def _engine_routes(parts: Parts) -> list[BaseRoute]:
    created = int(parts.clock.now())

    def health(_: Request) -> Response:
        return JSONResponse({"status": "ok", **parts.identity})

    def models(_: Request) -> Response:
        listed = [
            {"id": name, "object": "model", "created": created, "owned_by": "local"} for name in parts.engine.models
        ]
        return JSONResponse({"object": "list", "data": listed})

    async def realtime(request: Request) -> Response:
        body = await read_json(request)
        answer = await run_in_threadpool(parts.desk.ask, body, request.url.path)
        return JSONResponse(answer.body, answer.status)

    return [
        Route("/healthz", health),
        Route("/v1/models", models),
        *(Route(endpoint, realtime, methods=["POST"]) for endpoint in sorted(parts.engine.endpoints)),
    ]


class _Guard:
    """Lets only those in who know the token, and notes that the server is in use."""

    def __init__(self, app: ASGIApp, *, parts: Parts) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not self._parts.admits(scope):
            refusal = RefusalError("Incorrect API key provided.", status=401, code="invalid_api_key")
            await _respond(refusal)(scope, receive, send)
            return
        self._parts.activity.started()
        try:
            await self._app(scope, receive, send)
        finally:
            self._parts.activity.ended()


def _respond(refusal: RefusalError) -> JSONResponse:
    answer = refusal.answer()
    return JSONResponse(answer.body, answer.status)


def _error(request: Request, error: Exception) -> Response:
    match error:
        case RefusalError():
            return _respond(error)
        case HTTPException():
            message = f"{request.method} {request.url.path}: {error.detail}"
            body = error_body(message, status=error.status_code, code=None)
            return JSONResponse(body, error.status_code, error.headers)
        case _:
            message = f"The local server can't use its disk: {error}"
            return JSONResponse(error_body(message, status=500, code="storage_error"), 500)
