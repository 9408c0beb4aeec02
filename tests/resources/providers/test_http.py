from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import stamina
from dagster_batch_llm.resources.errors import (
    AmbiguousError,
    BusyError,
    ProviderError,
    RefusedError,
    StorageError,
    UnreachableError,
    UserError,
)
from dagster_batch_llm.resources.providers.http import HttpClient, hurried

from ..fake_clock import FakeClock

pytestmark = pytest.mark.usefixtures("no_waiting")

Handler = Callable[[httpx.Request], httpx.Response]


class Script:
    """Replies in order, the last one again and again; keeps what was asked."""

    def __init__(self, *replies: httpx.Response | Exception | Handler) -> None:
        self._replies = list(replies)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, httpx.Response) else reply(request)


def client(script: Handler, **options: Any) -> HttpClient:
    options = {"base_url": "https://host.test/v1", "clock": FakeClock(), **options}
    return HttpClient(name="acme", api_key="sk-secret", transport=httpx.MockTransport(script), **options)


def no(status: int, body: object = None, **headers: str) -> Handler:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx.Response(status, json=body, headers=named)


def yes(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"ok": True})


def page(_: httpx.Request) -> httpx.Response:
    return httpx.Response(200, html="<html>\n<b>Sign in</b>" + "x" * 5000)


def nothing() -> None:
    """Still allowed."""


CALLS: dict[str, Callable[[HttpClient, Path], object]] = {
    "get": lambda http, _: http.get("/x"),
    "delete": lambda http, _: http.delete("/x"),
    "post": lambda http, _: http.post_once("/x", {}, nothing),
    "upload": lambda http, folder: http.upload("/x", {"purpose": "batch"}, folder / "up.jsonl", "up.jsonl"),
    "download": lambda http, folder: http.download("/x", folder / "down.jsonl"),
}
PATIENT = ["get", "delete", "upload", "download"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "up.jsonl").write_bytes(b"{}\n")
    return tmp_path


# ---- the key ----


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_key_goes_nowhere_else(folder: Path, call: str, status: int) -> None:
    script = Script(no(status, location="https://evil.test/steal"))
    with pytest.raises(RefusedError, match="Redirects are not followed"):
        CALLS[call](client(script), folder)
    assert [request.url.host for request in script.asked] == ["host.test"]


def test_the_key_is_in_no_message(folder: Path) -> None:
    for status in (400, 401, 429, 500):
        for call in CALLS.values():
            with pytest.raises(ProviderError) as caught:
                call(client(Script(no(status, {"error": {"message": "no"}}))), folder)
            assert "sk-secret" not in f"{caught.value!r}"


def test_a_wrong_key_is_called_so(folder: Path) -> None:
    script = Script(no(401, {"error": {"message": "Incorrect API key"}}))
    with pytest.raises(RefusedError, match=r"Incorrect API key.*key is wrong or has expired") as caught:
        client(script).get("/x")
    assert caught.value.status == 401
    assert len(script.asked) == 1


# ---- addresses ----


@pytest.mark.parametrize(
    "base_url", ["", "host.test/v1", "//host", "ftp://host", "http://", "https:///v1", "localhost:1"]
)
def test_an_address_without_a_scheme_is_refused(base_url: str) -> None:
    with pytest.raises(UserError, match="https://host/v1"):
        client(Script(yes), base_url=base_url)


@pytest.mark.parametrize(
    "base_url", ["http://[::1", "https://host:port/v1", "https://ho st/v1", "https://host:99999999"]
)
def test_an_address_that_can_not_be_one_is_refused(base_url: str) -> None:
    with pytest.raises(UserError, match="acme: base_url"):
        client(Script(yes), base_url=base_url)


@pytest.mark.parametrize("base_url", ["https://host.test/v1", "https://host.test/v1/", "https://host.test/v1//"])
def test_paths_are_joined_once(base_url: str) -> None:
    script = Script(yes)
    client(script, base_url=base_url).get("/batches", {"limit": 5})
    assert str(script.asked[0].url) == "https://host.test/v1/batches?limit=5"


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    http = HttpClient(name="acme", base_url=address, api_key="k", attempts=2)
    for call in (lambda: http.get("/x"), lambda: http.post_once("/x", {}, nothing)):
        with pytest.raises(UnreachableError, match=r"no connection to http://127.*Nothing was sent"):
            call()
    http.close()


# ---- patience ----


@pytest.mark.parametrize("call", PATIENT)
@pytest.mark.parametrize(
    "trouble",
    [no(429), no(500), no(502), no(503), no(408), httpx.ReadTimeout("slow"), httpx.ConnectError("down")],
    ids=lambda trouble: getattr(trouble, "__name__", type(trouble).__name__),
)
def test_what_is_safe_to_repeat_is_repeated(folder: Path, call: str, trouble: Handler | Exception) -> None:
    script = Script(trouble, trouble, yes)
    CALLS[call](client(script), folder)
    assert len(script.asked) == 3
    if call == "upload":
        assert all(b"{}\n" in request.content for request in script.asked)


@pytest.mark.parametrize("call", PATIENT)
def test_patience_has_an_end(folder: Path, call: str) -> None:
    script = Script(no(500))
    with pytest.raises(AmbiguousError, match="500"):
        CALLS[call](client(script, attempts=3), folder)
    assert len(script.asked) == 3


@pytest.mark.parametrize("call", PATIENT)
@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_final_no_is_not_repeated(folder: Path, call: str, status: int) -> None:
    script = Script(no(status))
    with pytest.raises(RefusedError):
        CALLS[call](client(script), folder)
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "reply",
    [
        no(429),
        no(500),
        no(503, retry_after="1"),
        no(408),
        no(409),
        no(425),
        httpx.ReadTimeout("slow"),
        httpx.WriteTimeout("slow"),
        httpx.WriteError("cut"),
        httpx.RemoteProtocolError("gone"),
        httpx.ConnectError("down"),
        page,
    ],
)
def test_a_post_is_never_repeated(reply: Handler | Exception) -> None:
    script = Script(reply)
    with pytest.raises(ProviderError):
        client(script).post_once("/x", {}, nothing)
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (no(429), BusyError),
        (no(400), RefusedError),
        (httpx.ConnectError("down"), UnreachableError),
        (httpx.ConnectTimeout("slow"), UnreachableError),
        (httpx.PoolTimeout("full"), UnreachableError),
        (no(500), AmbiguousError),
        (no(503), AmbiguousError),
        (no(409), AmbiguousError),
        (httpx.ReadTimeout("slow"), AmbiguousError),
        (httpx.WriteError("cut"), AmbiguousError),
        (httpx.ReadError("cut"), AmbiguousError),
        (httpx.RemoteProtocolError("gone"), AmbiguousError),
    ],
)
def test_only_what_is_known_to_be_a_no_is_one(reply: Handler | Exception, kind: type[ProviderError]) -> None:
    with pytest.raises(ProviderError) as caught:
        client(Script(reply)).post_once("/x", {}, nothing)
    assert type(caught.value) is kind


def test_a_post_that_is_not_allowed_any_more_does_not_leave() -> None:
    class Late(Exception):
        pass

    def too_late() -> None:
        raise Late

    script = Script(yes)
    with pytest.raises(Late):
        client(script).post_once("/x", {}, too_late)
    assert script.asked == []


# ---- waiting as long as one is told ----


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How long stamina would have slept; nobody does."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    stamina.set_testing(False)
    yield slept
    stamina.set_testing(True, attempts=5, cap=True)


@pytest.mark.parametrize("call", PATIENT)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "0.25"}, 0.25),
        ({"retry_after_ms": "1500", "retry_after": "9"}, 1.5),
        ({"retry_after": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
    ],
)
def test_the_server_says_how_long_to_wait(
    folder: Path, waits: list[float], call: str, headers: dict[str, str], seconds: float
) -> None:
    CALLS[call](client(Script(no(429, **headers), yes)), folder)
    assert waits == [seconds]


@pytest.mark.parametrize("value", ["nan", "inf", "-3", "soon", "Mon, 99", "", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_nonsense_is_waited_out_as_if_nothing_had_been_said(folder: Path, waits: list[float], value: str) -> None:
    CALLS["get"](client(Script(no(429, retry_after=value), yes)), folder)
    assert len(waits) == 1
    assert 0.0 <= waits[0] <= 20.0


def test_a_wait_that_is_too_long_for_a_worker_is_handed_on(folder: Path, waits: list[float]) -> None:
    script = Script(no(429, retry_after="7200"), yes)
    with pytest.raises(BusyError) as caught:
        CALLS["get"](client(script), folder)
    assert (caught.value.retry_after, waits, len(script.asked)) == (7200.0, [], 1)


# ---- words ----


@pytest.mark.parametrize("call", ["get", "delete", "post", "upload"])
def test_html_gives_one_clear_error(folder: Path, call: str) -> None:
    with pytest.raises(AmbiguousError, match=r"not JSON.*Sign in.*base_url") as caught:
        CALLS[call](client(page), folder)
    assert len(caught.value.message) < 600
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("body", [b"[" * 100_000, b"\xff\xfe", b"", b"{", b"\x00"])
@pytest.mark.parametrize("status", [200, 400])
def test_no_reply_is_too_strange(body: bytes, status: int) -> None:
    with pytest.raises(ProviderError):
        client(lambda _: httpx.Response(status, content=body)).get("/x")


@pytest.mark.parametrize(
    ("body", "words", "code"),
    [
        ({"error": {"message": "bad model", "code": "m"}}, "bad model", "m"),
        ({"error": {"message": "bad model", "code": None}}, "bad model", None),
        ({"error": {"message": "bad model", "code": 12}}, "bad model", "12"),
        ({"detail": {"error": {"message": "bad model"}}}, "bad model", None),
        ({"error": "bad model"}, "bad model", None),
        ({"detail": "bad model"}, "bad model", None),
        ({"message": "bad model"}, "bad model", None),
        (["bad model"], "bad model", None),
        ("bad model", "bad model", None),
        (None, "400", None),
    ],
)
def test_the_provider_is_quoted(body: object, words: str, code: str | None) -> None:
    with pytest.raises(RefusedError) as caught:
        client(no(400, body)).get("/x")
    assert words in caught.value.message
    assert "acme: GET /v1/x was answered 400" in caught.value.message
    assert caught.value.code == code


def test_quotes_are_short_and_without_control_characters() -> None:
    with pytest.raises(RefusedError) as caught:
        client(no(400, {"error": {"message": "a\x1b[31m\r\nb\x00\x9b" + "x" * 5000}})).get("/x")
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 500


# ---- files ----


def test_a_download_appears_when_it_is_whole(folder: Path) -> None:
    client(lambda _: httpx.Response(200, content=b"a\nb\n")).download("/x", folder / "new" / "file")
    assert (folder / "new" / "file").read_bytes() == b"a\nb\n"
    assert [path.name for path in (folder / "new").iterdir()] == ["file"]


def test_a_file_that_is_there_is_not_fetched_again(folder: Path) -> None:
    script = Script(yes)
    client(script).download("/x", folder / "up.jsonl")
    assert script.asked == []


def test_a_compressed_download_is_unpacked(folder: Path) -> None:
    reply = httpx.Response(200, content=gzip.compress(b"a\n"), headers={"Content-Encoding": "gzip"})
    client(lambda _: reply).download("/x", folder / "file")
    assert (folder / "file").read_bytes() == b"a\n"


def test_a_download_that_can_not_be_written_says_so(folder: Path) -> None:
    with pytest.raises(StorageError, match="can't be written"):
        client(yes).download("/x", folder / "up.jsonl" / "file")


def test_a_download_that_is_refused_leaves_nothing(folder: Path) -> None:
    with pytest.raises(RefusedError, match="gone"):
        client(no(404, {"error": {"message": "gone"}})).download("/x", folder / "file")
    assert not (folder / "file").exists()


def serve_raw(*replies: bytes) -> tuple[str, threading.Thread]:
    """A server that sends these bytes, one reply per connection, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10.0)

    def run() -> None:
        with listener, contextlib.suppress(TimeoutError):
            for reply in replies:
                connection, _ = listener.accept()
                with connection:
                    while b"\r\n\r\n" not in connection.recv(65536):
                        pass
                    connection.sendall(reply)

    thread = threading.Thread(target=run)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}/v1", thread


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n{}\n{}\n"
CUT = {
    "a body that is cut": b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\n{}\n",
    "a chunked body that is cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n",
    "no reply at all": b"",
}


@pytest.mark.parametrize("cut", CUT)
def test_half_a_file_is_never_taken_for_a_whole_one(tmp_path: Path, cut: str) -> None:
    address, thread = serve_raw(CUT[cut], CUT[cut], WHOLE)
    http = HttpClient(name="acme", base_url=address, api_key="k")
    http.download("/x", tmp_path / "file")
    http.close()
    assert (tmp_path / "file").read_bytes() == b"{}\n{}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    thread.join()


def test_a_proxy_is_not_asked_for_a_server_on_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    address, thread = serve_raw(WHOLE)
    http = HttpClient(name="acme", base_url=address, api_key="k", attempts=1)
    http.download("/x", tmp_path / "file")
    http.close()
    thread.join()


# ---- the provider's clock ----


@pytest.mark.parametrize("date", [None, "yesterday", "Mon, 99 Foo 2027 08:00:00 GMT", ""])
def test_a_date_that_is_none_says_nothing(date: str | None) -> None:
    reply = httpx.Response(200, json={}, headers={} if date is None else {"Date": date})
    assert client(lambda _: reply).get("/x").clock_offset is None


def test_the_providers_clock_is_known_as_an_interval() -> None:
    clock = FakeClock()

    def slow(_: httpx.Request) -> httpx.Response:
        clock.sleep(4.0)
        return httpx.Response(200, json={}, headers={"Date": "Fri, 15 Jan 2027 09:00:02 GMT"})

    low, high = client(slow, clock=clock).get("/x").clock_offset or (0.0, 0.0)
    assert (low, high) == (3598.0, 3603.0)


def test_a_slow_reply_says_too_little_about_the_clock() -> None:
    clock = FakeClock()

    def slow(_: httpx.Request) -> httpx.Response:
        clock.sleep(31.0)
        return httpx.Response(200, json={}, headers={"Date": "Fri, 15 Jan 2027 09:00:02 GMT"})

    assert client(slow, clock=clock).get("/x").clock_offset is None


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("not a word")], ids=repr)
@pytest.mark.parametrize("call", PATIENT)
def test_a_server_of_ours_that_is_gone_or_hangs_is_started_again_and_followed_to_its_new_address(
    folder: Path, call: str, error: httpx.TransportError
) -> None:
    script = Script(error, yes)
    CALLS[call](client(script, when_away=lambda: "https://host.test:81/v1"), folder)
    assert [request.url.port for request in script.asked] == [None, 81]


def test_a_create_that_reached_nobody_is_not_repeated_for_it(folder: Path) -> None:
    script = Script(httpx.ConnectError("refused"), yes)
    with pytest.raises(UnreachableError):
        CALLS["post"](client(script, when_away=lambda: "https://host.test:81/v1"), folder)
    assert len(script.asked) == 1


def test_who_is_in_a_hurry_asks_once_waits_little_and_neither_asks_nor_starts_anything_when_the_time_is_over() -> None:
    clock, script, started = FakeClock(), Script(no(503)), list[str]()
    http = client(script, clock=clock, when_away=lambda: started.append("a server"))
    with hurried(until=25.0):
        with pytest.raises(AmbiguousError):
            http.get("/batches")
        clock.sleep(19.0)
        with pytest.raises(AmbiguousError):
            http.post_once("/batches/x/cancel", None, lambda: None)
        clock.sleep(6.0)
        with pytest.raises(UnreachableError, match="no time left"):
            http.get("/batches")
    assert [request.extensions["timeout"]["read"] for request in script.asked] == [20.0, 6.0]
    assert started == []
    with pytest.raises(AmbiguousError):
        http.get("/batches")
    assert len(script.asked) == 2 + 5
