"""Forwarding rows to an OpenAI-compatible server of the user's own, such as Ollama, llama.cpp or vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx

from ..errors import StorageError
from .answer import CHAT, EMBEDDINGS, EngineAwayError
from .wire import Answer, dump_line, error_body, parse_object

_CONCURRENCY = 4
_MAX_REPLY_BYTES = 16_000_000
_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
_ENDPOINTS = frozenset({CHAT, EMBEDDINGS, "/v1/completions", "/v1/responses"})


class Upstream:
    """Answers each row by asking another server.

    Args:
        base_url: The server's address, with or without ``/v1`` at its end.
        key: Its bearer token, if it wants one; sent to this server only.
        transport: Where requests go instead of the network, for tests.
    """

    def __init__(self, base_url: str, key: str | None = None, transport: httpx.BaseTransport | None = None) -> None:
        self._base = check_address(base_url)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=_TIMEOUT,
            limits=httpx.Limits(max_connections=_CONCURRENCY),
            # Neither a redirect nor a proxy nor a .netrc file may take the key or the rows elsewhere.
            follow_redirects=False,
            trust_env=False,
            transport=transport,
        )
        self._pool = ThreadPoolExecutor(_CONCURRENCY, thread_name_prefix="upstream")

    @property
    def endpoints(self) -> frozenset[str]:
        return _ENDPOINTS

    @property
    def models(self) -> tuple[str, ...]:
        """Unknown: each request names a model of the server behind."""
        return ()

    def answer(self, bodies: Sequence[Mapping[str, object]], endpoint: str) -> list[Answer]:
        """Forward each body, four at a time; what fails is one error answer."""
        url = self._base + endpoint
        return list(self._pool.map(self._forward, [url] * len(bodies), bodies))

    def close(self) -> None:
        self._pool.shutdown()
        self._client.close()

    def _forward(self, url: str, body: Mapping[str, object]) -> Answer:
        content = dump_line(body)
        try:
            with self._client.stream(
                "POST", url, content=content, headers={"Content-Type": "application/json"}
            ) as response:
                return _answer(response.status_code, _read(response))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            # Not a word was said to it, so this is no answer: the batch waits until it is there.
            raise EngineAwayError(f"the upstream server can't be reached: {error}") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return _failure(f"The upstream server could not be asked: {type(error).__name__}: {error}")


def check_address(base_url: str) -> str:
    """The part of an address before ``/v1``.

    Raises:
        StorageError: It is not an ``http`` or ``https`` address.
    """
    address = base_url.rstrip("/").removesuffix("/v1")
    parts = urlsplit(address)
    # A password in an address ends up in logs and process lists; the key has its own argument.
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise StorageError("The upstream address has to look like http://127.0.0.1:11434/v1, without a password.")
    return address


def _read(response: httpx.Response) -> bytes | None:
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if len(content) > _MAX_REPLY_BYTES:
            return None
    return bytes(content)


def _answer(status: int, content: bytes | None) -> Answer:
    if content is None:
        return _failure(f"The upstream server's reply is larger than {_MAX_REPLY_BYTES} bytes.")
    if 300 <= status < 400:
        return _failure("The upstream server redirects, which is not followed; give its final address.")
    try:
        body = parse_object(content)
    except ValueError:
        text = content[:200].decode("utf-8", "replace")
        return _failure(f"The upstream server's reply (status {status}) is not a JSON object: {text}")
    if status >= 400 and "error" not in body:
        return Answer(status, error_body(str(body)[:500], status=status, code="upstream_error"))
    return Answer(status, body)


def _failure(message: str) -> Answer:
    return Answer(502, error_body(message, status=502, code="upstream_error"))
