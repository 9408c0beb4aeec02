"""One server process per folder: found, started, stopped."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path

from filelock import Timeout

from ..clock import Clock, SystemClock
from ..errors import StorageError
from .emulator import Faults
from .home import Home, Running
from .weights import find_weights, require_extra
from .wire import parse_object

UPSTREAM_KEY_VARIABLE = "BATCH_LLM_LOCAL_UPSTREAM_KEY"

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05
_PROBE_SECONDS = 5.0
_LOG_LINES = 15
# Several threads per matrix product make the encoder slower and less steady than several batches at a time do.
_ONE_THREAD = dict.fromkeys(
    ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


class _Detached(subprocess.Popen[bytes]):
    """A child that is meant to outlive its parent, so none of the warnings about one that does."""

    def __del__(self) -> None:
        pass


# Kept, so that a server that ended is reaped by the process that started it.
_children: list[_Detached] = []


@dataclass(frozen=True)
class LocalServer:
    """A living server.

    Attributes:
        base_url: Where an OpenAI client has to look, ending in ``/v1``.
        token: What it has to give as its API key.
        pid: The server's process.
    """

    base_url: str
    token: str = field(repr=False)
    pid: int


@dataclass(frozen=True)
class _Settings:
    weights: Path | None
    upstream: str | None
    upstream_key: str | None = field(repr=False)
    idle_seconds: float
    min_batch_seconds: float
    chunk_rows: int
    faults: str | None

    def arguments(self) -> list[str]:
        return [
            *self._answering(),
            *(["--emulate"] if self.faults is not None else []),
            *("--idle-seconds", str(self.idle_seconds)),
            *("--min-batch-seconds", str(self.min_batch_seconds)),
            *("--chunk-rows", str(self.chunk_rows)),
        ]

    def _answering(self) -> list[str]:
        if self.upstream:
            return ["--upstream", self.upstream]
        if self.faults is not None and self.weights is None:
            return []  # the emulator's sample answers need no weights
        return ["--weights", str(find_weights(self.weights))]

    def fingerprint(self, token: str) -> str:
        """Equal for equal settings of equal code; keyed, because an API key is among them."""
        parts = [
            version("dagster-batch-llm"),
            str(self.weights),
            self.upstream,
            self.upstream_key,
            self.idle_seconds,
            self.min_batch_seconds,
            self.chunk_rows,
            self.faults,
        ]
        return hmac.new(token.encode(), json.dumps(parts).encode(), hashlib.sha256).hexdigest()


def ensure_server(
    home: Path,
    *,
    weights: Path | None = None,
    upstream: str | None = None,
    upstream_key: str | None = None,
    idle_seconds: float = 900.0,
    min_batch_seconds: float = 0.0,
    chunk_rows: int = 64,
) -> LocalServer:
    """Return the folder's server, started if there is none; safe to call from many processes at once.

    It emulates a provider with faults if the folder has a script of them; see `script_faults`.

    A living server with other settings is stopped and started again; its batches go on.

    Args:
        home: A folder of the server's own: its state, log and token.
        weights: Folder of all-MiniLM-L6-v2; found by `find_weights` when not given.
        upstream: Address of an OpenAI-compatible server that answers instead; needs no weights.
        upstream_key: That server's API key.
        idle_seconds: The server stops after so many seconds without an open batch or a request.
        min_batch_seconds: No batch is completed sooner after its creation.
        chunk_rows: Rows answered together.

    Raises:
        MissingExtraError: The packages of the extra ``local`` are not installed.
        StorageError: The folder or the weights can't be used, or the server did not start.
    """
    require_extra()
    place = Home.prepare(home)
    weights = weights.resolve() if weights else None
    with _alone(place):
        faults = place.faults.read_text() if place.faults.exists() else None
        settings = _Settings(weights, upstream, upstream_key, idle_seconds, min_batch_seconds, chunk_rows, faults)
        token = place.token()
        fingerprint = settings.fingerprint(token)
        server, found = _probe(place.running(), token)
        if server and found == fingerprint:
            return server
        _end(place)
        return _Start(place, token, fingerprint).start(settings)


def script_faults(home: Path, faults: Faults | None) -> None:
    """Have the folder's server emulate a provider with these faults from its next start on; None ends that.

    Raises:
        StorageError: The folder can't be used.
    """
    place = Home.prepare(home)
    with _alone(place):
        place.script(faults)


def emulates(home: Path) -> bool:
    """Whether the folder's server emulates a provider, so that its answers are not to be taken for real."""
    return Home(home).faults.exists()


def stop_server(home: Path) -> None:
    """Stop the folder's server, if there is one; open batches go on when it is started again.

    Raises:
        StorageError: It doesn't stop.
    """
    if home.is_dir():
        place = Home(home.resolve())
        with _alone(place):
            _end(place)


@contextlib.contextmanager
def _alone(home: Home) -> Generator[None, None, None]:
    lock = home.starting(_START_SECONDS + _STOP_SECONDS)
    try:
        lock.acquire()
    except Timeout as error:
        raise StorageError(
            f"Another process has been starting or stopping the local server in {home.folder} for too long; "
            f"read {home.log}."
        ) from error
    try:
        yield
    finally:
        lock.release()


class _Start:
    """One attempt to start a server."""

    def __init__(self, home: Home, token: str, fingerprint: str, clock: Clock | None = None) -> None:
        self._home = home
        self._token = token
        self._fingerprint = fingerprint
        self._clock = clock or SystemClock()

    def start(self, settings: _Settings) -> LocalServer:
        before = self._home.running()
        command = [
            # -P: the current folder may hold modules that only look like ours.
            *(sys.executable, "-P", "-m", "dagster_batch_llm.resources.local"),
            *("--home", str(self._home.folder), "--settings", self._fingerprint),
            # The same port again, so that clients of a killed server find the new one.
            *("--port", str(before.port if before else 0)),
            *settings.arguments(),
        ]
        log = self._home.open_log()
        try:
            offset = os.fstat(log).st_size
            process = _Detached(
                command,
                cwd=self._home.folder,
                env=_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        _children.append(process)
        return self._wait(process, offset)

    def _wait(self, process: _Detached, offset: int) -> LocalServer:
        deadline = self._clock.monotonic() + _START_SECONDS
        while self._clock.monotonic() < deadline:
            running = self._home.running()
            if running and running.pid == process.pid:
                server, found = _probe(running, self._token)
                if server and found == self._fingerprint:
                    return server
            if process.poll() is not None:
                raise self._failure(f"ended at once with code {process.returncode}", offset)
            self._clock.sleep(_POLL_SECONDS)
        process.terminate()
        raise self._failure(f"did not answer within {_START_SECONDS:.0f} seconds", offset)

    def _failure(self, what: str, offset: int) -> StorageError:
        with self._home.log.open("rb") as stream:
            stream.seek(offset)
            lines = stream.read().decode("utf-8", "replace").splitlines()[-_LOG_LINES:]
        said = "\n".join(["Its last lines:", *lines]) if lines else "It printed nothing."
        return StorageError(f"The local batch server {what}; read {self._home.log}. {said}")


def _environment(settings: _Settings) -> dict[str, str]:
    environment = {**os.environ, **_ONE_THREAD}
    environment.pop(UPSTREAM_KEY_VARIABLE, None)
    if settings.upstream_key:
        environment[UPSTREAM_KEY_VARIABLE] = settings.upstream_key
    return environment


def _probe(running: Running | None, token: str) -> tuple[LocalServer | None, str]:
    """The server that answers at the known port and knows the token, and the fingerprint of its settings."""
    if running is None:
        return None, ""
    health = _health(running.port, token)
    if health.get("pid") != running.pid:
        return None, ""
    server = LocalServer(f"http://127.0.0.1:{running.port}/v1", token, running.pid)
    return server, str(health.get("settings"))


def _health(port: int, token: str) -> Mapping[str, object]:
    connection = HTTPConnection("127.0.0.1", port, timeout=_PROBE_SECONDS)
    try:
        connection.request("GET", "/healthz", headers={"Authorization": f"Bearer {token}"})
        response = connection.getresponse()
        return parse_object(response.read(10_000)) if response.status == 200 else {}
    except (OSError, HTTPException, ValueError):
        return {}
    finally:
        connection.close()


def _end(home: Home) -> None:
    """End the server that holds the folder; its lock says whether one lives, whatever became of its id."""
    running = home.running()
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if _is_free(home, 0):
            break
        if running:
            # The lock is held, so the server lives and the id is its own.
            _kill(running.pid, number)
        if _is_free(home, _STOP_SECONDS / 2):
            break
    else:
        raise StorageError(f"The local server in {home.folder} does not stop; read {home.log}.")
    for child in _children:
        # The lock is free a moment before the process is gone.
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_SECONDS / 2 if running and running.pid == child.pid else 0)
    _children[:] = [child for child in _children if child.returncode is None]


def _is_free(home: Home, timeout: float) -> bool:
    try:
        with home.living(timeout):
            return True
    except Timeout:
        return False


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
