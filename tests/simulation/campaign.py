"""Runs seeds and adds up what they saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from dagster_batch_llm.resources.ledger import Attempt
from dagster_batch_llm.resources.ledger.looks import Looks

from .faults import HORIZON, Setting
from .hub import Hub
from .invariants import check_all, check_overlap
from .seams import Seams
from .world import World


@dataclass
class Result:
    """What one seed came to."""

    setting: Setting
    violations: list[str]
    trace: list[str]
    effects: int = 0
    crashes: int = 0
    stops: int = 0
    creates: int = 0
    rows: int = 0
    virtual: float = 0.0
    faults: Counter[str] = field(default_factory=Counter[str])


def run(setting: Setting, seams: Seams, folder: Path, *, tracing: bool = False) -> Result:
    """One seed from its beginning to its end."""
    hub = Hub(setting, tracing=tracing)
    seams.hub = None
    home = folder / "home"
    world = World(setting, seams, home, hub)
    seams.hub = hub
    insert = Looks.insert

    def inserting(
        looks: Looks, task: str, fence: int, plan: str, attempts: Sequence[Attempt], waits_for: Sequence[str]
    ) -> bool:
        done = insert(looks, task, fence, plan, attempts, waits_for)  # pyright: ignore[reportArgumentType]
        if done and attempts:
            hub.say(f"{plan} takes {[a.id[-4:] for a in attempts]}, waits for {[w[-4:] for w in waits_for]}")
            with hub.quietly():
                check_overlap(world, attempts)
        return done

    try:
        with mock.patch.object(Looks, "insert", inserting):
            finished = hub.run(HORIZON)
        seams.hub = None
        violations = check_all(world, finished=finished)
    finally:
        seams.hub = None
        world.client.close()
        seams.close()
        _remove(home)
    jobs = [job for job in world.provider.jobs.values() if job.ours]
    return Result(
        setting,
        violations,
        hub.trace,
        effects=hub.effects,
        crashes=hub.crashes,
        stops=hub.stops,
        creates=len(jobs),
        rows=sum(len(job.lines) for job in jobs),
        virtual=hub.monotonic(),
        faults=world.provider.faults,
    )


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
