"""One seed: a ledger, an account, plans that share keys, and workers that run and tick until all is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dagster_batch_llm.pipelines.sensor import LOOK_SECONDS, take_turn
from dagster_batch_llm.resources.errors import ProviderError, RefusedError, StorageError
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import (
    Attempt,
    Ledger,
    Origin,
    Plan,
    PlanState,
)
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..resources.world import a_plan
from . import quick_http
from .faults import CALM, LONGEST_LAG, Setting
from .hub import Died, Hub, Worker
from .network import Network
from .provider import Provider
from .runs import a_run
from .seams import Seams

SPEC = RequestSpec(operation=Operation.CHAT, model="m", parameters={"max_tokens": 8})
SWEEP_SECONDS = 600.0


def prompt_of(key: str) -> str:
    return f"what of {key}?"


@dataclass
class World:
    """What exists in one seed. `broken` gets a sentence per violation that is seen on the way."""

    setting: Setting
    seams: Seams
    folder: Path
    hub: Hub
    provider: Provider = field(init=False)
    ledger: Ledger = field(init=False)
    client: OpenAIShape = field(init=False)
    wanted: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    unopened: int = 0
    broken: list[str] = field(default_factory=list[str])
    manifests: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    over: bool = False
    swept: float = 0.0

    def __post_init__(self) -> None:
        hub = self.hub
        if self.seams.quick:
            hub.respond = quick_http.Response
        self.provider = Provider(hub)
        self.seams.faults_of = self.provider.faults_of
        self.ledger = self.seams.ledger(self.folder, hub)
        http = HttpClient(
            name="sim",
            base_url="https://sim.test/v1",
            api_key="sk-sim",
            clock=hub,
            transport=Network(hub, self.provider),
        )
        self.client = OpenAIShape(self.setting.profile, http, account="acme", clock=hub)
        self.ledger.looks.declare(SPEC)
        dice, setting = hub.dice, self.setting
        self.unopened = setting.plans
        for number in range(setting.plans):
            # The plans overlap by half and together ask every key.
            size = setting.keys * 2 // (setting.plans + 1)
            start = number * (setting.keys - size) // (setting.plans - 1)
            keys = [f"k{n:02}" for n in range(start, start + size)]
            dice.shuffle(keys)
            hub.at(dice.uniform(0.0, 900.0) if number else 0.0, lambda n=number, k=keys: self._open(f"plan{n}", k))
        for _ in range(3):
            hub.at(dice.uniform(0.0, 3000.0), self.provider.stranger)
        if dice.random() < 0.1:
            hub.at(dice.uniform(100.0, CALM), self._cancel_a_plan)
        for number in range(setting.workers):
            worker = Worker(number)
            hub.spawn(worker, lambda w=worker: self._live(w))

    def _open(self, name: str, keys: list[str]) -> None:
        path = Home(self.folder).requests(name)
        path.parent.mkdir(parents=True)
        rows = [{"key": key, "prompt": prompt_of(key), "bytes": 200} for key in keys]
        self.seams.write(rows, path)
        plan = a_plan(name, SPEC.task, asset=name, rows=len(keys), keys=len(keys), created_at=self.hub.now())
        self.ledger.plans.open(plan, Origin("run", (), {}))
        self.ledger.plans.let_go(plan.id, "run")
        self.wanted[name] = keys
        self.unopened -= 1

    def _cancel_a_plan(self) -> None:
        if plans := self._left():
            plan = self.hub.dice.choice(plans)
            self.hub.say(f"{plan.id} is cancelled by somebody")
            if self.ledger.plans.close(plan.id, PlanState.CANCELLED):
                self.ledger.attempts.void_unsent(plan.id)

    def _left(self) -> list[Plan]:
        """Plans with something left to do."""
        with self.hub.quietly():
            return self.ledger.plans.with_work("here")

    def open_plans(self) -> set[str]:
        """Those whose tables are still to come."""
        return {plan.id for plan in self._left() if plan.state is PlanState.OPEN}

    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        self.over = self.over or (not self.unopened and not self._left())
        return self.over

    # ---- what workers do ----

    def _live(self, worker: Worker) -> None:
        hub, dice = self.hub, self.hub.dice
        while not self.is_over():
            try:
                self._work(worker)
                hub.effect("a nap", wait=dice.uniform(1.0, self._longest_nap()))
            except Died:
                hub.pause(dice.uniform(1.0, 200.0))
                worker.dead = False
                worker.births += 1

    def _longest_nap(self) -> float:
        """Where the windows are tried out, workers look every few seconds while a create is unsettled."""
        if self.setting.mode == "edge" and self.seams.unsettled:
            return 6.0
        return 250.0 if self.hub.monotonic() < CALM else 500.0

    def _work(self, worker: Worker) -> None:
        machine = BatchMachine(self.ledger, {"llm": self.client}, worker.name)
        tick = self.hub.dice.random() < 0.5
        try:
            if tick:
                self._tick(machine)
            else:
                self._converge(machine, worker.name)
        except RefusedError as error:
            self.hub.say(f"gave up: {error}")
        except (ProviderError, StorageError) as error:
            self.hub.say(f"goes on later: {error}")

    def _tick(self, machine: BatchMachine) -> None:
        """What the sensor does."""
        if self.hub.now() - self.swept >= SWEEP_SECONDS:
            self.swept = self.hub.now()
            machine.sweep("llm")
        take_turn(machine, "llm", self.hub.monotonic() + LOOK_SECONDS, self.hub.say)

    def _converge(self, machine: BatchMachine, run: str) -> None:
        """A run of an asset works on one plan."""
        plans = self.ledger.plans.with_work("here")
        if plans:
            for _ in a_run(self.hub, self.ledger, machine, self.hub.dice.choice(plans), run).go():
                raise AssertionError("a run of the simulation gives Dagster nothing")

    # ---- for the invariants ----

    def sweep(self) -> None:
        """The sensor goes on when no table waits any more, until every batch has ended and been seen."""
        hub = self.hub
        hub.sleep_until(max(hub.monotonic(), CALM) + LONGEST_LAG)
        hub.sleep_until(max(((job.ended or 0.0) + job.late for job in self.provider.jobs.values()), default=0.0))
        machine = BatchMachine(self.ledger, {"llm": self.client}, "sensor")
        for _ in range(2):  # the second one keeps what the first one has found
            machine.sweep("llm")

    def attempts(self) -> list[Attempt]:
        return self.ledger.attempts.find()
