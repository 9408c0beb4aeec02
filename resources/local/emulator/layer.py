"""The outermost layer of the emulated server: faults of calls, and the routes that script them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...clock import Clock
from ...errors import InputError
from ..reading import read_json
from ..store import Store
from ..wire import RefusalError
from .calls import ANY_CALL, CALL_FAULTS, Reply, Reset, Serve
from .fault import Fault
from .faults import Faults
from .memory import Memory

_NOTICE_SECONDS = 0.01
"""Until the server has seen that the connection is gone; before, it would try to answer."""

_PATHS = (
    ("upload", "POST", re.compile(r"/v1/files")),
    ("create", "POST", re.compile(r"/v1/batches")),
    ("list", "GET", re.compile(r"/v1/batches")),
    ("get", "GET", re.compile(r"/v1/batches/[^/]+")),
    ("cancel", "POST", re.compile(r"/v1/batches/[^/]+/cancel")),
    ("content", "GET", re.compile(r"/v1/files/[^/]+/content")),
    ("delete", "DELETE", re.compile(r"/v1/files/[^/]+")),
    ("ask", "POST", re.compile(r"/v1/(chat/completions|embeddings|responses|moderations)")),
)


class AheadClock:
    """The provider's clock, which can be put forward."""

    def __init__(self, clock: Clock, memory: Memory) -> None:
        self._clock = clock
        self._memory = memory

    def now(self) -> float:
        return self._clock.now() + self._memory.ahead

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)

    def token(self) -> str:
        return self._clock.token()


def control_routes(memory: Memory, store: Store) -> list[BaseRoute]:
    """What a test says to the emulator, under the server's token."""

    async def script(request: Request) -> Response:
        body = await request.body()
        try:
            faults = Faults.from_json(body)
        except InputError as error:
            raise RefusalError(error.message, param="rules") from error
        await run_in_threadpool(memory.script, faults)
        return JSONResponse({"rules": len(faults.rules)})

    def bill(_: Request) -> Response:
        return JSONResponse({"batches": store.count_batches(), "requests": memory.bill()})

    async def advance(request: Request) -> Response:
        seconds = (await read_json(request)).get("seconds")
        if not isinstance(seconds, int | float) or seconds < 0:
            raise RefusalError("'seconds' has to be a number that is not negative.", param="seconds")
        await run_in_threadpool(memory.advance, seconds)
        return JSONResponse({"ahead": memory.ahead})

    return [
        Route("/emulator/faults", script, methods=["POST"]),
        Route("/emulator/bill", bill, methods=["GET"]),
        Route("/emulator/clock", advance, methods=["POST"]),
    ]


class FaultLayer:
    """Serves each call of the protocol as the script says.

    Args:
        app: The server.
        memory: Holds the script.
        clock: The provider's, for the Date header.
        admits: Whether the caller knows the token; faults aren't wasted on strangers.
        place: Which call a method and a path are; OpenAI's calls if not given.
    """

    def __init__(
        self,
        app: ASGIApp,
        memory: Memory,
        clock: Clock,
        admits: Callable[[Scope], bool],
        place: Callable[[str, str], str | None] | None = None,
    ) -> None:
        self._app = app
        self._memory = memory
        self._clock = clock
        self._admits = admits
        self._place = place or _place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = self._place(scope["method"], scope["path"])
        rules: list[Fault] = []
        if place is not None and self._admits(scope):
            rules = await run_in_threadpool(self._memory.striking, (place, ANY_CALL))
        if not rules or place is None:
            await self._app(scope, receive, partial(self._dated, send))
            return
        try:
            await _send(await self._struck(place, rules, scope, receive), send)
        except Reset:
            await _reset(send)

    async def _dated(self, send: Send, message: Message) -> None:
        """Pass a message on, with the provider's time."""
        if message["type"] == "http.response.start":
            date = formatdate(self._clock.now(), usegmt=True).encode()
            message = {**message, "headers": [*message.get("headers", []), (b"date", date)]}
        await send(message)

    async def _struck(self, place: str, rules: list[Fault], scope: Scope, receive: Receive) -> Reply:
        body = await _body(receive)

        async def plainly() -> Reply:
            return await self._collected(scope, body)

        serve: Serve = plainly
        for rule in rules:
            function = {**CALL_FAULTS[ANY_CALL], **CALL_FAULTS[place]}[rule.name]
            serve = partial(function, rule, serve)
        return await serve()

    async def _collected(self, scope: Scope, body: bytes) -> Reply:
        """The server's own reply, as a whole."""
        taken = _Taken()
        fresh = {**scope, "state": dict(scope.get("state", {}))}
        await self._app(fresh, _giving(body), partial(self._dated, taken.send))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in taken.headers}
        return Reply(taken.status, headers, bytes(taken.body))


@dataclass
class _Taken:
    status: int = 500
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], tuple(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")


def _place(method: str, path: str) -> str | None:
    return next((place for place, verb, form in _PATHS if verb == method and form.fullmatch(path)), None)


async def _body(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message["type"] == "http.request" and message.get("more_body", False)
    return bytes(body)


def _giving(body: bytes) -> Receive:
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()  # a caller that is still there; a file is not sent to one that has left
        return messages.pop(0)

    return receive


async def _send(reply: Reply, send: Send) -> None:
    headers: Mapping[str, str] = {k: v for k, v in reply.headers.items() if k != "content-length"}
    if not reply.chunked:
        headers = {**headers, "content-length": str(len(reply.body))}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
    if reply.sent is None:
        await send({"type": "http.response.body", "body": reply.body})
        return
    await send({"type": "http.response.body", "body": reply.body[: reply.sent], "more_body": True})
    await _end(send)


async def _reset(send: Send) -> None:
    """Break the connection before a reply."""
    _transport(send).abort()
    await asyncio.sleep(_NOTICE_SECONDS)


async def _end(send: Send) -> None:
    """Close the connection in the middle of a body; what was written still arrives."""
    _transport(send).close()
    await asyncio.sleep(_NOTICE_SECONDS)


def _transport(send: Send) -> asyncio.WriteTransport:
    """ASGI has no word for it, but uvicorn's `send` is a method of the object that holds the connection."""
    found: object = getattr(getattr(send, "__self__", None), "transport", None)
    if found is None:
        raise ConnectionResetError
    return cast("asyncio.WriteTransport", found)
