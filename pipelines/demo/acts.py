"""The two acts of the demo, and what has to be true at their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dagster import AssetKey, DagsterInstance, DagsterRun, RunsFilter
from rich.console import Console
from rich.live import Live

from ...assets.run import ORIGIN_TAG, STATE_TAG
from ...resources.clock import Clock
from ...resources.errors import ProtocolError
from ...resources.ledger import Ledger, Plan, PlanState
from .dagster_process import prepare, running
from .graphql import GraphQL
from .screen import batches, epilogue
from .settings import PROVIDER, ROWS, STATE
from .topics import MODULE_GROUPS

_UNPARTITIONED = (
    "stdlib_functions",
    "function_topics",
    "function_traits",
    "function_summaries",
    "function_vectors",
    "question_vectors",
    "topic_report",
)
_LOCAL_SECONDS = 300.0
_PAID_SECONDS = 26 * 3600.0


@dataclass(frozen=True)
class Played:
    """What happened.

    Attributes:
        plans: All plans of this demo.
        let_go: The run that ended while its batches were out; None if nothing had to be asked.
        collected: The sensor's run that brought the answers; None likewise.
        backfill: Final status of the backfill.
    """

    plans: Sequence[Plan]
    let_go: str | None
    collected: str | None
    backfill: str


def play(console: Console, clock: Clock) -> None:
    """Play both acts and print what they made.

    Raises:
        ProtocolError: Something that the demo promises did not happen.
    """
    env = prepare()
    ledger = Ledger(Path(env["BATCH_LLM_HOME"]), url="")
    fresh = not ledger.plans.find()
    console.print(f"[bold]dagster-batch-llm demo[/bold]: {ROWS} functions of Python's standard library, by {PROVIDER}.")
    console.print("Starting Dagster: webserver, daemon, code location …")
    # Dagster's processes race for making their databases, so the instance is opened before they start.
    with DagsterInstance.from_config(env["DAGSTER_HOME"]) as instance, running(clock) as graphql:
        console.print("\n[bold]Act 1.[/bold] Materialize all: the run plans, asks and lets go; the sensor collects.")
        stage = _Stage(console, clock, ledger, instance)
        origin = graphql.materialize(_UNPARTITIONED)
        stage.wait_until(lambda: _is_over(instance, ledger, origin), origin)
        console.print(f"\n[bold]Act 2.[/bold] A backfill of topics_by_group, {len(MODULE_GROUPS)} partitions.")
        backfill = _backfill(graphql, stage)
        played = Played(stage.plans, *_two_runs(instance, origin), backfill)
    _check(instance, played, fresh=fresh)
    epilogue(console, played.plans, let_go=played.let_go, collected=played.collected, ledger=ledger)
    console.print(f"\nSee it in Dagster's UI: [bold]make dev[/bold]. Everything lies in {STATE.name}/.")


class _Stage:
    """Waits while showing the batches."""

    def __init__(self, console: Console, clock: Clock, ledger: Ledger, instance: DagsterInstance) -> None:
        self._console = console
        self._clock = clock
        self._ledger = ledger
        self._instance = instance
        self._waited_for: list[str] = []

    @property
    def plans(self) -> Sequence[Plan]:
        """All plans that were waited for."""
        return [plan for name in self._waited_for for plan in self._ledger.plans.of_origin_or_backfill(name)]

    def wait_until(self, is_over: Callable[[], bool], origin: str) -> None:
        """Wait for an end, which is near on this machine and may be a day away at a provider."""
        self._waited_for.append(origin)
        until = self._clock.monotonic() + (_LOCAL_SECONDS if PROVIDER == "local" else _PAID_SECONDS)
        with Live(batches(self._ledger, origin), console=self._console, refresh_per_second=4) as live:
            while not is_over():
                if self._clock.monotonic() > until:
                    raise ProtocolError(f"The demo is not over in time. Dagster's log is {STATE / 'dagster.log'}.")
                self._clock.sleep(0.3)
                live.update(batches(self._ledger, origin))
            live.update(batches(self._ledger, origin))


def _is_over(instance: DagsterInstance, ledger: Ledger, origin: str) -> bool:
    """Whether the origin, all that followed from it and their plans have ended."""
    run = instance.get_run_by_id(origin)
    if run is None or not run.is_finished:
        return False
    if not run.is_success:
        raise ProtocolError(f"Run {origin} failed. Dagster's log is {STATE / 'dagster.log'}.")
    return all(plan.state is not PlanState.OPEN for plan in ledger.plans.of_origin(origin)) and all(
        r.is_finished for r in _collect_runs(instance, origin)
    )


def _collect_runs(instance: DagsterInstance, origin: str) -> Sequence[DagsterRun]:
    return instance.get_runs(RunsFilter(tags={ORIGIN_TAG: origin}))


def _two_runs(instance: DagsterInstance, origin: str) -> tuple[str | None, str | None]:
    run = instance.get_run_by_id(origin)
    let_go = origin if run is not None and run.tags.get(STATE_TAG) == "waiting" else None
    collected = [run.run_id for run in _collect_runs(instance, origin) if run.is_success]
    return let_go, collected[0] if collected else None


def _backfill(graphql: GraphQL, stage: _Stage) -> str:
    backfill = graphql.backfill("topics_by_group", list(MODULE_GROUPS))
    stage.wait_until(
        lambda: graphql.backfill_status(backfill).startswith(("COMPLETED", "FAILED", "CANCELED")), backfill
    )
    return graphql.backfill_status(backfill)


def _check(instance: DagsterInstance, played: Played, *, fresh: bool) -> None:
    if fresh and (played.let_go is None or played.collected is None):
        raise ProtocolError("On a fresh state one run has to let go and one of the sensor's has to collect.")
    if played.backfill != "COMPLETED_SUCCESS":
        raise ProtocolError(f"The backfill ended as {played.backfill}.")
    for name in (*_UNPARTITIONED, "topics_by_group"):
        if instance.get_latest_materialization_event(AssetKey(name)) is None:
            raise ProtocolError(f"Table {name} was not materialized.")
