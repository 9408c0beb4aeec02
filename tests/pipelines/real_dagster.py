"""Dagster as users run it: `dagster dev` with webserver, daemon and code server, in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import dagster as dg
from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster_batch_llm.pipelines.demo.graphql import GraphQL
from dagster_batch_llm.resources import DuckDBTables, Ledger
from dagster_batch_llm.resources.local import stop_server

LOCATION = Path(__file__).parent / "location.py"
IMPATIENT = Path(__file__).parent / "impatient"
_INSTANCE = """\
telemetry:
  enabled: false
run_coordinator:
  module: dagster
  class: QueuedRunCoordinator
  config:
    max_concurrent_runs: {slots}
    dequeue_interval_seconds: 1
"""


@dataclass
class RealDagster:
    """One running Dagster and what belongs to it."""

    home: Path
    graphql: GraphQL
    instance: DagsterInstance

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.home / "batch_llm")

    @property
    def tables(self) -> DuckDBTables:
        return DuckDBTables(path=str(self.home / "warehouse.duckdb"))

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 150.0) -> None:
        """Wait until a condition holds; a test that waits in vain shows Dagster's log."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise AssertionError(f"{what} did not happen in {seconds} s\n{self.log()[-6000:]}")
            Event().wait(0.3)

    def log(self) -> str:
        return (self.home / "dagster.log").read_text(errors="replace")

    def run(self, run_id: str) -> DagsterRun:
        run = self.instance.get_run_by_id(run_id)
        assert run is not None
        return run

    def wait_for_run(self, run_id: str, seconds: float = 150.0) -> DagsterRun:
        self.wait(f"the end of run {run_id}", lambda: self.run(run_id).is_finished, seconds)
        return self.run(run_id)

    def collect_runs(self, origin: str) -> list[DagsterRun]:
        """The sensor's runs for an origin, oldest first."""
        return list(reversed(self.instance.get_runs(RunsFilter(tags={"batch_llm/origin": origin}))))

    def materializations(self, asset: str) -> list[dg.EventLogEntry]:
        """Oldest first."""
        found = self.instance.fetch_materializations(dg.AssetKey(asset), limit=100).records
        return [record.event_log_entry for record in reversed(found)]

    def let_leases_run_out(self) -> None:
        """What three minutes do to the leases and holds of a dead process."""
        with contextlib.closing(sqlite3.connect(self.home / "batch_llm" / "ledger.sqlite3")) as ledger:
            ledger.execute("UPDATE attempt SET lease_until = 0")
            ledger.execute("UPDATE plan SET holder_until = 0")
            ledger.commit()

    def paid(self, server: str) -> int:
        """How many batches a local server has taken: each is a bill. Asking the server might start it anew."""
        store = self.home / server / "state.sqlite"
        if not store.exists():
            return 0
        with contextlib.closing(sqlite3.connect(store)) as found:
            return int(found.execute("SELECT count(*) FROM batches").fetchone()[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_in(home: Path, slots: int = 4, more: str = "") -> dict[str, str]:
    """Make Dagster's own home; gives what its processes have to know."""
    dagster_home = home / "dagster_home"
    dagster_home.mkdir(exist_ok=True)
    (dagster_home / "dagster.yaml").write_text(_INSTANCE.format(slots=slots) + more)
    return {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home),
        "BATCH_LLM_HOME": str(home / "batch_llm"),
        "TEST_LOCATION_HOME": str(home),
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(IMPATIENT),
    }


@contextlib.contextmanager
def real_dagster(
    home: Path,
    *,
    location: Path = LOCATION,
    slots: int = 4,
    more: str = "",
    environment: Mapping[str, str] | None = None,
) -> Generator[RealDagster]:
    """Start it, wait until the location is loaded and the sensor has ticked, stop it in any case."""
    env = {**environment_in(home, slots, more), **(environment or {})}
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-f", str(location), "-h", "127.0.0.1", "-p", str(port)]
    # Dagster's processes race for making their databases, so they are made here before they start.
    with DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance, (home / "dagster.log").open("ab") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=home)
        graphql = GraphQL(f"http://127.0.0.1:{port}")
        try:
            running = RealDagster(home, graphql, instance)
            running.wait("Dagster's start", graphql.is_up, 120.0)
            running.wait("the sensor's first tick", lambda: bool(instance.all_instigator_state()), 60.0)
            yield running
        finally:
            graphql.close()
            _stop(process)
            for server in ("fast", "slow"):
                stop_server(home / server)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20.0)
    # Whatever it had started and left behind shares its session.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
