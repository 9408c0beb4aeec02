"""Virtual time and workers that take turns at their effects, all in one thread and by one seed."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from greenlet import GreenletExit, greenlet

from .faults import CALM, LONGEST_STOP, Setting

START = 1_800_000_000.0


class Died(BaseException):
    """kill -9: no handler of ours catches it, and nothing that is tried afterwards has an effect."""


@dataclass
class Worker:
    """One process: dead between a crash and its successor's birth."""

    number: int
    births: int = 0
    dead: bool = False
    intent_at: float = 0.0
    met: set[str] = field(default_factory=set[str])

    @property
    def name(self) -> str:
        return f"w{self.number}.{self.births}"


class Hub:
    """A clock for the code under test, and the scheduler behind it."""

    def __init__(self, setting: Setting, *, tracing: bool = False) -> None:
        self.setting = setting
        self.dice = random.Random(f"run {setting.seed} {setting.mode} {setting.kind}")
        self.tracing = tracing
        self.trace: list[str] = []
        self.effects = 0
        self.crashes = 0
        self.stops = 0
        self.worker: Worker | None = None
        self.respond: Callable[..., Any] = httpx.Response
        self._time = 0.0
        self._tokens = 0
        self._order = 0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._root = greenlet.getcurrent()
        self._quiet = 0
        self._threads: list[greenlet] = []
        self._closed = False

    # ---- the clock that the package is given ----

    def now(self) -> float:
        return START + self._time

    def monotonic(self) -> float:
        return self._time

    def sleep(self, seconds: float) -> None:
        self.effect("sleep", wait=seconds)

    def token(self) -> str:
        self._tokens += 1
        return f"{self._tokens:016x}"

    # ---- the scheduler ----

    def at(self, when: float, call: Callable[[], object]) -> None:
        """Do something at a virtual time (seconds since the start)."""
        self._order += 1
        heapq.heappush(self._events, (when, self._order, call))

    def spawn(self, worker: Worker, life: Callable[[], None]) -> None:
        """A worker that begins soon."""

        def born() -> None:
            self.worker = worker
            life()

        thread = greenlet(born, self._root)
        self._threads.append(thread)
        self.at(self._time + self.dice.random(), thread.switch)

    def run(self, until: float) -> bool:
        """Let everything happen; False if it doesn't come to an end in time."""
        self._root = greenlet.getcurrent()
        while self._events:
            when, _, call = heapq.heappop(self._events)
            if when > until:
                return False
            self._time = max(self._time, when)
            self.worker = None
            call()
        self.worker = None
        return True

    def close(self) -> None:
        """End the workers that are still at it."""
        self._closed = True
        for thread in self._threads:
            if not thread.dead:
                thread.throw(GreenletExit)

    def pause(self, seconds: float) -> None:
        """The running worker does nothing for a while; others go on."""
        if self._closed:
            raise GreenletExit
        until, worker = self._time + seconds, self.worker
        if not self._events or self._events[0][0] > until:
            self._time = until
            return
        self.at(until, greenlet.getcurrent().switch)
        self._root.switch()
        self.worker = worker

    def effect(self, what: str, *, wait: float = 0.0, weight: float = 1.0) -> None:
        """The running worker is about to do something that others can see; it may die or be stopped before it."""
        worker = self.worker
        if self._closed:
            raise GreenletExit
        if worker is None or self._quiet:
            return
        if worker.dead:
            raise Died(what)
        self.effects += 1
        setting, fate = self.setting, self.dice.random()
        if self._time < CALM:
            if fate < setting.crash * weight or self.effects == setting.crash_at:
                worker.dead = True
                self.crashes += 1
                worker.met.add("crash")
                self.say(f"dies before {what}")
                raise Died(what)
            if fate < (setting.crash + setting.stop) * weight:
                stopped = self.dice.uniform(1.0, LONGEST_STOP)
                self.stops += 1
                worker.met.add("stop")
                self.say(f"is stopped for {stopped:.1f} s before {what}")
                self.pause(wait + stopped)
                return
        self.pause(wait + 0.01 + (self.dice.random() * 3.0 if fate > 0.8 else 0.0))

    def sleep_until(self, when: float) -> None:
        """All is done, and time goes by."""
        self._time = max(self._time, when)

    @contextmanager
    def quietly(self) -> Generator[None]:
        """The simulation itself looks: no effects, no time."""
        self._quiet += 1
        try:
            yield
        finally:
            self._quiet -= 1

    def say(self, text: str) -> None:
        """A line of the trace."""
        if self.tracing:
            self.trace.append(f"{self._time:10.2f} {self.worker.name if self.worker else 'provider':8} {text}")
