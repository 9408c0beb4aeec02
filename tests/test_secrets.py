"""An API key goes to its own server and nowhere else: a canary is looked for in everything that a run has written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.resources import DuckDBTables, OpenAICompatibleBatch
from dagster_batch_llm.resources.local import ensure_server, stop_server

CANARY = "sk-canary-4f1d9c27"
Reply = Callable[[str], tuple[int, dict[str, str], str]]
"""Status, headers and body, given the key that was sent."""


@contextmanager
def server(reply: Reply) -> Generator[tuple[str, list[str | None]]]:
    """Its address, and the Authorization header of each request that reached it."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            sent = self.headers.get("Authorization")
            seen.append(sent)
            status, headers, body = reply((sent or "").removeprefix("Bearer "))
            content = body.encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it overrides
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/v1", seen
        running.shutdown()
        thread.join()


@dg.asset(io_manager_key="tables")
def reviews() -> pd.DataFrame:
    return pd.DataFrame({"id": [1, 2], "text": ["What a wonderful place", "Never again"]})


TOPICS = classify_asset(
    name="topics", source=reviews, row_key="id", prompt="{text}", labels=["praise", "complaint"], llm="llm", model="m"
)


def materialized(folder: Path, base_url: str) -> bool:
    """Run it as a user does, with a lasting instance; gives whether it succeeded."""
    resources = {
        "llm": OpenAICompatibleBatch(base_url=base_url, api_key=dg.EnvVar("CANARY_KEY")),
        "tables": DuckDBTables(path=str(folder / "warehouse.duckdb")),
    }
    (folder / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance:
        result = dg.materialize([reviews, TOPICS], resources=resources, instance=instance, raise_on_error=False)
        assert instance.get_run_stats(result.run_id).steps_succeeded >= 1
    return result.success


def leaks(folder: Path, secret: str) -> list[str]:
    """The files in which it stands."""
    found = [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert len(list(folder.rglob("*"))) > 10, "nothing was written, so nothing is shown"
    return [str(path.relative_to(folder)) for path in found]


def echo(status: int, *, html: bool = False, **headers: str) -> Reply:
    """A server that repeats the key it was given, as some do."""
    if html:
        return lambda key: (status, headers, f"<html>hello {key}</html>")
    return lambda key: (status, headers, f'{{"error": {{"message": "Incorrect key: {key}", "code": "bad_key"}}}}')


@pytest.fixture(autouse=True)
def canary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_KEY", CANARY)
    # What a server says is repeated without waiting.
    monkeypatch.setattr("dagster_batch_llm.resources.providers.http.pause_after", never)


def never(error: Exception) -> bool:
    return False


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(echo(401), id="a wrong key is repeated"),
        pytest.param(echo(400), id="a refusal"),
        pytest.param(echo(500), id="a failure"),
        pytest.param(echo(502, html=True), id="a gateway's page"),
        pytest.param(echo(200, html=True), id="a portal's page"),
        pytest.param(echo(200), id="JSON without an id"),
    ],
)
def test_a_key_that_a_server_repeats_is_written_nowhere(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], reply: Reply
) -> None:
    with server(reply) as (base_url, seen):
        assert not materialized(tmp_path, base_url)
    assert seen
    assert set(seen) == {f"Bearer {CANARY}"}
    assert leaks(tmp_path, CANARY) == []
    said = capfd.readouterr()
    assert "topics" in said.err
    assert CANARY not in said.out + said.err


def test_a_redirect_does_not_take_the_key_elsewhere(tmp_path: Path) -> None:
    with server(echo(200)) as (elsewhere, met), server(echo(307, Location=elsewhere)) as (base_url, seen):
        assert not materialized(tmp_path, base_url)
    assert seen
    assert met == []
    assert leaks(tmp_path, CANARY) == []


def test_a_run_that_succeeds_writes_its_key_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, elsewhere = tmp_path / "user", tmp_path / "server"
    folder.mkdir()
    monkeypatch.setenv("BATCH_LLM_HOME", str(folder / "batch_llm"))
    running = ensure_server(elsewhere)
    try:
        monkeypatch.setenv("CANARY_KEY", running.token)
        assert materialized(folder, running.base_url)
    finally:
        stop_server(elsewhere)
    assert leaks(folder, running.token) == []
    said = capfd.readouterr()
    assert running.token not in said.out + said.err
