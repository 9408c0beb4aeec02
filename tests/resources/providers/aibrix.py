"""AIBrix's batch server, which none of us wrote, as a process of the test, with a model behind it."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

import pytest

from ..json_server import json_server

ENVIRONMENT = Path(__file__).parents[3] / "build" / "services" / "aibrix"

# Its dry run echoes each request. This puts a model behind it instead, which it asks as it asks vLLM.
_WITH_A_MODEL = """
import sys
from aibrix.batch.client import StaticEndpointSource
from aibrix.metadata import app

address = sys.argv.pop(1)
app.NoopEndpointSource = lambda: StaticEndpointSource(address)
app.main()
"""
_START_SECONDS = 60.0


@dataclass
class Model:
    """Answers ``re: …``; refuses a prompt that starts with ``bad``, and one that starts with ``hold`` until let go."""

    let_go: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list[str])

    def reply(self, prompt: str) -> tuple[int, dict[str, object]]:
        self.asked.append(prompt)
        if prompt.startswith("hold"):
            self.let_go.wait(20.0)
        if prompt.startswith("bad"):
            return 400, {"error": {"message": f"no answer to {prompt!r}"}}
        message = {"role": "assistant", "content": f"re: {prompt}"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


def installed() -> None:
    """Skip a test, or fail it where it has to run, if AIBrix is not here."""
    if list(ENVIRONMENT.glob(".ready-*")):
        return
    missing = "aibrix is not installed: run `make services`"
    if os.environ.get("BATCH_LLM_REQUIRE_SERVICES"):
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def running_model() -> Generator[tuple[Model, str]]:
    """A model and its address."""
    model = Model()
    with json_server(lambda path, body, headers: model.reply(body["messages"][-1]["content"])) as address:
        yield model, address
        model.let_go.set()


@contextmanager
def running_aibrix(folder: Path, *, model: str | None = None) -> Generator[str]:
    """The server's address. Without a model it is the command as it comes, which echoes what it is asked."""
    binaries = ENVIRONMENT / "bin"
    start = [binaries / "python", "-c", _WITH_A_MODEL, model] if model else [binaries / "aibrix_metadata"]
    port = _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*start, "--dry-run", "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,  # its storage lies in the folder that it is started in
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(port, process, folder / "log")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(int(_START_SECONDS / 0.1)):
        if process.poll() is not None:
            break
        connection = HTTPConnection("127.0.0.1", port, timeout=5.0)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            threading.Event().wait(0.1)
        finally:
            connection.close()
    pytest.fail(f"aibrix did not start\n{log.read_text()[-3000:]}")
