"""What can go wrong with a call: each fault is one function around serving it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

from ..wire import error_body, is_array, is_object, parse_object
from .fault import Fault

CALLS = ("upload", "create", "get", "list", "cancel", "content", "delete", "ask")
ANY_CALL = "call"
_SILENCE_SECONDS = 120.0


class Reset(Exception):  # noqa: N818 - what the caller sees, not what went wrong here
    """The connection is to be broken without a reply."""


@dataclass(frozen=True)
class Reply:
    """A whole reply.

    Attributes:
        sent: After so many bytes of the body the connection breaks; None for all of them.
        chunked: Sent without a content-length.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent: int | None = None
    chunked: bool = False

    def json(self) -> dict[str, Any] | None:
        """The body if it is a JSON object."""
        try:
            return dict(parse_object(self.body))
        except ValueError:
            return None

    def with_json(self, body: Mapping[str, object]) -> Reply:
        return replace(self, body=json.dumps(body).encode())


Serve = Callable[[], Awaitable[Reply]]
CallFault = Callable[[Fault, Serve], Awaitable[Reply]]


async def _lost_reply(fault: Fault, serve: Serve) -> Reply:
    """It is carried out, and the connection is reset before the reply."""
    await serve()
    raise Reset


async def _lost_request(fault: Fault, serve: Serve) -> Reply:
    """The connection is reset, and nothing is carried out."""
    raise Reset


async def _bad_gateway(fault: Fault, serve: Serve) -> Reply:
    """It is carried out, and something in between answers 502 (or `status`) with a page of HTML."""
    await serve()
    return _page(fault.status or 502, "<html><body>Bad Gateway</body></html>")


async def _time_out(fault: Fault, serve: Serve) -> Reply:
    """It is carried out, and nothing is answered for 120 (or `seconds`) seconds; then the connection is reset."""
    await serve()
    await asyncio.sleep(_SILENCE_SECONDS if fault.seconds is None else fault.seconds)
    raise Reset


async def _slow(fault: Fault, serve: Serve) -> Reply:
    """It is carried out, and the reply comes after 5 (or `seconds`) seconds."""
    reply = await serve()
    await asyncio.sleep(5.0 if fault.seconds is None else fault.seconds)
    return reply


async def _repeated(fault: Fault, serve: Serve) -> Reply:
    """Something in between sends it twice; the second reply arrives."""
    await serve()
    return await serve()


async def _refused(fault: Fault, serve: Serve) -> Reply:
    """It is refused with 400, or with `status` (401, 402, 403, 404, 405, 413, 422), and not carried out."""
    return _error(fault.status or 400, "refused", "The emulated provider refuses this.")


async def _not_found(fault: Fault, serve: Serve) -> Reply:
    """It is answered 404 and not carried out."""
    return _error(404, "not_found", "The emulated provider knows nothing of it.")


async def _busy(fault: Fault, serve: Serve) -> Reply:
    """It is answered 429 (or `status`, such as 503) with a Retry-After of 1 (or `seconds`), and not carried out."""
    reply = _error(fault.status or 429, "rate_limit_exceeded", "Too many requests.")
    seconds = 1 if fault.seconds is None else fault.seconds
    return replace(reply, headers={**reply.headers, "retry-after": f"{seconds:g}"})


async def _no_quota(fault: Fault, serve: Serve) -> Reply:
    """It is answered 429 insufficient_quota, which no waiting helps, and not carried out."""
    return _error(429, "insufficient_quota", "You exceeded your current quota.")


async def _server_error(fault: Fault, serve: Serve) -> Reply:
    """It is answered 500 (or `status`), and not carried out."""
    return _error(fault.status or 500, "server_error", "The emulated provider had an error.")


async def _not_json(fault: Fault, serve: Serve) -> Reply:
    """It is carried out, and a page of HTML comes with a 200."""
    await serve()
    return _page(200, "<html><body>Please log in.</body></html>")


async def _empty_reply(fault: Fault, serve: Serve) -> Reply:
    """It is carried out, and an empty body comes with a 200."""
    return replace(await serve(), body=b"")


async def _no_date(fault: Fault, serve: Serve) -> Reply:
    """The reply has no Date header."""
    reply = await serve()
    return replace(reply, headers={name: value for name, value in reply.headers.items() if name != "date"})


async def _clock_off(fault: Fault, serve: Serve) -> Reply:
    """The provider's clock is 3 hours (or `seconds`) ahead: in the Date header and in every time of the reply."""
    seconds = 10_800.0 if fault.seconds is None else fault.seconds
    reply = _shifted(await serve(), seconds)
    date = reply.headers.get("date")
    if date is None:
        return reply
    there = parsedate_to_datetime(date).timestamp() + seconds
    return replace(reply, headers={**reply.headers, "date": formatdate(there, usegmt=True)})


async def _times_off(fault: Fault, serve: Serve) -> Reply:
    """Every time in the reply is 3 hours (or `seconds`) ahead of the Date header."""
    return _shifted(await serve(), 10_800.0 if fault.seconds is None else fault.seconds)


async def _lag(fault: Fault, serve: Serve) -> Reply:
    """Batches younger than 60 (or `seconds`) seconds are not listed."""
    reply = await serve()
    page, date = reply.json(), reply.headers.get("date")
    if page is None or date is None:
        return reply
    horizon = parsedate_to_datetime(date).timestamp() - (60.0 if fault.seconds is None else fault.seconds)
    listed: list[Mapping[str, Any]] = page.get("data") or []
    return reply.with_json({**page, "data": [one for one in listed if _seconds(one["created_at"]) <= horizon]})


async def _unordered(fault: Fault, serve: Serve) -> Reply:
    """A page of the list comes oldest first."""
    reply = await serve()
    page = reply.json()
    return reply if page is None else reply.with_json({**page, "data": list(reversed(page.get("data", [])))})


async def _cut(fault: Fault, serve: Serve) -> Reply:
    """Half (or `part`) of the file comes with a 200 and a content-length that fits."""
    reply = await serve()
    return replace(reply, body=reply.body[: int(len(reply.body) * fault.part)])


async def _cut_at_a_line(fault: Fault, serve: Serve) -> Reply:
    """Half (or `part`) of the file's lines come with a 200 and a content-length that fits, as if that were all."""
    reply = await serve()
    lines = reply.body.splitlines(keepends=True)
    return replace(reply, body=b"".join(lines[: int(len(lines) * fault.part)]))


async def _incomplete(fault: Fault, serve: Serve) -> Reply:
    """Half (or `part`) of the file's lines come with the header X-Incomplete: true."""
    reply = await _cut_at_a_line(fault, serve)
    return replace(reply, headers={**reply.headers, "x-incomplete": "true"})


async def _cut_short(fault: Fault, serve: Serve) -> Reply:
    """The connection breaks after half (or `part`) of the bytes that content-length announced."""
    reply = await serve()
    return replace(reply, sent=int(len(reply.body) * fault.part))


async def _no_length(fault: Fault, serve: Serve) -> Reply:
    """The file comes in chunks, without a content-length."""
    return replace(await serve(), chunked=True)


async def _gzip(fault: Fault, serve: Serve) -> Reply:
    """The file comes compressed."""
    return _compressed(await serve())


async def _broken_gzip(fault: Fault, serve: Serve) -> Reply:
    """The file comes compressed, with its second half (beyond `part`) in ruins."""
    reply = _compressed(await serve())
    kept = int(len(reply.body) * fault.part)
    return replace(reply, body=reply.body[:kept] + b"\xff" * (len(reply.body) - kept))


async def _reversed(fault: Fault, serve: Serve) -> Reply:
    """The lines of the file come in reverse order."""
    reply = await serve()
    return replace(reply, body=b"".join(reversed(reply.body.splitlines(keepends=True))))


async def _no_last_newline(fault: Fault, serve: Serve) -> Reply:
    """The last line of the file isn't ended."""
    reply = await serve()
    return replace(reply, body=reply.body.rstrip(b"\n"))


def _seconds(moment: Any) -> float:
    return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else moment


def _shifted(reply: Reply, seconds: float) -> Reply:
    body = reply.json()
    return reply if body is None else reply.with_json(_object_later(body, int(seconds)))


def _later(value: object, seconds: int) -> object:
    if is_array(value):
        return [_later(one, seconds) for one in value]
    return _object_later(value, seconds) if is_object(value) else value


def _object_later(value: Mapping[str, object], seconds: int) -> dict[str, object]:
    return {
        name: _moved(one, seconds) if name.endswith(("_at", "Time")) else _later(one, seconds)
        for name, one in value.items()
    }


def _moved(moment: object, seconds: int) -> object:
    if isinstance(moment, str):
        return (datetime.fromisoformat(moment) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    return moment + seconds if isinstance(moment, int) else moment


def _compressed(reply: Reply) -> Reply:
    return replace(reply, body=gzip.compress(reply.body), headers={**reply.headers, "content-encoding": "gzip"})


def _page(status: int, html: str) -> Reply:
    return Reply(status, {"content-type": "text/html"}, html.encode())


def _error(status: int, code: str, message: str) -> Reply:
    body = error_body(message, status=status, code=code)
    return Reply(status, {"content-type": "application/json"}, json.dumps(body).encode())


def _named(*faults: CallFault) -> Mapping[str, CallFault]:
    return {getattr(fault, "__name__", "").lstrip("_"): fault for fault in faults}


CALL_FAULTS: Mapping[str, Mapping[str, CallFault]] = {
    **{call: {} for call in CALLS},
    ANY_CALL: _named(
        *(_lost_reply, _lost_request, _bad_gateway, _time_out, _slow, _repeated, _refused, _not_found, _busy),
        *(_no_quota, _server_error, _not_json, _empty_reply, _no_date, _clock_off, _times_off),
    ),
    "list": _named(_lag, _unordered),
    "content": _named(
        *(_cut, _cut_at_a_line, _incomplete, _cut_short, _no_length, _gzip, _broken_gzip, _reversed, _no_last_newline),
    ),
}
"""Place → name → what it does; what can happen to any call stands under `ANY_CALL`."""
