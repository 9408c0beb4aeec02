"""The real process: started, found, killed, restarted, and talked to by OpenAI's own client."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.local import LocalServer, ensure_server, stop_server
from filelock import FileLock, Timeout
from openai.types import Batch

from ..json_server import json_server

pytestmark = pytest.mark.real

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"
# Nobody listens there; a server that forwards to it starts without loading weights.
NOWHERE = "http://127.0.0.1:9/v1"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "home"
    stop_server(tmp_path / "home")


@pytest.fixture
def connect() -> Iterator[Callable[[LocalServer], openai.OpenAI]]:
    clients: list[openai.OpenAI] = []

    def make(server: LocalServer) -> openai.OpenAI:
        clients.append(openai.OpenAI(base_url=server.base_url, api_key=server.token, max_retries=0))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def wait(seconds: float = 0.02) -> None:
    threading.Event().wait(seconds)


def submit(client: openai.OpenAI, endpoint: str, bodies: list[dict[str, Any]]) -> Batch:
    rows = [{"custom_id": f"row-{n}", "method": "POST", "url": endpoint, "body": body} for n, body in enumerate(bodies)]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    uploaded = client.files.create(file=("in.jsonl", content), purpose="batch")
    assert client.files.retrieve(uploaded.id) == uploaded
    return client.batches.create(
        input_file_id=uploaded.id,
        endpoint=endpoint,  # pyright: ignore[reportArgumentType]
        completion_window="24h",
        metadata={"run": "1"},
    )


def follow(client: openai.OpenAI, batch: Batch, until: Callable[[Batch], bool]) -> Batch:
    for _ in range(3000):
        batch = client.batches.retrieve(batch.id)
        if until(batch):
            return batch
        wait()
    pytest.fail(f"never got there: {batch}")


def is_final(batch: Batch) -> bool:
    return batch.status in ("completed", "failed", "expired", "cancelled")


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()] if file_id else []


def label_request(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {
        "model": "any",
        "messages": [
            {"role": "system", "content": "Sort it.\n- weather: rain, sun and wind\n- sport: games and athletes"},
            {"role": "user", "content": text},
        ],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "t", "schema": {"type": "object", "properties": {"topic": schema}}},
        },
    }


def test_openais_client_goes_the_whole_way(home: Path, connect: Callable[[LocalServer], openai.OpenAI]) -> None:
    client = connect(ensure_server(home))
    labels = {"type": "string", "enum": ["weather", "sport"]}
    texts = ["A storm is coming from the west.", "She won the marathon.", "How much?"]
    schemas: list[dict[str, Any]] = [labels, labels, {"type": "number"}]
    bodies = [label_request(text, schema) for text, schema in zip(texts, schemas, strict=True)]

    batch = follow(client, submit(client, CHAT, bodies), is_final)

    assert (batch.status, batch.metadata, batch.model) == ("completed", {"run": "1"}, "any")
    answers = [row["response"]["body"] for row in read(client, batch.output_file_id)]
    assert [json.loads(body["choices"][0]["message"]["content"])["topic"] for body in answers] == ["weather", "sport"]
    assert {body["model"] for body in answers} == {"all-MiniLM-L6-v2/nearest-label"}
    (refused,) = read(client, batch.error_file_id)
    assert refused["custom_id"] == "row-2"
    assert refused["response"]["body"]["error"]["code"] == "unsupported_by_local_engine"
    assert [found.id for found in client.batches.list(limit=1)] == [batch.id]
    assert len(list(client.files.list())) == 3
    assert batch.output_file_id is not None
    assert client.files.delete(batch.output_file_id).deleted
    vector = client.embeddings.create(model="any", input="hello", dimensions=16).data[0].embedding
    assert len(vector) == 16
    assert "all-MiniLM-L6-v2" in {model.id for model in client.models.list()}


def test_a_batch_survives_kill_9_with_every_row_once(
    home: Path, connect: Callable[[LocalServer], openai.OpenAI]
) -> None:
    server = ensure_server(home, chunk_rows=2)
    client = connect(server)
    bodies = [{"model": "any", "input": f"sentence number {n} of some length"} for n in range(200)]
    batch = submit(client, EMBEDDINGS, bodies)
    seen = follow(client, batch, lambda found: bool(found.request_counts and found.request_counts.completed > 5))
    assert seen.status == "in_progress"
    os.kill(server.pid, signal.SIGKILL)

    again = ensure_server(home, chunk_rows=2)
    assert again.pid != server.pid
    assert (again.base_url, again.token) == (server.base_url, server.token)
    batch = follow(connect(again), batch, is_final)
    assert batch.status == "completed"
    found = [row["custom_id"] for row in read(client, batch.output_file_id)]
    assert sorted(found) == sorted(f"row-{n}" for n in range(len(bodies)))


def test_cancelling_gives_every_row_an_answer_or_a_reason(
    home: Path, connect: Callable[[LocalServer], openai.OpenAI]
) -> None:
    client = connect(ensure_server(home, chunk_rows=2))
    bodies = [{"model": "any", "input": f"sentence number {n} of some length"} for n in range(400)]
    batch = submit(client, EMBEDDINGS, bodies)
    follow(client, batch, lambda found: bool(found.request_counts and found.request_counts.completed > 5))
    assert client.batches.cancel(batch.id).status == "cancelling"
    batch = follow(client, batch, is_final)
    assert batch.status == "cancelled"
    answered, left = read(client, batch.output_file_id), read(client, batch.error_file_id)
    assert answered
    assert {row["error"]["code"] for row in left} == {"batch_cancelled"}
    assert sorted(row["custom_id"] for row in answered + left) == sorted(f"row-{n}" for n in range(400))
    with pytest.raises(openai.ConflictError, match="Cannot cancel"):
        client.batches.cancel(batch.id)


def test_processes_that_start_it_at_once_share_one_server(home: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dagster_batch_llm.resources.local import ensure_server; "
        f"print(ensure_server(Path(sys.argv[1]), upstream={NOWHERE!r}).pid)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(home)]
    starters = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {starter.communicate(timeout=60)[0].strip() for starter in starters}
    assert [starter.returncode for starter in starters] == [0, 0, 0]
    assert pids == {str(ensure_server(home, upstream=NOWHERE).pid)}


def test_the_folder_is_private_and_the_wrong_token_is_refused(
    home: Path, connect: Callable[[LocalServer], openai.OpenAI]
) -> None:
    server = ensure_server(home, upstream=NOWHERE, upstream_key="very secret")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE((home / "token").stat().st_mode) == 0o600
    assert server.token not in repr(server)
    for secret in ("very secret", server.token):
        assert secret not in command_line(server.pid)
    with pytest.raises(openai.AuthenticationError, match="Incorrect API key"):
        connect(LocalServer(server.base_url, "wrong", server.pid)).batches.list()


def test_other_settings_restart_the_server_and_the_same_ones_do_not(home: Path) -> None:
    first = ensure_server(home, upstream=NOWHERE)
    assert ensure_server(home, upstream=NOWHERE) == first
    second = ensure_server(home, upstream=NOWHERE, upstream_key="k")
    assert second.pid != first.pid
    assert second.base_url == first.base_url
    assert ensure_server(home, upstream=NOWHERE, upstream_key="k") == second


@pytest.fixture
def hangs_up() -> Iterator[str]:
    """A server that takes every connection and says nothing, so that each row fails at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        listener.shutdown(socket.SHUT_RDWR)


def test_an_idle_server_stops_by_itself_but_not_while_a_batch_is_open(
    home: Path, connect: Callable[[LocalServer], openai.OpenAI], hangs_up: str
) -> None:
    server = ensure_server(home, upstream=hangs_up, idle_seconds=0.2, min_batch_seconds=0.6)
    submit(connect(server), CHAT, [{"model": "any"}])
    while is_alive(home):
        wait()
    again = ensure_server(home, upstream=hangs_up)
    assert again.pid != server.pid
    (batch,) = connect(again).batches.list()
    assert batch.status == "completed"


def test_a_server_that_can_not_start_says_why(home: Path) -> None:
    with pytest.raises(StorageError, match=r"ended at once[\s\S]*server\.log[\s\S]*has to look like"):
        ensure_server(home, upstream="nonsense")


def test_weights_that_are_none_are_refused_before_anything_starts(home: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"has to hold model\.safetensors"):
        ensure_server(home, weights=tmp_path)
    assert not (home / "server.json").exists()


def test_stopping_what_does_not_run_is_nothing(home: Path) -> None:
    stop_server(home)
    server = ensure_server(home, upstream=NOWHERE)
    stop_server(home)
    stop_server(home)
    assert not is_alive(home)
    assert ensure_server(home, upstream=NOWHERE).pid != server.pid


@pytest.fixture
def upstream() -> Iterator[str]:
    """Says the last word of the question, and fails at "fail"."""

    def say(path: str, body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        text = body["messages"][-1]["content"]
        if text == "fail":
            return 500, {"error": {"message": "failed"}}
        return 200, {"said": text, "path": path, "key": headers["authorization"]}

    with json_server(say) as address:
        yield f"{address}/v1"


def test_rows_go_to_the_users_own_server(
    home: Path, upstream: str, connect: Callable[[LocalServer], openai.OpenAI]
) -> None:
    client = connect(ensure_server(home, upstream=upstream, upstream_key="k"))
    bodies = [{"model": "m", "messages": [{"role": "user", "content": text}]} for text in ("one", "fail", "two")]
    batch = follow(client, submit(client, CHAT, bodies), is_final)
    assert batch.status == "completed"
    bodies_back = [row["response"]["body"] for row in read(client, batch.output_file_id)]
    assert bodies_back == [{"said": text, "path": CHAT, "key": "Bearer k"} for text in ("one", "two")]
    (failed,) = read(client, batch.error_file_id)
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("row-1", 500)


def is_alive(home: Path) -> bool:
    try:
        with FileLock(home / "process.lock", timeout=0):
            return False
    except Timeout:
        return True


def command_line(pid: int) -> str:
    return subprocess.run(
        ["ps", "-ww", "-o", "args=", "-p", str(pid)], check=True, capture_output=True, text=True
    ).stdout


def test_a_server_whose_folder_was_deleted_ends_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    server = ensure_server(folder, upstream="http://127.0.0.1:9/v1", idle_seconds=600.0)
    shutil.rmtree(folder)
    for _ in range(1000):
        if not Path(f"/proc/{server.pid}").exists() or "zombie" in Path(f"/proc/{server.pid}/status").read_text():
            return
        wait()
    os.kill(server.pid, signal.SIGKILL)
    raise AssertionError(f"server {server.pid} still runs though its folder is gone")
