from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.local.answer import CHAT, EMBEDDINGS, EngineAwayError
from dagster_batch_llm.resources.local.upstream import Upstream

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def make_upstream() -> Iterator[Callable[..., Upstream]]:
    made: list[Upstream] = []

    def make(handler: Handler, base_url: str = "http://127.0.0.1:11434/v1", key: str | None = None) -> Upstream:
        made.append(Upstream(base_url, key, httpx.MockTransport(handler)))
        return made[-1]

    yield make
    for upstream in made:
        upstream.close()


def echo(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"url": str(request.url), "asked": json.loads(request.content)})


@pytest.mark.parametrize(
    ("base_url", "expected"),
    [
        ("http://127.0.0.1:11434/v1", "http://127.0.0.1:11434/v1/embeddings"),
        ("http://127.0.0.1:11434/v1/", "http://127.0.0.1:11434/v1/embeddings"),
        ("http://127.0.0.1:11434", "http://127.0.0.1:11434/v1/embeddings"),
        ("https://host/llm/v1", "https://host/llm/v1/embeddings"),
    ],
)
def test_v1_stands_in_the_address_once(make_upstream: Callable[..., Upstream], base_url: str, expected: str) -> None:
    (answer,) = make_upstream(echo, base_url).answer([{"input": "x"}], EMBEDDINGS)
    assert answer.body == {"url": expected, "asked": {"input": "x"}}


@pytest.mark.parametrize("address", ["", "127.0.0.1:11434", "file:///etc/passwd", "http://", "http://me:pw@host/v1"])
def test_an_address_that_can_not_be_one_is_refused(address: str) -> None:
    with pytest.raises(StorageError, match="has to look like"):
        Upstream(address)


def test_answers_are_in_the_order_of_the_rows_and_at_most_four_are_out(make_upstream: Callable[..., Upstream]) -> None:
    lock = threading.Lock()
    four_are_out = threading.Barrier(4)
    running, most = 0, 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        four_are_out.wait(timeout=10)
        with lock:
            running -= 1
        return echo(request)

    answers = make_upstream(handler).answer([{"n": n} for n in range(12)], CHAT)
    assert [answer.body["asked"] for answer in answers] == [{"n": n} for n in range(12)]
    assert most == 4


def test_the_key_goes_to_the_server_and_a_redirect_is_not_followed(make_upstream: Callable[..., Upstream]) -> None:
    seen: list[tuple[str, str | None]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.host, request.headers.get("authorization")))
        return httpx.Response(307, headers={"Location": "http://elsewhere/v1/chat/completions"})

    (answer,) = make_upstream(handler, key="k").answer([{}], CHAT)
    assert seen == [("127.0.0.1", "Bearer k")]
    assert answer.status == 502
    assert "redirect" in json.dumps(answer.body)


def fail_with(error: Exception) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return handler


def reply_with(status: int, **content: Any) -> Handler:
    return lambda _: httpx.Response(status, **content)


def test_a_server_that_is_not_there_gives_no_row_an_answer(make_upstream: Callable[..., Upstream]) -> None:
    with pytest.raises(EngineAwayError, match="can't be reached"):
        make_upstream(fail_with(httpx.ConnectError("refused"))).answer([{"n": 0}, {"n": 1}], CHAT)


@pytest.mark.parametrize(
    ("handler", "status", "word"),
    [
        (fail_with(httpx.ReadTimeout("too slow")), 502, "too slow"),
        (reply_with(200, text="<html>"), 502, "not a JSON object"),
        (reply_with(200, content=b"[" * 100_000), 502, "not a JSON object"),
        (reply_with(200, content=b" " * 17_000_000), 502, "larger"),
        (reply_with(429, json={"error": {"message": "slow down"}}), 429, "slow down"),
        (reply_with(404, json={"detail": "no such model"}), 404, "no such model"),
    ],
)
def test_a_failure_is_one_error_row_with_the_reason(
    make_upstream: Callable[..., Upstream], handler: Handler, status: int, word: str
) -> None:
    def sometimes(request: httpx.Request) -> httpx.Response:
        return echo(request) if json.loads(request.content)["n"] == 1 else handler(request)

    bad, good = make_upstream(sometimes).answer([{"n": 0}, {"n": 1}], CHAT)
    assert (bad.status, good.status) == (status, 200)
    error: Any = bad.body["error"]
    assert word in error["message"]
