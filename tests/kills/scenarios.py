"""What happens in a world: who materializes what."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event

from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill

from .location import PARTITIONS
from .places import move_clock
from .world import World

_SECONDS = 20.0


@dataclass(frozen=True)
class Scenario:
    """How a world begins, and which tables it must have at its end."""

    begin: Callable[[World], None]
    tables: tuple[str, ...]
    roles: tuple[str, ...]
    ticks: int = 1
    always: bool = False
    noticed: bool = True
    located: bool = True


def _one_run(world: World) -> None:
    world.ask({"reviews", "topics", "report"}, role="run")


def _source(world: World) -> None:
    world.ask({"reviews"}, role="source")
    _until(world, lambda: not world.living)


def _backfill(world: World) -> None:
    """The first run becomes the keeper, the others let go."""
    _source(world)
    name = _new_backfill(world)
    tags = {"dagster/backfill": name}
    first = world.ask({"by_group"}, tags | {"dagster/partition": PARTITIONS[0]}, role="keeper")
    _until(world, lambda: world.ledger.plans.is_kept(name) or first not in world.living.values())
    for partition in PARTITIONS[1:]:
        world.ask({"by_group"}, tags | {"dagster/partition": partition}, role="partition")


def _crowd(world: World) -> None:
    """A backfill, a schedule's run of one partition and a person's of all, at once; who is to be struck begins."""
    _source(world)
    backfill = {"dagster/backfill": _new_backfill(world)}
    ends = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
    runs = [("partition", backfill | {"dagster/partition": partition}) for partition in PARTITIONS]
    runs.append(("scheduled", {"dagster/schedule_name": "nightly", "dagster/partition": PARTITIONS[1]}))
    runs.append(("range", dict(zip(ends, (PARTITIONS[0], PARTITIONS[-1]), strict=True))))
    first = [strike.point.role for strike in world.order.strikes[:1]]
    for role, tags in sorted(runs, key=lambda run: run[0] not in first):
        world.ask({"by_group"}, tags, role=role)


def _new_backfill(world: World) -> str:
    name = f"backfill{world.order.world}"
    world.instance.add_backfill(
        PartitionBackfill(name, BulkActionStatus.REQUESTED, from_failure=False, tags={}, backfill_timestamp=time.time())
    )
    return name


def _until(world: World, condition: Callable[[], bool]) -> None:
    until = time.monotonic() + _SECONDS
    while not condition() and time.monotonic() < until:
        world.reap()
        move_clock(world.folder, 0.1)
        Event().wait(0.02)


SCENARIOS = {
    "run": Scenario(_one_run, ("topics", "report"), ("run", "tick", "collect", "server")),
    "power cut": Scenario(_one_run, ("topics", "report"), ("run", "collect"), noticed=False),
    "notebook": Scenario(_one_run, ("topics", "report"), ("run", "server"), located=False),
    "backfill": Scenario(_backfill, ("by_group",), ("keeper", "partition", "tick", "collect"), always=True),
    "two daemons": Scenario(_one_run, ("topics", "report"), ("tick", "collect"), ticks=2, always=True),
    "crowd": Scenario(_crowd, ("by_group",), ("partition", "scheduled", "range", "collect"), always=True),
}
