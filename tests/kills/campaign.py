"""Worlds one after the other, with what they share."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from dagster import DagsterInstance
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import RemoteInstigatorOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, SensorInstigatorData
from dagster_batch_llm.assets.run import SENSOR_NAME
from dagster_batch_llm.resources.errors import BatchLLMError
from dagster_batch_llm.resources.ledger.store import LEDGER_VARIABLE
from dagster_batch_llm.resources.testing import Emulator

from ..resources.postgres import Cluster, running_cluster
from .location import Location
from .places import move_clock, tell_time
from .points import FOLDER_VARIABLE, Order, Point, Strike, passed
from .processes import ORIGIN, instance_of
from .scenarios import SCENARIOS
from .world import StuckError, World

_INSTANCE = """\
telemetry:
  enabled: false
event_log_storage:
  module: dagster._core.storage.event_log
  class: ConsolidatedSqliteEventLogStorage
  config:
    base_dir: {folder}/events
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""
_SHOWN = 6000
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """What became of one world.

    Attributes:
        scenario: What happened in it.
        strikes: What was to be done to its processes.
        struck: Which of these were done; the others' points weren't reached.
        passed: All points that its processes passed.
        violations: What mustn't be.
        seconds: How long it took.
        log: The end of what its processes said, if there are violations.
    """

    scenario: str
    strikes: tuple[Strike, ...]
    struck: tuple[Strike, ...]
    passed: frozenset[Point]
    violations: list[str]
    seconds: float
    log: str


@dataclass
class Campaign:
    """Worlds one after the other, with one Dagster instance and one provider."""

    folder: Path
    instance: DagsterInstance
    emulator: Emulator
    location: Location
    cluster: Cluster | None
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def play(self, scenario: str, strikes: tuple[Strike, ...] = ()) -> Result:
        """One world from its first run to its end."""
        chosen = SCENARIOS[scenario]
        os.environ[LEDGER_VARIABLE] = self.cluster.new() if self.cluster else ""
        order = Order(next(self._numbers), strikes)
        world = World(
            self.folder,
            order,
            self.instance,
            self.emulator,
            self.location,
            ticks=chosen.ticks,
            always=chosen.always,
            noticed=chosen.noticed,
            located=chosen.located,
            tables=chosen.tables,
            restart=self._restart if self.cluster else None,
        )
        began, violations = time.monotonic(), list[str]()
        try:
            chosen.begin(world)
            world.settle()
            violations = world.violations()
        except (StuckError, BatchLLMError) as error:
            violations = [repr(error)]
        finally:
            world.end()
        log = world.log.read_text()[-_SHOWN:] if violations and world.log.exists() else ""
        shutil.rmtree(world.home)
        points = frozenset(passed(self.folder, order.world))
        return Result(scenario, strikes, world.struck(), points, violations, time.monotonic() - began, log)

    def _restart(self) -> None:
        """What a crash of the ledger's server and its start are."""
        assert self.cluster is not None
        self.cluster.stop("immediate")
        self.cluster.start()


@contextmanager
def campaign(folder: Path, *, postgres: bool) -> Generator[Campaign]:
    """Everything that worlds share, made and ended."""
    os.environ[FOLDER_VARIABLE] = str(folder)
    os.environ["PYTHONPATH"] = f"{Path(__file__).parent / 'inside'}{os.pathsep}{_ROOT}"
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    (folder / "dagster").mkdir(parents=True)
    (folder / "dagster" / "dagster.yaml").write_text(_INSTANCE.format(folder=folder / "dagster"))
    move_clock(folder, 0.0)
    Order(0).write(folder)
    ledgers = running_cluster() if postgres else nullcontext()
    with ledgers as cluster, instance_of(folder) as instance, Emulator(folder / "emulator") as emulator:
        instance.add_instigator_state(
            InstigatorState(
                RemoteInstigatorOrigin(ORIGIN, SENSOR_NAME),
                InstigatorType.SENSOR,
                InstigatorStatus.RUNNING,
                SensorInstigatorData(),
            )
        )
        emulator.resource().provider().list(0.0)  # imports what each child would import
        real = tell_time(folder)
        try:
            yield Campaign(folder, instance, emulator, Location(folder), cluster)
        finally:
            time.time = real
