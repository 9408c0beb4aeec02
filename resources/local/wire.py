"""JSON as it comes from outside, and errors in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeGuard, cast

UNSUPPORTED = "unsupported_by_local_engine"
"""Error code of a row that asks for something this server has no honest answer to."""


class Answer(NamedTuple):
    """What a request gets: an HTTP status and a JSON object."""

    status: int
    body: Mapping[str, object]

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class RefusalError(Exception):
    """A request, or a row of a batch, that is answered with an error.

    Attributes:
        status: HTTP status.
        code: Machine-readable reason.
        param: The request field it is about, if it is about one.
    """

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_request", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.param = param

    def answer(self) -> Answer:
        return Answer(self.status, error_body(self.message, status=self.status, code=self.code, param=self.param))


def error_body(message: str, *, status: int, code: str | None, param: str | None = None) -> Mapping[str, object]:
    """``{"error": {...}}`` as OpenAI writes it."""
    kind = "invalid_request_error" if 400 <= status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def is_object(value: object) -> TypeGuard[Mapping[str, object]]:
    """Whether a parsed JSON value is an object."""
    return isinstance(value, dict)


def is_array(value: object) -> TypeGuard[Sequence[object]]:
    """Whether a parsed JSON value is an array."""
    return isinstance(value, list)


def parse_object(text: bytes | str) -> Mapping[str, object]:
    """Parse strict JSON that has to be an object.

    Raises:
        ValueError: It is not JSON, not an object, nested too deeply, or has ``NaN`` or ``Infinity`` in it.
    """
    try:
        value = cast("object", json.loads(text, parse_constant=_refuse_constant))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not is_object(value):
        raise ValueError("not a JSON object")
    return value


def dump_line(value: Mapping[str, object]) -> bytes:
    """One line of JSONL, in ASCII: JSON strings may hold half a surrogate pair, which UTF-8 can't.

    Raises:
        ValueError: It is nested too deeply, or holds an infinite number (``1e999`` is read as one).
    """
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def clean_text(text: str) -> str:
    """The text with half surrogate pairs replaced: JSON can carry them, but they are no text and don't encode."""
    return text.encode("utf-8", "replace").decode()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
