"""Requests and replies as far as the client and the simulated network look at them, without httpx's parsing."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

_BOUNDARY = "quick"


@dataclass
class Address:
    """A request's path and query."""

    path: str
    params: Mapping[str, str]


@dataclass
class Request:
    """What is sent."""

    method: str
    url: Address
    headers: Mapping[str, str]
    content: bytes | Iterable[bytes] = b""

    def read(self) -> bytes:
        if not isinstance(self.content, bytes):
            self.content = b"".join(self.content)
        return self.content


@dataclass
class Response:
    """What comes back."""

    status_code: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    request: Request | None = None

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code <= 299

    @property
    def is_redirect(self) -> bool:
        return False

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)

    def read(self) -> bytes:
        return self.content

    def iter_bytes(self) -> Iterator[bytes]:
        yield self.content

    def close(self) -> None:
        """All of it is here."""


def build_request(
    client: httpx.Client,
    method: str,
    path: str,
    *,
    params: Mapping[str, str | int] | None = None,
    content: bytes | Iterable[bytes] = b"",
    data: Mapping[str, str] | None = None,
    files: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: object = None,
    extensions: object = None,
) -> Request:
    """Stands in for `httpx.Client.build_request`."""
    address = Address(f"/v1{path}", {name: str(value) for name, value in (params or {}).items()})
    sent = {name.lower(): value for name, value in (headers or {}).items()}
    for _, stream, _ in (files or {}).values():
        begin = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
        content = begin.encode() + stream.read() + f"\r\n--{_BOUNDARY}--\r\n".encode()
        sent["content-type"] = f"multipart/form-data; boundary={_BOUNDARY}"
    return Request(method, address, sent, content)


@contextmanager
def stream(client: httpx.Client, method: str, path: str, *, timeout: object = None) -> Generator[Any]:
    """Stands in for `httpx.Client.stream`."""
    yield client.send(client.build_request(method, path), stream=True)


class _Try:
    """One of several; its error is swallowed if there is another one."""

    def __init__(self, on: Callable[[Exception], bool | float], *, last: bool) -> None:
        self._on = on
        self._last = last

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, Exception) and not self._last and bool(self._on(error))


def retry_context(*, on: Callable[[Exception], bool | float], attempts: int, **_: object) -> Iterator[_Try]:
    """Stands in for `stamina.retry_context`, which is told not to wait and to try five times at most."""
    most = min(attempts, 5)
    return (_Try(on, last=number == most) for number in range(1, most + 1))
