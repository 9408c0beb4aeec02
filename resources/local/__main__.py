"""The server process; started by `ensure_server`, which knows its arguments."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn
from filelock import Timeout

from ..clock import SystemClock
from ..errors import BatchLLMError
from .answer import Engine, LocalEngine
from .conduct import Conduct
from .emulator import Faults
from .emulator.conduct import EmulatedConduct
from .emulator.dialects import dialect_of
from .emulator.layer import AheadClock, FaultLayer, control_routes
from .emulator.memory import Memory
from .emulator.sample import SampleEngine
from .home import Home, Running
from .minilm import MiniLM
from .process import UPSTREAM_KEY_VARIABLE
from .server import Activity, Parts, make_app
from .store import Store
from .upstream import Upstream
from .weights import find_weights
from .worker import Worker

_JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Arguments:
    """The command line, typed."""

    home: Path
    settings: str
    port: int
    weights: Path | None
    upstream: str | None
    idle_seconds: float
    min_batch_seconds: float
    chunk_rows: int
    emulate: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until told to stop or idle; the exit code."""
    arguments = parse(argv)
    home = Home.prepare(arguments.home)
    try:
        with home.living(0):
            return _serve(home, arguments)
    except Timeout:
        reason = f"Another local server works in {home.folder}."
    except BatchLLMError as error:
        reason = error.message
    print(reason, file=sys.stderr)  # noqa: T201 - this is the log
    return 1


def parse(argv: Sequence[str] | None) -> Arguments:
    """Read the command line; secrets are not on it, because everyone can see it."""
    parser = argparse.ArgumentParser(prog="python -m dagster_batch_llm.resources.local", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the server's own folder")
    parser.add_argument("--settings", default="", help="fingerprint of the settings, given back by /healthz")
    parser.add_argument("--port", type=int, default=0, help="port to try first; 0 for any")
    parser.add_argument("--weights", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--upstream", help="address of an OpenAI-compatible server that answers instead")
    parser.add_argument("--idle-seconds", type=float, default=900.0, help="stop after so long without work")
    parser.add_argument("--min-batch-seconds", type=float, default=0.0, help="complete no batch sooner")
    parser.add_argument("--chunk-rows", type=int, default=64, help="rows answered together")
    parser.add_argument("--emulate", action="store_true", help="emulate a provider with the folder's faults.json")
    return Arguments(**vars(parser.parse_args(argv)))


def _serve(home: Home, arguments: Arguments) -> int:
    script = Faults.from_file(home.faults) if arguments.emulate else Faults()
    memory = Memory(home.folder, script) if arguments.emulate else None
    clock = AheadClock(SystemClock(), memory) if memory else SystemClock()
    conduct = EmulatedConduct(memory) if memory else Conduct()
    with _bind(arguments.port) as listener:
        home.announce(Running(os.getpid(), int(listener.getsockname()[1])))
        store = Store(home.folder, clock)
        engine = _engine(arguments)
        worker = Worker(
            store,
            engine,
            clock,
            chunk_rows=max(1, arguments.chunk_rows),
            min_batch_seconds=arguments.min_batch_seconds,
            conduct=conduct,
        )
        activity = Activity(clock)
        identity = {"pid": os.getpid(), "settings": arguments.settings}
        more = control_routes(memory, store) if memory else ()
        speaks = dialect_of(script.speaks)
        parts = Parts(store, engine, worker, activity, clock, home.token(), identity, conduct, more, speaks)
        place = parts.dialect.place if parts.dialect else None
        config = uvicorn.Config(
            FaultLayer(make_app(parts), memory, clock, parts.admits, place) if memory else make_app(parts),
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
            date_header=memory is None,
        )
        threads = _Threads(worker, store, activity, folder=home.folder, idle_seconds=arguments.idle_seconds)
        return _run(uvicorn.Server(config), listener, threads)


class _Threads:
    """The worker, and the watch that ends a server that is idle or whose folder is gone."""

    def __init__(self, worker: Worker, store: Store, activity: Activity, *, folder: Path, idle_seconds: float) -> None:
        self._worker = worker
        self._folder = folder
        self._store = store
        self._activity = activity
        self._idle_seconds = idle_seconds
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.crashed = False

    def start(self, server: uvicorn.Server) -> None:
        for name, target in (("worker", self._work), ("idle", self._watch)):
            thread = threading.Thread(target=target, args=(server,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> bool:
        """Whether all of them ended in time."""
        self._stop.set()
        self._worker.wake()
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, server: uvicorn.Server) -> None:
        try:
            self._worker.run(self._stop)
        finally:
            # A server whose worker died would take batches that nobody answers.
            self.crashed = not self._stop.is_set()
            server.should_exit = True

    def _watch(self, server: uvicorn.Server) -> None:
        while not self._stop.wait(max(0.05, min(1.0, self._idle_seconds / 4))):
            # Nobody can find a server whose folder was deleted, so it would only take up memory.
            idle = self._activity.idle_seconds() >= self._idle_seconds and not self._store.open_batches()
            if idle or not self._folder.exists():
                server.should_exit = True
                return


def _run(server: uvicorn.Server, listener: socket.socket, threads: _Threads) -> int:
    # uvicorn raises the signal again after its clean end; what follows here should still be done.
    signal.signal(signal.SIGTERM, _end_anyway)
    threads.start(server)
    server.run(sockets=[listener])
    if not threads.stop():
        # A row is out at an upstream server; it is asked again when the batch goes on.
        os._exit(0)
    return 1 if threads.crashed else 0


def _end_anyway(number: int, _: FrameType | None) -> None:
    """Nothing: the server has ended already."""


def _bind(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name != "nt":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.bind(("127.0.0.1", 0))
    return listener


def _engine(arguments: Arguments) -> Engine:
    key = os.environ.pop(UPSTREAM_KEY_VARIABLE, None)
    if arguments.upstream:
        return Upstream(arguments.upstream, key)
    if arguments.emulate and arguments.weights is None:
        return SampleEngine()
    return LocalEngine(MiniLM(find_weights(arguments.weights)))


if __name__ == "__main__":
    sys.exit(main())
