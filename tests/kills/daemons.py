"""Dagster's own daemon: killed at moments of a backfill and started again; then two of them on one instance.

`dagster dev` ends everything when its daemon is gone; so here, as in production, the webserver is a process apart.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterInstance, RunsFilter
from dagster_batch_llm.pipelines.demo.graphql import GraphQL
from dagster_batch_llm.resources.ledger import AttemptState, PlanState
from dagster_batch_llm.resources.local import stop_server

from ..pipelines.real_dagster import LOCATION, RealDagster, environment_in, free_port

_BATCH_SECONDS = "4"
_ROWS = 2
"""Of each partition."""
_Daemon = subprocess.Popen[bytes]
_Start = Callable[..., _Daemon]


def _has_run(dagster: RealDagster, backfill: str) -> bool:
    return bool(dagster.instance.get_runs(RunsFilter(tags={"dagster/backfill": backfill})))


def _has_plan(dagster: RealDagster, backfill: str) -> bool:
    return any(plan.backfill == backfill for plan in dagster.ledger.plans.find())


def _states(dagster: RealDagster, backfill: str) -> set[AttemptState]:
    ledger = dagster.ledger
    plans = [plan for plan in ledger.plans.find() if plan.backfill == backfill]
    return {attempt.state for plan in plans for attempt in ledger.attempts.all_of_plan(plan.id)}


_MOMENTS: dict[str, Callable[[RealDagster, str], bool]] = {
    "it is asked for": lambda _, __: True,
    "its first run is queued": _has_run,
    "it has a plan": _has_plan,
    "its batch is out": lambda dagster, name: bool(_states(dagster, name) - {AttemptState.PLANNED}),
    "its batch is answered": lambda dagster, name: AttemptState.ANSWERED in _states(dagster, name),
}
"""Each holds from some moment on."""


@dataclass
class Daemons:
    """What is done to them, and what must hold after it."""

    dagster: RealDagster
    start: _Start
    daemon: _Daemon
    asked: list[str] = field(default_factory=list[str])
    violations: int = 0

    def kill(self, partitions: Sequence[str], moments: Sequence[str]) -> None:
        """A backfill whose daemon is killed at some moments."""
        name = self._backfill(partitions)
        for moment in moments:
            self.dagster.wait(moment, lambda moment=moment: _MOMENTS[moment](self.dagster, name))
            _kill(self.daemon)
            self.daemon = self.start("dagster._daemon", "run")
        self._check(name, f"the daemon of {partitions} is killed when {', when '.join(moments)}")

    def two(self, partitions: Sequence[str]) -> None:
        """A backfill with two daemons, one of which is killed when the batch is out and doesn't come again."""
        second = self.start("dagster._daemon", "run")
        name = self._backfill(partitions)
        moment = "its batch is out"
        self.dagster.wait(moment, lambda: _MOMENTS[moment](self.dagster, name))
        lived = self.daemon.poll() is None and second.poll() is None
        _kill(self.daemon)
        self.daemon = second
        self._check(name, f"two daemons of {partitions}, {'both alive' if lived else 'one ended by itself'}, then one")

    def _backfill(self, partitions: Sequence[str]) -> str:
        self.asked += partitions
        return self.dagster.graphql.backfill("by_group", partitions)

    def _check(self, backfill: str, what: str) -> None:
        began, dagster = time.monotonic(), self.dagster

        def has_ended() -> bool:
            return dagster.graphql.backfill_status(backfill).startswith(("COMPLETED", "FAILED", "CANCELED"))

        dagster.wait("the backfill's end", has_ended)
        answered = [a for a in dagster.ledger.attempts.find() if a.state is AttemptState.ANSWERED]
        rows = dagster.tables.query("SELECT partition_key, count(*) AS n FROM by_group GROUP BY ALL").to_pylist()
        checks = {
            "it has succeeded": dagster.graphql.backfill_status(backfill) == "COMPLETED_SUCCESS",
            "each row was paid once": sum(attempt.rows for attempt in answered) == _ROWS * len(self.asked),
            "each batch is known": dagster.paid("fast") == len(answered),
            "all plans are done": all(plan.state is PlanState.DONE for plan in dagster.ledger.plans.find()),
            "all rows are there": {row["partition_key"]: row["n"] for row in rows} == dict.fromkeys(self.asked, _ROWS),
            "there is no incident": not dagster.ledger.attempts.incidents(),
        }
        broken = [check for check, holds in checks.items() if not holds]
        self.violations += bool(broken)
        print(
            f"{what}: {f'NOT TRUE: {broken}' if broken else 'ok'}, {time.monotonic() - began:.0f} s later", flush=True
        )
        if broken:
            print(dagster.log()[-6000:], flush=True)


def kill_daemons(home: Path) -> int:
    """Do all of it; gives how many backfills went wrong. About three minutes."""
    with _apart(home) as (dagster, start):
        daemons = Daemons(dagster, start, start("dagster._daemon", "run"))
        dagster.wait_for_run(dagster.graphql.materialize(["reviews"]))
        for partition, moment in zip("abcde", _MOMENTS, strict=True):
            daemons.kill([partition], [moment])
        daemons.kill(["f", "g"], list(_MOMENTS))
        daemons.two(["h", "i"])
        return daemons.violations


def _kill(daemon: _Daemon) -> None:
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()


@contextlib.contextmanager
def _apart(home: Path) -> Generator[tuple[RealDagster, _Start]]:
    """A webserver, and how to start something beside it; all is ended."""
    env = environment_in(home) | {"TEST_FAST_SECONDS": _BATCH_SECONDS}
    port, processes = free_port(), list[_Daemon]()
    with DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance, (home / "dagster.log").open("ab") as log:

        def start(*words: str) -> _Daemon:
            command = [sys.executable, "-m", *words, "-f", str(LOCATION)]
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True, cwd=home)
            processes.append(process)
            return process

        graphql = GraphQL(f"http://127.0.0.1:{port}")
        try:
            start("dagster_webserver", "-h", "127.0.0.1", "-p", str(port))
            dagster = RealDagster(home, graphql, instance)
            dagster.wait("the webserver's start", graphql.is_up, 120.0)
            yield dagster, start
        finally:
            graphql.close()
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for server in ("fast", "slow"):
                stop_server(home / server)
