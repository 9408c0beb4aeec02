"""A whole small installation: the real ledger, machine and client, over a fake server and a fake clock."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from dagster_batch_llm.resources.duck import connect, literal, parquet, rows
from dagster_batch_llm.resources.errors import ProviderError
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import (
    Attempt,
    AttemptId,
    AttemptState,
    Ledger,
    Origin,
    Plan,
    PlanId,
    PlanState,
    Tier,
)
from dagster_batch_llm.resources.ledger.connect import Database
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.request import Operation, RequestSpec, TaskHash

from .fake_clock import FakeClock
from .fake_openai import FakeOpenAI

SPEC = RequestSpec(operation=Operation.CHAT, model="m", instruction="Answer.")
REVOCABLE = replace(OPENAI, revocable=True, listing_lag=120.0)
PROMPTS = ("one", "two", "three")


def write_columns(path: Path, **columns: Sequence[object]) -> Path:
    """A small Parquet file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({name: list(values) for name, values in columns.items()})
    pq.write_table(table, path)  # pyright: ignore[reportUnknownMemberType]
    return path


def a_plan(name: str, task: TaskHash, **fields: object) -> Plan:
    """A plan with the dull fields filled in."""
    plan = Plan(
        id=PlanId(name),
        state=PlanState.OPEN,
        asset="table",
        partitions=(),
        task=task,
        llm="llm",
        spec="{}",
        code_version="v",
        inputs={},
        origin="run",
        run="run",
        location="here",
        backfill=None,
        rows=0,
        keys=0,
        created_at=0.0,
    )
    return replace(plan, **fields)


@dataclass
class World:
    """One home folder and one provider account; `machine` gives as many workers as a test wants."""

    folder: Path
    clock: FakeClock = field(default_factory=FakeClock)
    profile: Profile = OPENAI
    url: str = ""
    spec: RequestSpec = SPEC
    tier: Tier = Tier.BATCH
    server: FakeOpenAI = field(init=False)
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.server = FakeOpenAI(self.clock)
        self.ledger = self.opened()

    def opened(self, *, read_only: bool = False) -> Ledger:
        """The ledger once more, as another process has it."""
        return Ledger(self.folder, self.clock, url=self.url, read_only=read_only)

    @property
    def database(self) -> Database:
        """The ledger's tables, for what no transition does."""
        return Database(self.folder, self.clock, url=self.url)

    def http(self) -> HttpClient:
        return HttpClient(
            name="openai",
            base_url="https://fake.test/v1",
            api_key="sk-test",
            clock=self.clock,
            transport=self.server.transport(),
        )

    def provider(self) -> OpenAIShape:
        return OpenAIShape(self.profile, self.http(), account="acme", clock=self.clock)

    def machine(self, owner: str = "run") -> BatchMachine:
        """A worker with connections of its own, as another process has them."""
        return BatchMachine(self.opened(), {"llm": self.provider()}, owner)

    def plan(self, prompts: Sequence[str] = PROMPTS, *, name: str = "plan", llm: str = "llm") -> Plan:
        """A plan of these prompts; a prompt is its own key here."""
        task = self.ledger.looks.declare(self.spec)
        plan = self.ledger.plans.open(a_plan(name, task, llm=llm), Origin("run", (), {}))
        path = Home(self.folder).requests(plan.id)
        write_columns(path, key=prompts, prompt=prompts, bytes=[len(prompt) for prompt in prompts])
        return plan

    def ask(self, prompts: Sequence[str] = PROMPTS, *, name: str = "plan", llm: str = "llm", size: int = 0) -> Attempt:
        """A planned attempt that asks these prompts."""
        home = Home(self.folder)
        plan = self.plan(prompts, name=name, llm=llm)
        task = plan.task
        attempt = Attempt(
            id=AttemptId(self.clock.token()),
            state=AttemptState.PLANNED,
            task=task,
            plan=plan.id,
            llm=llm,
            account="realtime:acme" if self.tier is Tier.REALTIME else "acme",
            manifest=f"{name}.parquet",
            rows=len(prompts),
            created_at=self.clock.now(),
            wire=self.profile.wire.name,
            bytes=size,
            tier=self.tier,
        )
        write_columns(home.manifest(attempt.manifest), row=range(len(prompts)), key=prompts)
        fence = self.ledger.looks.snapshot(task).fence
        assert self.ledger.looks.insert(task, fence, plan.id, [attempt], [])
        return attempt

    def now(self, attempt: Attempt) -> Attempt:
        return self.ledger.attempts.get(attempt.id)

    def state(self, attempt: Attempt) -> AttemptState:
        return self.now(attempt).state

    def finish(self, attempt: Attempt, *, within: float = 4 * 3600.0, step: float = 60.0) -> None:
        """Let one worker do what a run does, until the attempt is through; provider errors are waited out."""
        machine = self.machine("finisher")
        until = self.clock.now() + within
        while self.state(attempt) not in {AttemptState.ANSWERED, AttemptState.REFUSED, AttemptState.VOID}:
            assert self.clock.now() < until, f"still {self.now(attempt)}"
            try:
                machine.step(self.now(attempt))
                machine.poll("llm")
            except ProviderError:
                pass
            self.clock.sleep(step)

    def answers(self) -> Mapping[str, str]:
        """Key → answer, of all answers that the ledger names."""
        home = Home(self.folder)
        files = [home.answers(name) for name in self.ledger.looks.snapshot(self.spec.task).answers_files]
        found = rows(connect(), f"SELECT key, answer FROM {parquet(files, 'key VARCHAR, answer VARCHAR')}")
        return dict(found)

    def outcomes(self) -> list[tuple[str, str, str | None]]:
        """(key, outcome, reason) of all answers files, in the order of the keys."""
        home = Home(self.folder)
        names = self.ledger.looks.snapshot(self.spec.task).answers_files
        listed = ", ".join(literal(str(home.answers(name))) for name in names)
        return rows(connect(), f"SELECT key, outcome, reason FROM read_parquet([{listed}]) ORDER BY ALL")

    def paid_once(self, prompts: Sequence[str] = PROMPTS) -> None:
        """Every prompt was paid exactly once and its answer is kept."""
        self.server.tick()
        assert self.server.bill == dict.fromkeys(prompts, 1)
        assert self.answers() == {prompt: f"re: {prompt}" for prompt in prompts}


MakeWorld = Callable[..., World]


def copy_home(template: Path, folder: Path) -> Path:
    """A home with a migrated, empty ledger; copying is much faster than migrating."""
    shutil.copytree(template, folder)
    return folder
