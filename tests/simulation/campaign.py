"""Runs seeds and adds up what they saw."""

from __future__ import annotations

import gc
import multiprocessing
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from dagster_batch_llm.resources.ledger import Attempt
from dagster_batch_llm.resources.ledger.looks import Looks

from .faults import HORIZON, Setting
from .hub import Hub
from .invariants import check_all, check_overlap
from .seams import Seams, TransitionKey, home_folder, installed
from .world import World

_EVERY = 100
"""One seed of so many of a campaign runs without stand-ins."""


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
            hub.say(f"{plan} takes {[a.id[-4:] for a in attempts]}, waits for {sorted(w[-4:] for w in waits_for)}")
            with hub.quietly():
                check_overlap(world, attempts)
        return done

    try:
        with mock.patch.object(Looks, "insert", inserting):
            finished = hub.run(HORIZON)
        seams.hub = None
        violations = check_all(world, finished=finished)
    finally:
        hub.close()
        seams.hub = None
        world.client.close()
        shutil.rmtree(home, ignore_errors=True)
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


def replayed(setting: Setting, *, quick: bool = True) -> Result:
    """One seed alone, with its trace."""
    with home_folder() as folder, installed(quick=quick) as seams:
        return run(setting, seams, folder, tracing=True)


@dataclass
class Total:
    """What many seeds came to."""

    seeds: int = 0
    real: int = 0
    """Those of them with DuckDB, SQLAlchemy and httpx."""
    effects: int = 0
    crashes: int = 0
    stops: int = 0
    creates: int = 0
    rows: int = 0
    modes: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])
    transitions: Counter[TransitionKey] = field(default_factory=Counter[TransitionKey])
    thin: list[int] = field(default_factory=list[int])
    """Seeds that had less than three plans, two workers, two batches, 50 planned rows, a crash and another fault."""
    failed: list[tuple[Setting, list[str]]] = field(default_factory=list[tuple[Setting, list[str]]])

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.effects += result.effects
        self.crashes += result.crashes
        self.stops += result.stops
        self.creates += result.creates
        self.rows += result.rows
        self.modes[f"{result.setting.mode} {result.setting.kind}"] += 1
        self.faults += result.faults
        enough = result.setting.plans >= 3 and result.setting.workers >= 2 and result.creates >= 2
        if not (enough and result.setting.keys >= 50 and result.crashes and (result.faults or result.stops)):
            self.thin.append(result.setting.seed)
        if result.violations:
            self.failed.append((result.setting, result.violations))

    def join(self, other: Total) -> None:
        self.seeds += other.seeds
        self.real += other.real
        self.effects += other.effects
        self.crashes += other.crashes
        self.stops += other.stops
        self.creates += other.creates
        self.rows += other.rows
        self.modes += other.modes
        self.faults += other.faults
        self.transitions += other.transitions
        self.thin += other.thin
        self.failed += other.failed


def several(settings: Sequence[Setting], *, quick: bool = True) -> Total:
    """Some seeds in this process; `quick` as in `installed`."""
    total = Total()
    frozen = gc.get_freeze_count()
    gc.collect()  # what somebody has left here must not wait until the end, and be collected who knows where
    gc.disable()  # a seed is small; its garbage is collected when it is over
    try:
        with home_folder() as folder, installed(quick=quick) as seams:
            gc.freeze()  # what is here now stays
            for setting in settings:
                total.add(run(setting, seams, folder))
                if total.seeds % 50 == 0:
                    gc.collect()
            total.transitions = seams.transitions
    finally:
        if not frozen:
            gc.unfreeze()
        gc.enable()
    total.real = 0 if quick else total.seeds
    return total


def _chunk(settings: Sequence[Setting]) -> Total:
    """One of them without any stand-ins, each time another one: what they leave out is seen there."""
    real = settings[0].seed // _EVERY % len(settings)
    total = several([settings[real]], quick=False)
    total.join(several([*settings[:real], *settings[real + 1 :]]))
    return total


def _ready() -> None:
    """What a process does first: Ctrl-C is its parent's affair, and what is imported stays."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()


def campaign(settings: Sequence[Setting], processes: int, tell: Callable[[Total], None]) -> Total:
    """Many seeds in several processes; Ctrl-C ends it early, and what was seen until then counts."""
    total = Total()
    chunks = [settings[start : start + _EVERY] for start in range(0, len(settings), _EVERY)]
    with suppress(KeyboardInterrupt), multiprocessing.get_context("spawn").Pool(processes, _ready) as pool:
        for part in pool.imap_unordered(_chunk, chunks):
            total.join(part)
            tell(total)
    return total
