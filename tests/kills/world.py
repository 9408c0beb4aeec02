"""One small installation: its runs and ticks as processes, a clock that is moved, and what must hold at its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from dagster import DagsterInstance
from dagster._daemon.types import DaemonHeartbeat
from dagster_batch_llm.resources import Ledger
from dagster_batch_llm.resources.ledger import PlanState
from dagster_batch_llm.resources.ledger.states import OPEN_ATTEMPTS
from dagster_batch_llm.resources.testing import Emulator

from .location import ROWS, Location, expected
from .places import move_clock
from .points import Order, Strike, struck
from .processes import evaluate, forked, register_run, run

_FAILURES_BEFORE_INCIDENT = 5
"""So many collect runs in a row are a reason to tell somebody."""
A_LONG_TIME = 200.0
"""Longer than every lease, hold and grace period, and than the time in which a lost create may still arrive."""
_A_DAY = 90_000.0
_SECONDS = 240.0
"""A client that waits for a stopped server waits for a minute."""
_PAUSE = 0.3


def _sleep(seconds: float) -> None:
    Event().wait(seconds)


class StuckError(Exception):
    """The world didn't come to its end."""


@dataclass(frozen=True)
class Asked:
    """A run that a person or schedule wants."""

    run: str
    assets: set[str]
    tags: dict[str, str]
    role: str


@dataclass
class World:
    """One ledger and one warehouse; the instance and the provider are the campaign's.

    Args:
        folder: The campaign's.
        order: Who is struck, and where.
        instance: Dagster's.
        emulator: The provider.
        location: The code location.
        ticks: How many sensors are evaluated at once.
        always: Whether the sensor ticks also while runs are at work.
        noticed: Whether Dagster learns that a run's process is gone; after a power cut it doesn't.
        tables: What must be there at the end, the LLM table first.
        restart: Restarts the ledger's server.
        located: Whether runs belong to a code location; else, as in a notebook, no sensor looks after them.
    """

    folder: Path
    order: Order
    instance: DagsterInstance
    emulator: Emulator
    location: Location
    ticks: int = 1
    always: bool = False
    noticed: bool = True
    located: bool = True
    tables: tuple[str, ...] = ()
    restart: Callable[[], None] | None = None
    asked: list[Asked] = field(default_factory=list[Asked])
    living: dict[int, str] = field(default_factory=dict[int, str])
    stopped: dict[int, str] = field(default_factory=dict[int, str])

    def __post_init__(self) -> None:
        self.home = self.folder / str(self.order.world)
        (self.home / "batch_llm").mkdir(parents=True)
        now = self.folder / "now"
        now.unlink(missing_ok=True)
        now.symlink_to(self.home)
        os.environ["BATCH_LLM_HOME"] = str(self.home / "batch_llm")
        self.order.write(self.folder)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.home / "batch_llm")

    @property
    def log(self) -> Path:
        return self.home / "log"

    # ---- processes ---------------------------------------------------------------------------------------------

    def ask(self, assets: set[str], tags: dict[str, str] | None = None, *, role: str) -> str:
        """Materialize as a person or schedule does, and again if the run dies before it has a plan."""
        run_id = self.launch(assets, tags or {}, role)
        self.asked.append(Asked(run_id, assets, tags or {}, role))
        return run_id

    def launch(self, assets: set[str], tags: dict[str, str], role: str) -> str:
        """Start a run in a process of its own."""
        self._daemon_lives()
        run_id = register_run(self.instance, self.location, assets, tags, located=self.located)
        self.living[forked(lambda: run(self.folder, self.location, run_id, role), self.log)] = run_id
        return run_id

    def _daemon_lives(self) -> None:
        self.instance.add_daemon_heartbeat(DaemonHeartbeat(time.time(), "SENSOR", "daemon"))

    def _ask_again(self) -> bool:
        """Whether a run that had died too early to leave anything had to be started anew."""
        # A sensor goes on with what a run of a code location has left; else a person runs it again.
        plans = self.ledger.plans.find() if self.located else []
        planned = {plan.run for plan in plans if plan.state is not PlanState.FAILED}
        lost = [asked for asked in self.asked if asked.run not in planned and self._failed(asked.run)]
        self.asked = [asked for asked in self.asked if asked not in lost]
        for asked in lost:
            self.ask(asked.assets, asked.tags, role=asked.role)
        missing = set(self.tables) & {"report"} - self._known()
        if missing and not lost:
            # A run died between a table that is done and what stands below it: in Dagster it has failed.
            self.ask(missing, role="again")
        return bool(lost or missing)

    def _known(self) -> set[str]:
        found = self.location.tables.query("SELECT table_name FROM duckdb_tables()")
        return {str(name) for name in found["table_name"].to_pylist()}

    def _failed(self, run_id: str) -> bool:
        found = self.instance.get_run_by_id(run_id)
        return found is not None and not found.is_success and run_id not in self.living.values()

    def tick(self) -> None:
        """Evaluate the sensor, perhaps in two processes at once, and launch what it asks for."""
        self._daemon_lives()
        files = [self.home / f"requested-{number}" for number in range(self.ticks)]
        for file in files:
            file.unlink(missing_ok=True)
            pid = forked(lambda file=file: evaluate(self.folder, self.location, file), self.log)
            self.living[pid] = "tick"
        while "tick" in self.living.values():
            self.reap()
            _sleep(0.005)
        for file in files:
            for line in file.read_text().splitlines() if file.exists() else ():
                told = json.loads(line)
                self.launch(set(told["assets"]), told["tags"], "collect")

    def reap(self) -> None:
        """Take note of who has ended, died or stopped; time goes on beyond the leases of who died or stopped."""
        for pid in list(self.living):
            found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if found == 0:
                continue
            if self.restart is not None and os.WIFSTOPPED(status):
                self.restart()
                os.kill(pid, signal.SIGCONT)
                continue
            what = self.living.pop(pid)
            if os.WIFSTOPPED(status):
                self.stopped[pid] = what
            if os.WIFSTOPPED(status) or os.WIFSIGNALED(status):
                move_clock(self.folder, A_LONG_TIME)
            self._is_gone(what)

    def _is_gone(self, what: str) -> None:
        """Dagster's code server or its run monitoring says of a run without a sign of life that it has failed."""
        if what != "tick" and self.noticed and (found := self.instance.get_run_by_id(what)) and not found.is_finished:
            self.instance.report_run_failed(found, "its process is gone")

    def _resume(self) -> None:
        """Wake who was stopped."""
        for pid in self.stopped:
            os.kill(pid, signal.SIGCONT)
        self.living |= self.stopped
        self.stopped.clear()

    def end(self) -> None:
        """End everything that still lives."""
        for pid in [*self.living, *self.stopped]:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    # ---- time --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the sensor and time do their work until nothing is left to do; who was stopped wakes up only then.

        Raises:
            StuckError: Something is left to do for too long.
        """
        until, idle = time.monotonic() + _SECONDS, 0
        while time.monotonic() < until:
            self.reap()
            if self.always or not self.living:
                self.tick()
            if self.living:
                idle = 0
                _sleep(_PAUSE)
                move_clock(self.folder, 1.0)
            elif not self.located and self._ask_again():
                continue
            elif self.open_things():
                idle += 1
                move_clock(self.folder, 1.0 if idle % 3 else A_LONG_TIME if self.noticed else _A_DAY)
            elif self.stopped:
                self._resume()
            elif not self._ask_again():
                return
        raise StuckError(f"not at its end: {self.open_things()}, living {list(self.living.values())}")

    def open_things(self) -> list[str]:
        """Plans and attempts that are not at their end."""
        ledger = self.ledger
        plans = [f"plan {plan.asset} {plan.partitions}" for plan in ledger.plans.find() if plan.state is PlanState.OPEN]
        attempts = [f"attempt {a.id} {a.state}" for a in ledger.attempts.find() if a.state in OPEN_ATTEMPTS]
        return plans + attempts

    # ---- what must hold ----------------------------------------------------------------------------------------

    def struck(self) -> tuple[Strike, ...]:
        """What of the order has been done."""
        strikes = enumerate(self.order.strikes)
        return tuple(strike for number, strike in strikes if struck(self.folder, self.order.world, number).exists())

    def violations(self) -> list[str]:
        """Double payments, lost answers and wrong rows; none is hoped for."""
        mark = f"world {self.order.world}: "
        paid = {one.prompt: one.times for one in self.emulator.bill().requests if mark in one.prompt}
        found = [f"paid {times} times: {prompt}" for prompt, times in paid.items() if times > 1]
        if len(paid) != ROWS:
            found.append(f"{len(paid)} of {ROWS} requests were paid")
        if not set(self.tables) <= (known := self._known()):
            return [*found, f"there are only the tables {known}"]
        written = self.location.tables.query(
            f'SELECT id, label, status FROM "{self.tables[0]}" ORDER BY id'
        ).to_pylist()
        wanted = [{"id": row, "label": expected(row), "status": "ok"} for row in range(ROWS)]
        if written != wanted:
            found.append(f"the table has {written}")
        ledger = self.ledger
        files = ledger.attempts.answers([attempt.id for attempt in ledger.attempts.find()])
        outcomes = sum((Counter(file.outcomes) for file in files), Counter[str]())
        if outcomes["ok"] < ROWS:
            found.append(f"the ledger knows of {dict(outcomes)}")
        if not self.noticed:
            return found
        incidents = ledger.attempts.incidents()
        if len(self.struck()) >= _FAILURES_BEFORE_INCIDENT:
            incidents = [incident for incident in incidents if incident[0] != "collect runs fail"]
        return found + [f"incident {kind}: {message}" for kind, _, message in incidents]
