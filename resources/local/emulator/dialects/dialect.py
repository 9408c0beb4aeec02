"""How another provider's protocol is spoken over this server's own files and batches."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from ...answer import CHAT, EMBEDDINGS
from ...batch import Batch
from ...desk import Desk
from ...wire import RefusalError, clean_text, dump_line, is_object, parse_object

Shown = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """A request.

    Attributes:
        path: The parts of its path that have names.
        query: What follows the question mark.
        headers: By their names in small letters.
        body: As it came.
        form: Fields and files of a form.
    """

    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    form: Mapping[str, str | bytes]

    @property
    def object(self) -> Mapping[str, Any]:
        """The body, which has to be an object."""
        try:
            return parse_object(self.body)
        except ValueError as error:
            raise RefusalError(f"The body is not a JSON object: {error}.") from error


Handler = Callable[[Asked], "Shown | Sequence[Shown] | Response"]
"""What is answered to a request; a refusal is raised."""

LIVE = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True)
class Call:
    """One thing that the provider can be asked.

    Attributes:
        place: Which of the protocol's calls it is, for faults; empty if faults leave it alone.
        method: HTTP method.
        path: As Starlette writes it.
        handler: What answers it.
    """

    place: str
    method: str
    path: str
    handler: Handler

    def matches(self, method: str, path: str) -> bool:
        form = re.sub(r"\\\{\w+:path\\\}", ".+", re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(self.path)))
        return method == self.method and re.fullmatch(form, path) is not None


@dataclass(frozen=True)
class Told:
    """A result line of this server.

    Attributes:
        row: Its custom_id.
        status: HTTP status; None if the row was never asked.
        body: The endpoint's reply.
        error: Why there is none.
    """

    row: str
    status: int | None
    body: Any
    error: Mapping[str, Any] | None

    @property
    def is_ok(self) -> bool:
        return self.error is None and self.status is not None and 200 <= self.status < 300

    @property
    def code(self) -> str:
        """The code of what went wrong."""
        return str(self.failure.get("code"))

    @property
    def words(self) -> str:
        """What went wrong."""
        return str(self.failure.get("message", "no answer"))

    @property
    def failure(self) -> Mapping[str, Any]:
        if self.error is not None:
            return self.error
        inner = self.body.get("error") if is_object(self.body) else None
        return dict(inner) if is_object(inner) else {"code": f"status {self.status}"}

    @property
    def choice(self) -> Mapping[str, Any] | None:
        """The answer to a chat; None if the body isn't one."""
        choices: Any = self.body.get("choices") if is_object(self.body) else None
        return choices[0] if choices else None

    @property
    def vector(self) -> list[float] | None:
        """The answer to an embedding."""
        data: Any = self.body.get("data") if is_object(self.body) else None
        return data[0]["embedding"] if data else None

    def tokens(self, name: str) -> Any:
        """One of the usage's counts, whatever it is."""
        usage = self.body.get("usage") if is_object(self.body) else None
        return usage.get(name) if is_object(usage) else None


class Dialect(ABC):
    """One provider's protocol.

    Args:
        desk: What it is spoken over.
    """

    name: ClassVar[str]
    header: ClassVar[str] = "authorization"
    """Where the key comes."""
    prefix: ClassVar[str] = "Bearer "

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @abstractmethod
    def calls(self) -> Sequence[Call]:
        """All that can be asked; the first one that matches answers."""

    @abstractmethod
    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        """A request line's row id, and its body in OpenAI's words."""

    @abstractmethod
    def result(self, told: Told) -> Mapping[str, Any]:
        """A result line."""

    def refusal(self, error: RefusalError) -> Shown:
        """The body of an error."""
        return error.answer().body

    def admits(self, headers: Mapping[str, str], token: str) -> bool:
        """Whether these are the headers of somebody who knows the token."""
        return headers.get(self.header) == f"{self.prefix}{token}"

    def place(self, method: str, path: str) -> str | None:
        """Which call a request is."""
        return next((call.place for call in self.calls() if call.matches(method, path)), None) or None

    def routes(self) -> list[BaseRoute]:
        return [Route(call.path, self._endpoint(call.handler), methods=[call.method]) for call in self.calls()]

    def _endpoint(self, handler: Handler) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            body, form = await request.body(), dict[str, str | bytes]()
            if request.headers.get("content-type", "").startswith("multipart/form-data"):
                async with request.form() as fields:
                    form = {k: v if isinstance(v, str) else await v.read() for k, v in fields.items()}
            asked = Asked(request.path_params, request.query_params, request.headers, body, form)
            try:
                said = await run_in_threadpool(handler, asked)
            except RefusalError as error:
                return JSONResponse(self.refusal(error), error.status)
            return said if isinstance(said, Response) else JSONResponse(said)

        return endpoint

    # ---- what most of them need ----

    def at_once(self, root: str) -> Sequence[Call]:
        """OpenAI's calls that are answered at once."""
        return (
            Call("ask", "POST", f"{root}/chat/completions", partial(self._ask, CHAT)),
            Call("ask", "POST", f"{root}/embeddings", partial(self._ask, EMBEDDINGS)),
        )

    def _ask(self, endpoint: str, asked: Asked) -> Shown:
        needed(asked.object, "model")
        return self.asked({"custom_id": "", "body": asked.object}, endpoint).body

    def asked(self, line: Mapping[str, Any], endpoint: str) -> Told:
        """What a request is answered at once; it is given as a line of a batch."""
        row, body = self.request(line)
        answer = self.desk.ask(body, endpoint)
        told = Told(row, answer.status, answer.body, None)
        if not told.is_ok:
            raise RefusalError(told.words, status=answer.status)
        return told

    def stored(self, lines: Iterable[bytes], name: str, endpoint: str = CHAT) -> str:
        """Keep request lines; gives the file's id. A line that is none is kept as it is, for validation to find."""
        return self.desk.keep(b"".join(self._translated(line, endpoint) for line in lines), name).id

    def _translated(self, line: bytes, endpoint: str) -> bytes:
        try:
            row, body = self.request(parse_object(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            return line.rstrip(b"\n") + b"\n"
        return dump_line({"custom_id": row, "method": "POST", "url": endpoint, "body": body})

    def results(self, shown: Shown, *names: str) -> Response:
        """The result lines of a batch's files."""
        return StreamingResponse(iter([b"".join(self.told(shown, *names))]), media_type="application/octet-stream")

    def told(self, shown: Shown, *names: str) -> Iterator[bytes]:
        """The lines in a batch's files of these names, translated; what can't be read is passed on."""
        for name in names or ("output_file_id", "error_file_id"):
            if file_id := shown.get(name):
                for line in self.desk.lines(file_id):
                    yield self.line(line)

    def line(self, line: bytes) -> bytes:
        """One result line, translated."""
        try:
            found: dict[str, Any] = json.loads(line)
            response: dict[str, Any] = found.get("response") or {}
            told = Told(found["custom_id"], response.get("status_code"), response.get("body"), found.get("error"))
            extra = {"note": found["note"]} if "note" in found else {}
            return dump_line({**self.result(told), **extra})
        except (ValueError, KeyError, TypeError, AttributeError):
            return line

    def headed(self, shown: Shown, headers: Mapping[str, str]) -> Response:
        """A reply with headers."""
        return JSONResponse(shown, headers=headers)

    def batch(self, asked: Asked) -> Batch:
        """The batch that a path speaks of."""
        return self.desk.batch(asked.path["batch_id"])

    def seen(self, asked: Asked) -> Shown:
        """That batch as OpenAI shows it."""
        return self.desk.shown(self.batch(asked))

    def cancelled(self, asked: Asked) -> Shown:
        """That batch, which is cancelled."""
        return self.desk.shown(self.desk.cancel(self.batch(asked).id))

    def page(self, after: str | None, limit: int) -> tuple[list[Shown], bool]:
        """Batches, newest first, and whether there are more."""
        found = [self.desk.shown(batch) for batch in self.desk.page(after, limit + 1)]
        return [*found[:limit]], len(found) > limit


def counts_of(shown: Shown) -> Mapping[str, int]:
    """A batch's counts; 0 where it has none."""
    counts: Mapping[str, int] = shown.get("request_counts") or {"total": 0, "completed": 0, "failed": 0}
    return counts


def problems_of(shown: Shown) -> list[str]:
    """Why a batch failed validation."""
    errors: Mapping[str, Any] = shown.get("errors") or {"data": []}
    return [str(one["message"]) for one in errors["data"]]


def iso(moment: Any) -> str | None:
    """A time as most APIs write it."""
    return None if moment is None else datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def needed(body: Mapping[str, Any], *names: str) -> list[Any]:
    """Fields of a request that have to be there."""
    for name in names:
        if body.get(name) is None:
            raise RefusalError(f"{clean_text(name)}: Field required", code="missing_required_parameter", param=name)
    return [body[name] for name in names]
