"""Dagster as a user runs it: webserver, daemon and code location, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

from ...resources.clock import Clock
from ...resources.errors import StorageError
from .graphql import GraphQL
from .settings import STATE, environment

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0

# Telemetry and the newsletter's dialog are off; four runs at once are enough on a laptop.
_INSTANCE = """\
telemetry:
  enabled: false
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: 4
"""


def command(port: int) -> list[str]:
    """What a user types, with the module in place of workspace.yaml, which an installed package doesn't have."""
    module = "dagster_batch_llm.pipelines.definitions"
    return [sys.executable, "-m", "dagster", "dev", "-m", module, "-h", "127.0.0.1", "-p", str(port)]


def prepare() -> dict[str, str]:
    """Make the instance's folder; gives the environment."""
    env = environment()
    home = Path(env["DAGSTER_HOME"])
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.exists():
        config.write_text(_INSTANCE)
    return env


@contextlib.contextmanager
def running(clock: Clock) -> Generator[GraphQL]:
    """Dagster on a free port, up and with its sensor on; stopped in any case."""
    env = prepare()
    log = STATE / "dagster.log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with log.open("ab") as out:
        process = subprocess.Popen(command(port), env=env, stdout=out, stderr=out, start_new_session=True)  # noqa: S603
    graphql = GraphQL(f"http://127.0.0.1:{port}")
    try:
        until = clock.monotonic() + _START_SECONDS
        while not graphql.is_up():
            if process.poll() is not None or clock.monotonic() > until:
                raise StorageError(f"Dagster did not come up; its log is {log}.")
            clock.sleep(0.3)
        yield graphql
    finally:
        graphql.close()
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    # Runs that were still going share the session; they are continued from the ledger the next time.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
