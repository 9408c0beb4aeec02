"""Which run comes next: a collect run per origin, with the descendants that need not wait for anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import dagster as dg
from dagster import DagsterInstance, RunsFilter

from ..assets.run import BACKFILL_TAG, MODEL_METADATA, ORIGIN_TAG, PARTITION_TAG, PLAN_TAG, RANGE_TAGS, STATE_TAG
from ..resources.ledger import LEASE_SECONDS, AttemptState, Ledger, Origin, Plan, PlanState, has_come
from ..resources.looking import is_too_slow

GENERATION_TAG = "batch_llm/generation"
_GRACE_SECONDS = 60.0
"""A requested run that nobody has seen after this long was lost with its tick."""
_QUIET_SECONDS = 3600.0
"""A started run that has told Dagster nothing for so long, while its table could come in, is an incident."""
_DEAD_SECONDS = 86400.0
"""And after so long it is taken for dead, as after a power cut; a living step is hardly ever quiet for a day."""
_FAILURES_BEFORE_INCIDENT = 5
_ENDED_BACKFILLS = {"COMPLETED", "COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED"}


@dataclass(frozen=True)
class AssetGraph:
    """The part of the code location's asset graph that continuing needs, by user string.

    Attributes:
        parents: Each asset's parents.
        partitions: Each partitioned asset's partitions.
        llm_tables: The assets that are LLM tables.
    """

    parents: Mapping[str, frozenset[str]]
    partitions: Mapping[str, dg.PartitionsDefinition[str]]
    llm_tables: frozenset[str] = frozenset()

    @classmethod
    def of(cls, repository: dg.RepositoryDefinition) -> AssetGraph:
        """Read a repository."""
        graph = repository.asset_graph
        keys = graph.materializable_asset_keys
        parents = {
            key.to_user_string(): frozenset(parent.to_user_string() for parent in graph.get(key).parent_keys)
            for key in keys
        }
        partitions = {key.to_user_string(): found for key in keys if (found := graph.get(key).partitions_def)}
        llm_tables = frozenset(key.to_user_string() for key in keys if MODEL_METADATA in graph.get(key).metadata)
        return cls(parents, partitions, llm_tables)

    def ancestors(self, asset: str) -> set[str]:
        """All assets upstream of one."""
        found: set[str] = set()
        ahead = [asset]
        while ahead:
            new = self.parents.get(ahead.pop(), frozenset()) - found
            found |= new
            ahead += new
        return found

    def problem(self, plan: Plan, instance: DagsterInstance) -> str | None:
        """Why a run for this plan would be refused by Dagster; None if it wouldn't."""
        if plan.asset not in self.parents:
            return f"asset {plan.asset} is not in this code location any more; was it renamed?"
        definition = self.partitions.get(plan.asset)
        if bool(plan.partitions) != (definition is not None):
            return f"asset {plan.asset} was planned {'with' if plan.partitions else 'without'} partitions"
        if definition is not None:
            gone = set(plan.partitions) - set(definition.get_partition_keys(dynamic_partitions_store=instance))
            if gone:
                return f"asset {plan.asset} has no partition {min(gone)!r} any more"
        return None


def collect_requests(context: dg.SensorEvaluationContext, ledger: Ledger, plans: Sequence[Plan]) -> list[dg.RunRequest]:
    """At most one run request per origin, each certain to be accepted."""
    if context.repository_def is None:
        return []
    graph = AssetGraph.of(context.repository_def)
    requests: list[dg.RunRequest] = []
    for name, group in groupby(sorted(plans, key=lambda plan: (plan.origin, plan.seq)), key=lambda plan: plan.origin):
        try:
            movable = _movable(context, ledger, graph, list(group))
            if not movable or _is_under_way(context.instance, ledger, name, movable):
                continue
            request = _request(context.instance, ledger, graph, ledger.plans.origin(name), movable)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one origin, the others go on
            context.log.error(f"The tables of run {name} are set aside in this tick: {error!r}")
            ledger.attempts.incident("tick", name, f"The sensor can't look after run {name}: {error!r}.")
            continue
        if request is not None:
            requests.append(request)
    return requests


def _is_under_way(instance: DagsterInstance, ledger: Ledger, origin: str, movable: Sequence[Plan]) -> bool:
    """Whether the origin run itself goes on: until it has ended, a parent of a descendant may still be at work in it.

    A backfill's keeper goes on for as long as others wait, so a backfill's runs are not waited for.
    """
    run = instance.get_run_by_id(origin)
    if run is None or any(plan.backfill for plan in movable):
        return False
    return not run.is_finished and not _is_silent(instance, ledger, run)


def _is_silent(instance: DagsterInstance, ledger: Ledger, run: dg.DagsterRun) -> bool:
    """Whether a run has started, hasn't ended, and its process must be gone.

    Without run monitoring, Dagster never ends a run whose machine has lost its power. If the run lives after all, what
    it still makes may come after its descendants; nothing is paid twice.
    """
    status = dg.DagsterRunStatus
    if run.status not in {status.STARTING, status.STARTED, status.CANCELING}:
        return False
    last = instance.get_records_for_run(run.run_id, limit=1, ascending=False).records
    silence = ledger.clock.now() - last[0].event_log_entry.timestamp if last else 0.0
    if silence >= _QUIET_SECONDS:
        ledger.attempts.incident(
            "silent run",
            run.run_id,
            f"Run {run.run_id} has started, and has told Dagster nothing for an hour. A table waits for its end.",
        )
    return silence >= _DEAD_SECONDS


def _movable(
    context: dg.SensorEvaluationContext, ledger: Ledger, graph: AssetGraph, plans: Sequence[Plan]
) -> list[Plan]:
    found: list[Plan] = []
    for plan in plans:
        if not can_move(ledger, plan) and not _lacks_keeper(context.instance, ledger, plan):
            continue
        problem = graph.problem(plan, context.instance)
        if problem is None:
            found.append(plan)
        elif ledger.attempts.incident(
            "unreachable plan", plan.id, f"Plan {plan.id} is set aside: {problem}. Its paid answers are kept for it."
        ):
            context.log.error(f"Plan {plan.id} is set aside: {problem}.")
    return found


def can_move(ledger: Ledger, plan: Plan) -> bool:
    """Whether a run could do something for a plan: nobody holds it, and it doesn't only wait for a provider."""
    now = ledger.clock.now()
    if ledger.plans.is_held(plan):
        return False
    attempts = ledger.attempts.open_of_plan(plan.id)
    due = [a for a in attempts if has_come(a.due, now)]
    ended = [a for a in due if a.state is AttemptState.SUBMITTED and a.ended_at is not None]
    if any(is_too_slow(a, now) for a in attempts):
        return True  # a run has the time that ticks don't have
    if plan.state is not PlanState.OPEN:
        return bool(ended)  # it will not be written, but what is paid is fetched
    sendable = [a for a in due if a.state is AttemptState.PLANNED and has_come(a.lease_until, now, LEASE_SECONDS)]
    return bool(sendable) or len(ended) == len(attempts)


def _lacks_keeper(instance: DagsterInstance, ledger: Ledger, plan: Plan) -> bool:
    """Whether a plan's backfill would be called failed, because the run that kept it is gone."""
    return (
        plan.state is PlanState.OPEN
        and not ledger.plans.is_held(plan)
        and plan.backfill is not None
        and not ledger.plans.is_kept(plan.backfill)
        and _is_running(instance, plan.backfill)
    )


def _request(
    instance: DagsterInstance, ledger: Ledger, graph: AssetGraph, origin: Origin, movable: Sequence[Plan]
) -> dg.RunRequest | None:
    """The origin's next collect run, if it is time for one and nobody else has just requested it."""
    failures = _failures(instance, ledger, origin, movable)
    if failures is None:
        return None
    due = ledger.clock.now() + _GRACE_SECONDS
    if not ledger.plans.next_generation(origin, failures=failures, due=due):
        return None
    generation = origin.generation + 1
    tags = {name: value for name, value in origin.tags.items() if name in RANGE_TAGS}
    backfill = origin.tags.get(BACKFILL_TAG)
    if backfill and _is_running(instance, backfill):
        tags[BACKFILL_TAG] = backfill
    tags |= {ORIGIN_TAG: origin.id, GENERATION_TAG: str(generation), PLAN_TAG: ",".join(plan.id for plan in movable)}
    return dg.RunRequest(
        run_key=f"{origin.id}/{generation}",
        asset_selection=[dg.AssetKey.from_user_string(name) for name in selection(ledger, graph, origin, movable)],
        partition_key=origin.tags.get(PARTITION_TAG),
        tags=tags,
    )


def _failures(instance: DagsterInstance, ledger: Ledger, origin: Origin, movable: Sequence[Plan]) -> int | None:
    """How many collect runs in a row got nowhere; None if it is not time for another one."""
    if origin.generation == 0:
        return 0
    now = ledger.clock.now()
    tags = {ORIGIN_TAG: origin.id, GENERATION_TAG: str(origin.generation)}
    runs = instance.get_runs(RunsFilter(tags=tags), limit=1)
    if not runs:
        return origin.failures + 1 if has_come(origin.due, now, _GRACE_SECONDS) else None
    last = runs[0]
    if not last.is_finished and not _is_silent(instance, ledger, last):
        # One that has said that it lets go stays until its successor is there.
        return 0 if last.tags.get(STATE_TAG) == "waiting" else None
    if last.status is dg.DagsterRunStatus.SUCCESS and last.tags.get(PLAN_TAG) != ",".join(p.id for p in movable):
        return 0
    failures = origin.failures + 1
    if failures >= _FAILURES_BEFORE_INCIDENT:
        message = f"{failures} collect runs of run {origin.id} in a row got nowhere; see run {last.run_id}."
        ledger.attempts.incident("collect runs fail", origin.id, message)
    waited = now - (origin.due - _GRACE_SECONDS)
    return None if 0 <= waited < min(5.0 * 2**failures, 3600.0) else failures  # before 0: the clock was set back


def selection(ledger: Ledger, graph: AssetGraph, origin: Origin, movable: Sequence[Plan]) -> list[str]:
    """The assets of a collect run: the plans' own, and what its origin had selected downstream of them.

    A descendant is left to a later run while another LLM table above it still waits, so the last one to arrive
    takes it along, and it runs once. A table that the origin has not planned yet waits too, unless it is this run that
    will plan it.
    """
    own = {plan.asset for plan in movable}
    if all(plan.state is not PlanState.OPEN for plan in movable):
        return sorted(own)
    done = {PlanState.DONE, PlanState.SUPERSEDED}
    plans = ledger.plans.of_origin(origin.id)
    waiting = {plan.asset for plan in plans if plan.state not in done and plan.asset not in own}
    unplanned = graph.llm_tables & set(origin.selection) - {plan.asset for plan in plans}
    waiting |= {asset for asset in unplanned if not graph.ancestors(asset) & own}
    wanted = set(origin.selection) & set(graph.parents) - own - waiting
    for asset in sorted(wanted):
        above = graph.ancestors(asset) & set(origin.selection)
        if above & waiting or not above & own:
            wanted.discard(asset)
    return sorted(own | wanted)


def _is_running(instance: DagsterInstance, backfill: str) -> bool:
    found = instance.get_backfill(backfill)
    return found is not None and found.status.value not in _ENDED_BACKFILLS
