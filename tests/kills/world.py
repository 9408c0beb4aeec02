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

import dagster as dg
from dagster import DagsterInstance
from dagster_batch_llm.resources import Ledger
from dagster_batch_llm.resources.ledger import AttemptState, PlanState
from dagster_batch_llm.resources.ledger.states import OPEN_ATTEMPTS
from dagster_batch_llm.resources.testing import Emulator

from .location import ROWS, Location, expected
from .places import move_clock, read_clock
from .points import Order, passed, struck
from .processes import evaluate, forked, register_run, run

_A_LONG_TIME = 200.0
"""Longer than every lease, hold and grace period, and than the time in which a lost create may still arrive."""
_ROUNDS = 400
_SECONDS = 60.0
_PAUSE = 0.03


class StuckError(Exception):
    """The world didn't come to its end."""


@dataclass
class World:
    """One ledger and one warehouse; the instance and the provider are the campaign's.

    Args:
        folder: The campaign's.
        order: Who is struck where.
        instance: Dagster's.
        emulator: The provider.
        ticks: How many sensors are evaluated at once.
    """

    folder: Path
    order: Order
    instance: DagsterInstance
    emulator: Emulator
    ticks: int = 1
    when_stopped: Callable[[World], None] | None = None
    living: dict[int, str] = field(default_factory=dict[int, str])
    deaths: int = 0
    stopped: list[int] = field(default_factory=list[int])
    resumed: bool = False

    def __post_init__(self) -> None:
        self.home = self.folder / str(self.order.world)
        (self.home / "batch_llm").mkdir(parents=True)
        self.location = Location(self.order.world, self.home / "warehouse.duckdb", self.folder / "emulator")
        os.environ["BATCH_LLM_HOME"] = str(self.home / "batch_llm")
        self.order.write(self.folder)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.home / "batch_llm")

    @property
    def log(self) -> Path:
        return self.home / "log"

    # ---- processes ---------------------------------------------------------------------------------------------

    def launch(self, assets: set[str], tags: dict[str, str] | None = None, *, role: str) -> str:
        """Start a run in a process of its own."""
        run_id = register_run(self.instance, self.location, assets, tags or {})
        self.living[forked(lambda: run(self.folder, self.location, run_id, role), self.log)] = run_id
        return run_id

    def tick(self) -> None:
        """Evaluate the sensor, perhaps in two processes at once, and launch what it asks for."""
        files = [self.home / f"requested-{number}" for number in range(self.ticks)]
        for file in files:
            file.unlink(missing_ok=True)
            pid = forked(lambda file=file: evaluate(self.folder, self.location, file), self.log)
            self.living[pid] = "tick"
        while "tick" in self.living.values():
            self.reap()
            time.sleep(0.005)
        for file in files:
            for line in file.read_text().splitlines() if file.exists() else ():
                told = json.loads(line)
                self.launch(set(told["assets"]), told["tags"], role="collect")

    def reap(self) -> None:
        """Take note of who has ended, died or stopped."""
        for pid in list(self.living):
            found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
            if found == 0:
                continue
            if os.WIFSTOPPED(status):
                self.stopped.append(pid)
                self.stopped_runs = self.living.pop(pid)
                continue
            self._ended(self.living.pop(pid), status)

    def _ended(self, what: str, status: int) -> None:
        if os.WIFSIGNALED(status):
            self.deaths += 1
        # Dagster's code server notices a run whose process is gone, and says that it has failed.
        if what != "tick" and (found := self.instance.get_run_by_id(what)) and not found.is_finished:
            self.instance.report_run_failed(found, "its process is gone")

    def _resume(self) -> None:
        """Wake who was stopped, and wait for its end."""
        self.resumed = True
        for pid in self.stopped:
            os.kill(pid, signal.SIGCONT)
            _, status = os.waitpid(pid, 0)
            self._ended(self.stopped_runs, status)
        self.stopped.clear()

    def end(self) -> None:
        """End everything that still lives."""
        for pid in [*self.living, *self.stopped]:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    # ---- time --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the sensor and time do their work until nothing is left to do.

        Raises:
            StuckError: Something is left to do for too long.
        """
        began, idle = time.monotonic(), 0
        for _ in range(_ROUNDS):
            self.reap()
            if self.stopped and self.when_stopped:
                self.when_stopped(self)
                self._resume()
            self.tick()
            if not self.living:
                if not self.open_things() and (not self.stopped or self._woken()):
                    return
                idle += 1
                move_clock(self.folder, _A_LONG_TIME if self.deaths or self.stopped or idle % 5 == 0 else 1.0)
                self.deaths = 0
            else:
                idle = 0
                time.sleep(_PAUSE)
                move_clock(self.folder, 0.3)
            if time.monotonic() - began > _SECONDS:
                break
        raise StuckError(f"not at its end: {self.open_things()}, living {list(self.living.values())}")

    def _woken(self) -> bool:
        """Wake a sleeper when all is over, and look whether it has made new work."""
        self._resume()
        return not self.open_things()

    def open_things(self) -> list[str]:
        """Plans and attempts that are not at their end."""
        ledger = self.ledger
        plans = [f"plan {plan.asset} {plan.partitions}" for plan in ledger.plans.find() if plan.state is PlanState.OPEN]
        attempts = [f"attempt {a.id} {a.state}" for a in ledger.attempts.find() if a.state in OPEN_ATTEMPTS]
        return plans + attempts

    # ---- what must hold ----------------------------------------------------------------------------------------

    def was_struck(self) -> bool:
        return struck(self.folder, self.order.world).exists()

    def violations(self, table: str, rows: int = ROWS) -> list[str]:
        """Double payments, lost answers and wrong rows; none is hoped for."""
        mark = f"world {self.order.world}: "
        paid = {one.prompt: one.times for one in self.emulator.bill().requests if mark in one.prompt}
        found = [f"paid {times} times: {prompt}" for prompt, times in paid.items() if times > 1]
        if len(paid) != rows:
            found.append(f"{len(paid)} of {rows} requests were paid")
        written = self.location.tables.query(f'SELECT id, label, status FROM "{table}" ORDER BY id').to_pylist()
        wanted = [{"id": row, "label": expected(row), "status": "ok"} for row in range(rows)]
        if written != wanted:
            found.append(f"the table has {written}")
        if not self.instance.fetch_materializations(dg.AssetKey(table), limit=1).records:
            found.append("nothing was materialized")
        ledger = self.ledger
        outcomes = sum((Counter(a.outcomes) for a in ledger.attempts.answers([a.id for a in ledger.attempts.find()])), Counter[str]())
        if outcomes["ok"] < rows:
            found.append(f"the ledger knows of {dict(outcomes)}")
        return found + [f"incident {kind}: {message}" for kind, _, message in ledger.attempts.incidents()]
