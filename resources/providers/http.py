"""The one module that speaks HTTP to providers."""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import httpx
import stamina

from ..clock import Clock, SystemClock
from ..errors import AmbiguousError, BusyError, ProviderError, RefusedError, UnreachableError, UserError
from .http_words import clock_offset, host_of, paired, pause_after, place_of, quoted, retry_after, words_of
from .kept import keep

_REFUSALS = {400, 401, 402, 403, 404, 405, 410, 413, 422}
_BUSY = {429, 529}
"""529 is Anthropic's overload, of which nothing is carried out."""
_BUSY_CODES = {"ServiceQuotaExceededException", "ThrottlingException"}
"""What AWS says with status 400 of a full queue."""
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_HURRIED_SECONDS = 20.0
_LONGEST_LINE = 64 * 1024 * 1024
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}

T = TypeVar("T")
Request = httpx.Request
"""For who signs them."""

_UNTIL: ContextVar[float] = ContextVar("_UNTIL", default=math.inf)


@contextmanager
def hurried(until: float) -> Generator[None]:
    """In here each request is made once, waits at most 20 seconds for a word, and none is begun after `until`.

    For who can come back later and must not be held up by a server that hangs. Inside of another one, the earlier
    moment counts.

    Args:
        until: By the monotonic clock.
    """
    token = _UNTIL.set(min(until, _UNTIL.get()))
    try:
        yield
    finally:
        _UNTIL.reset(token)


@dataclass(frozen=True)
class Reply:
    """A JSON reply and, if it had a Date header, how far the provider's clock is ahead of ours (low, high)."""

    body: Any
    clock_offset: tuple[float, float] | None


@dataclass(frozen=True)
class RawReply:
    """A reply as it came; the names of its headers are in small letters."""

    status: int
    headers: Mapping[str, str]
    text: str


class HttpClient:
    """Requests to one origin. The key goes nowhere else: redirects are not followed.

    Reads, uploads and deletes are repeated on 429, 5xx and broken connections, waiting as long as the server
    asks; `post_once` is never repeated. Before one is repeated that reached nobody or got no reply, `when_away` may
    bring the server back, and says at which address it is now.

    Where a key isn't enough, `auth` signs each request; it finds the body of one that isn't a file in the request's
    extensions, as ``content``.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        api_key: str,
        clock: Clock | None = None,
        transport: httpx.BaseTransport | None = None,
        attempts: int = 5,
        headers: Mapping[str, str] | None = None,
        when_away: Callable[[], str | None] | None = None,
        auth: Callable[[Request], Request] | None = None,
    ) -> None:
        host = host_of(base_url)
        if host is None:
            raise UserError(f"{name}: base_url {base_url!r} is not an address; write it as https://host/v1")
        self._name = name
        self._key = api_key
        self._origin = base_url.rstrip("/")
        self._clock = clock or SystemClock()
        self._attempts = attempts
        self._when_away = when_away
        self._auth = auth
        self.clock_offset: tuple[float, float] | None = None
        """How far the other clock is ahead, by the last reply; see `Reply`."""
        self._client = httpx.Client(
            base_url=self._origin,
            trust_env=host not in _LOOPBACK,  # HTTP_PROXY isn't meant for this machine
            headers={"User-Agent": "dagster-batch-llm", **(_bearer(api_key) if headers is None else headers)},
            timeout=_TIMEOUT,
            transport=transport,
            auth=auth,
            follow_redirects=False,
        )

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Reply:
        """GET JSON."""
        return self._patiently(lambda: self._json(self._request("GET", path, params=params)))

    def delete(self, path: str) -> Reply:
        """DELETE."""
        return self._patiently(lambda: self._json(self._request("DELETE", path)))

    def post_once(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        still_allowed: Callable[[], None],
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """POST JSON, or nothing, exactly once; whatever is not known to be a refusal is an `AmbiguousError`."""
        content = b"" if body is None else json.dumps(body).encode()
        whole = {"content": content}
        return self.stream_once(path, [content], len(content), still_allowed, headers, extensions=whole)

    def stream_once(
        self,
        path: str,
        parts: Iterable[bytes],
        length: int,
        still_allowed: Callable[[], None],
        headers: Mapping[str, str] | None = None,
        *,
        extensions: Mapping[str, Any] | None = None,
    ) -> Reply:
        """`post_once` for JSON of `length` bytes that comes in parts."""

        def guarded() -> Iterator[bytes]:
            # A server can't act on a body shorter than its Content-Length, so the last part is the last moment.
            for part in parts:
                still_allowed()
                yield part

        sent = {"Content-Type": "application/json", "Content-Length": str(length), **(headers or {})}
        options = {"content": guarded(), "headers": sent, "extensions": dict(extensions or {})}
        return self._json(self._request("POST", path, **options))

    def ask_once(
        self,
        path: str,
        body: Mapping[str, Any],
        still_allowed: Callable[[], None],
        *,
        seconds: float,
        accepted: Collection[int] = (),
    ) -> RawReply:
        """POST JSON exactly once, for an answer that comes at once; it is given as it came, and so are some errors.

        Args:
            path: Below the address.
            body: The request.
            still_allowed: See `post_once`.
            seconds: For how long a word is waited for.
            accepted: Statuses that are answers here.
        """
        content = json.dumps(body).encode()
        timeout = httpx.Timeout(seconds, connect=_TIMEOUT.connect)
        sent = {"Content-Type": "application/json"}

        def ask() -> RawReply:
            still_allowed()
            request = self._client.build_request(
                "POST", path, content=content, headers=sent, timeout=timeout, extensions={"content": content}
            )
            with self._mapped():
                response = self._client.send(request)
            is_busy = words_of(response)[0] in _BUSY_CODES  # which Amazon says with 400
            if not response.is_success and (is_busy or response.status_code not in accepted):
                raise self._error(response)
            return RawReply(response.status_code, dict(response.headers), self._without_key(response.text))

        return self._once(ask)

    def answered(self, method: str, path: str, *, accepted: Collection[int] = (), **options: Any) -> RawReply:
        """A request that is safe to repeat, whose reply is looked at as a whole; some errors may be `accepted`."""

        def ask() -> RawReply:
            response = self._sent(self._request(method, path, **options))
            if not response.is_success and response.status_code not in accepted:
                raise self._error(response)
            return RawReply(response.status_code, dict(response.headers), response.text)

        return self._patiently(ask)

    def put(self, url: str, file: Path, headers: Mapping[str, str], *, method: str = "PUT") -> RawReply:
        """Send a file to a path, or to an address that the server has named; the key doesn't go there."""

        def send() -> RawReply:
            length = {"Content-Length": str(file.stat().st_size)}
            with file.open("rb") as stream, self._mapped():
                sent = {**length, **headers}
                if url.startswith("/"):
                    response = self._client.send(self._request(method, url, headers=sent, content=stream))
                else:
                    response = self._client.send(self._keyless(method, url, sent, stream), auth=None)
            if not response.is_success:
                raise self._error(response)
            return RawReply(response.status_code, dict(response.headers), response.text)

        return self._patiently(send)

    def upload(self, path: str, fields: Mapping[str, str], file: Path, filename: str, *, part: str = "file") -> Reply:
        """POST a file as multipart form data, streamed from disk."""

        def send() -> Reply:
            with file.open("rb") as stream:
                files = {part: (filename, stream, "application/octet-stream")}
                return self._json(self._request("POST", path, data=dict(fields), files=files))

        return self._patiently(send)

    def download(self, path: str, into: Path) -> None:
        """GET a file to disk; it appears under its name only when it is whole and durable."""
        self._download(path, into, ours=True)

    def download_from(self, url: str, into: Path) -> None:
        """GET a file from an address that the server has named, as `download` does. The key doesn't go there."""
        self._download(url, into, ours=False)

    def _download(self, path: str, into: Path, *, ours: bool) -> None:
        if not into.exists():
            self._patiently(lambda: keep(into, self._chunks(path, ours=ours), self._clock.token()))

    def first_line(self, path: str, *, ours: bool = True) -> bytes:
        """GET a file up to the end of its first line; empty if it has none.

        The key doesn't go to an address that isn't `ours`.
        """
        return self._patiently(lambda: self._first_line(path, ours=ours))

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _chunks(self, path: str, *, ours: bool) -> Iterator[bytes]:
        with self._streamed(path, ours=ours) as response:
            if response.headers.get("x-incomplete", "").lower() == "true":  # Doubleword, while rows are missing
                raise AmbiguousError(
                    f"{self._name}: {response.request.url.path} isn't whole yet. It will be fetched again."
                )
            yield from response.iter_bytes()

    @contextmanager
    def _streamed(self, path: str, *, ours: bool) -> Generator[httpx.Response]:
        """A file on its way; to an address that isn't ours, no key is sent."""
        request = self._request("GET", path) if ours else self._keyless("GET", path, {})
        auth = self._auth if ours else None
        with self._mapped(), contextlib.closing(self._client.send(request, stream=True, auth=auth)) as response:
            if response.status_code != 200:
                response.read()
                raise self._error(response)
            yield response

    def _first_line(self, path: str, *, ours: bool) -> bytes:
        line = b""
        with self._streamed(path, ours=ours) as response:
            for chunk in response.iter_bytes():
                line = (line + chunk).lstrip(b"\r\n")  # a blank line is none
                if b"\n" in line or len(line) > _LONGEST_LINE:
                    break
        return line.split(b"\n", 1)[0]

    def _request(self, method: str, path: str, **options: Any) -> httpx.Request:
        return self._client.build_request(method, path, timeout=self._timeout(), **options)

    def _keyless(
        self, method: str, url: str, headers: Mapping[str, str], content: BinaryIO | None = None
    ) -> httpx.Request:
        """A request to an address that the server has named, without any of our headers."""
        extensions = {"timeout": self._timeout().as_dict()}
        return httpx.Request(method, url, headers=headers, content=content, extensions=extensions)

    def _timeout(self) -> httpx.Timeout:
        left = _UNTIL.get() - self._clock.monotonic()
        if left <= 0.0:
            words = f"{self._name}: there was no time left to ask {self._origin}. Nothing was sent."
            raise UnreachableError(words, in_haste=True)
        return _TIMEOUT if math.isinf(left) else httpx.Timeout(min(max(left, 1.0), _HURRIED_SECONDS))

    def _json(self, request: httpx.Request) -> Reply:
        response = self._sent(request)
        if not response.is_success:
            raise self._error(response)
        text = self._without_key(response.text)
        try:
            body = json.loads(text)
            body = paired(body) if "\\u" in text else body
        except (ValueError, RecursionError) as error:
            raise AmbiguousError(
                f"{self._name}: {request.method} {request.url.path} was answered with something that is not JSON "
                f"({quoted(text)}). Is base_url right, or a proxy in between?",
                status=response.status_code,
            ) from error
        return Reply(body, self.clock_offset)

    def _sent(self, request: httpx.Request) -> httpx.Response:
        """The reply, whatever it says; it also tells the provider's time."""
        sent = self._clock.now()
        with self._mapped():
            response = self._client.send(request)
        self.clock_offset = clock_offset(response.headers.get("date"), sent, self._clock.now())
        return response

    @contextmanager
    def _mapped(self) -> Generator[None]:
        try:
            yield
        except (
            httpx.ConnectError,
            httpx.ConnectTimeout,
            httpx.PoolTimeout,
            httpx.UnsupportedProtocol,
        ) as error:
            raise UnreachableError(
                f"{self._name}: no connection to {place_of(error, self._origin)} ({error}). Nothing was sent. "
                "Check base_url and the network."
            ) from error
        except (httpx.HTTPError, zlib.error) as error:
            place = place_of(error, self._origin)
            raise AmbiguousError(
                f"{self._name}: the connection to {place} broke ({type(error).__name__}: {error}).",
                in_haste=_in_haste(error),
            ) from error

    def _error(self, response: httpx.Response) -> ProviderError:
        status, code, words = response.status_code, *words_of(response)
        words = self._without_key(words)
        what = f"{self._name}: {response.request.method} {response.request.url.path} was answered {status}: {words}"
        wait = retry_after(response, self._clock.now())
        if status == 401:
            has = self._key or self._auth
            wrong = "The API key is wrong or has expired" if has else "It wants an API key: set api_key"
            return RefusedError(f"{what}. {wrong}.", status=status, code=code)
        if status == 402:
            return RefusedError(f"{what}. The account's credit is used up; add some and run again.", status=status)
        if response.is_redirect:
            return RefusedError(f"{what}. Redirects are not followed; set base_url to the target.", status=status)
        if code in _BUSY_CODES or (status in _BUSY and code != "insufficient_quota"):
            return BusyError(what, status=status, code=code, retry_after=wait)
        if status in _REFUSALS or code == "insufficient_quota":
            return RefusedError(what, status=status, code=code)
        return AmbiguousError(what, status=status, code=code, retry_after=wait)

    def _without_key(self, text: str) -> str:
        """What a server said, for messages and the ledger: some repeat the key that they were given."""
        return text.replace(self._key, "***") if self._key else text

    def _patiently(self, call: Callable[[], T]) -> T:
        self._timeout()  # without time, nothing is begun: no server is brought back either
        attempts = self._attempts if math.isinf(_UNTIL.get()) else 1
        for attempt in stamina.retry_context(on=pause_after, attempts=attempts, timeout=None, wait_max=20.0):
            with attempt:
                return self._once(call)
        raise AssertionError("stamina returns or raises")

    def _once(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (UnreachableError, AmbiguousError) as error:
            # Who is in a hurry has no time to find out whether a server that says nothing hangs.
            hangs = error.status is None and math.isinf(_UNTIL.get())
            is_away = isinstance(error, UnreachableError) or hangs
            address = self._when_away() if self._when_away is not None and is_away else None
            if address is not None:
                self._origin = address.rstrip("/")
                self._client.base_url = self._origin
            raise


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _in_haste(error: Exception) -> bool:
    return isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout) and not math.isinf(_UNTIL.get())
