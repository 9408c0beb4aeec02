"""The sensor: it looks at open batches and sends a run wherever a plan can move on."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import dagster as dg

from ..assets.report import observation
from ..assets.run import SENSOR_NAME
from ..assets.stuck import stuck_event
from ..resources.errors import ProviderError
from ..resources.late import HORIZON_SECONDS
from ..resources.ledger import Attempt, AttemptState, Ledger, Plan, PlanState
from ..resources.machine import BatchMachine
from ..resources.operations.advice import ADVICE
from ..resources.operations.waits import WINDOW_SECONDS, expiring, new_troubles, overdue, window_seconds
from ..resources.providers.http import hurried
from ..resources.providers.profile import Profile
from .continuation import collect_requests
from .providers import providers_of

LOOK_SECONDS = 30.0
"""A tick ends well before Dagster's limit of 60 s; what it didn't reach is due first at the next one."""

_LATE_SECONDS = 10.0

_SWEEP_SECONDS = 600.0
_UNSETTLED = (AttemptState.CREATING, AttemptState.AMBIGUOUS)


def batch_llm_sensor(*, minimum_interval_seconds: int = 15) -> dg.SensorDefinition:
    """The sensor that brings every LLM table of a code location home; declared running.

    Args:
        minimum_interval_seconds: Seconds between two ticks; each batch has its own, longer back-off.
    """

    # Dagster refuses a tick in which any request names an asset outside of the sensor's selection. As a `target` the
    # selection would become one job, and then all assets of a code location had to be partitioned alike.
    @dg.sensor(  # pyright: ignore[reportUnknownMemberType]
        name=SENSOR_NAME,
        asset_selection=dg.AssetSelection.all(),
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Polls batches that are out, and starts a run when their answers can be collected.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return tick(context)

    return sensor


def tick(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """One look at everything that is open in this code location."""
    origin = context.code_location_origin
    if origin is None:
        return dg.SkipReason("This sensor runs in a code location that a workspace has loaded.")
    ledger = Ledger()
    plans = _mine(context, ledger, origin.location_name)
    seen, profiles = _look_at_providers(context, ledger, plans)
    cursor = _sweep(context, ledger, origin.location_name)
    if not plans:
        return dg.SensorResult(skip_reason="No LLM table is waiting.", cursor=cursor)
    requests = collect_requests(context, ledger, [_as_it_is_now(context, ledger, plan) for plan in plans])
    out = [(plan, ledger.attempts.open_of_plan(plan.id)) for plan in plans]
    for said in _expiring(ledger, out, profiles):
        context.log.warning(said)
    return dg.SensorResult(
        run_requests=requests,
        asset_events=[*_progress(out, seen), *_stuck(ledger, out, profiles)],
        skip_reason=None if requests else f"{len(plans)} plan(s) wait for their batches.",
        cursor=cursor,
    )


def _mine(context: dg.SensorEvaluationContext, ledger: Ledger, location: str) -> list[Plan]:
    """This location's plans that have something out; another instance may share the ledger and has its own."""
    return [plan for plan in ledger.plans.with_work(location) if context.instance.has_run(plan.run)]


def _look_at_providers(
    context: dg.SensorEvaluationContext, ledger: Ledger, plans: Sequence[Plan]
) -> tuple[list[Attempt], Mapping[str, Profile]]:
    """What was seen at the providers, and the facts about each."""
    providers = providers_of(context, {plan.llm for plan in plans})
    seen: list[Attempt] = []
    with contextlib.closing(BatchMachine(ledger, providers, SENSOR_NAME)) as machine:
        for llm, until in _in_turn(ledger, providers, LOOK_SECONDS):
            seen += take_turn(machine, llm, until, context.log.warning)
    return seen, {llm: provider.profile for llm, provider in providers.items()}


def take_turn(machine: BatchMachine, llm: str, until: float, warn: Callable[[str], object]) -> list[Attempt]:
    """One provider's turn in a tick, which ends at `until` (monotonic): its batches, then creates without a reply.

    Gives the attempts whose batches were looked at.
    """
    ledger = machine.ledger
    seen: list[Attempt] = []
    try:
        with hurried(until):
            due = ledger.attempts.due([AttemptState.SUBMITTED], llm)
            unsettled = ledger.attempts.due(_UNSETTLED, llm)
            now = ledger.clock.monotonic()
            seen = machine.poll(llm, attempts=due, until=(now + until) / 2 if unsettled else until)
            if trouble := new_troubles([a.message for a in seen], [a.message for a in due]):
                warn(trouble)
            for attempt in unsettled:
                if ledger.clock.monotonic() < until:
                    machine.reconcile(attempt.id)
    except ProviderError as error:
        warn(error.message)
    return seen


def _in_turn(ledger: Ledger, llms: Collection[str], seconds: float) -> Iterator[tuple[str, float]]:
    """Each resource key and until when (monotonic) it may take: none can use up what is left for the others.

    Not always the same is the first one: a server that sends a byte now and then takes longer than it may.
    """
    end = ledger.clock.monotonic() + seconds
    for left, llm in zip(range(len(llms), 0, -1), random.sample(sorted(llms), len(llms)), strict=True):
        now = ledger.clock.monotonic()
        yield llm, now + (end - now) / left


def _sweep(context: dg.SensorEvaluationContext, ledger: Ledger, location: str) -> str:
    """Look for late arrivals every ten minutes, also when no table waits; gives the cursor: when, by resource."""
    last: dict[str, float] = json.loads(context.cursor or "{}")
    now = ledger.clock.now()
    used = ledger.attempts.used_since(now - HORIZON_SECONDS, location)
    due = {llm for llm in used if not 0 <= now - last.get(llm, 0.0) < _SWEEP_SECONDS}
    with contextlib.closing(BatchMachine(ledger, providers_of(context, due, late=True), SENSOR_NAME)) as machine:
        for llm, until in _in_turn(ledger, due, _LATE_SECONDS):
            last[llm] = now
            try:
                with hurried(until):
                    found = machine.sweep(llm)
            except ProviderError as error:
                context.log.warning(error.message)
                continue
            if found:
                context.log.warning(f"{found} batch(es) of {llm!r} turned up late; see dagster-batch-llm incidents.")
    return json.dumps({llm: last[llm] for llm in sorted(used & last.keys())})


def _was_cancelled(context: dg.SensorEvaluationContext, plan: Plan) -> bool:
    """Whether somebody cancelled the planning run or its backfill after the run had let go or died."""
    run = context.instance.get_run_by_id(plan.run)
    if run is not None and run.status is dg.DagsterRunStatus.CANCELED:
        return True
    backfill = context.instance.get_backfill(plan.backfill) if plan.backfill else None
    return backfill is not None and backfill.status.value in {"CANCELED", "CANCELING"}


def _as_it_is_now(context: dg.SensorEvaluationContext, ledger: Ledger, plan: Plan) -> Plan:
    """A plan, ended if its run was cancelled; what an ended one hasn't sent is given up."""
    if plan.state is PlanState.OPEN and _was_cancelled(context, plan):
        ledger.plans.close(plan.id, PlanState.CANCELLED, "its run or backfill was cancelled")
    now = ledger.plans.get(plan.id)
    if now.state is not PlanState.OPEN:
        ledger.attempts.void_unsent(plan.id)  # also where whoever ended it died before
    return now


def _stuck(
    ledger: Ledger, out: Sequence[tuple[Plan, Sequence[Attempt]]], profiles: Mapping[str, Profile]
) -> list[dg.AssetCheckEvaluation]:
    """A failed check per table with a batch past its window; once per batch, for all the tables that wait for it."""
    events: list[dg.AssetCheckEvaluation] = []
    told: set[str] = set()
    for plan, attempts in out:
        window = window_seconds(profiles[plan.llm].windows) if plan.llm in profiles else WINDOW_SECONDS
        late = overdue(attempts, ledger.clock.now(), window)
        messages = {attempt.id: _stuck_message(attempt) for attempt in late}
        told |= {a.id for a in late if ledger.attempts.incident("stuck batch", str(a.batch_id), messages[a.id])}
        new = [messages[attempt.id] for attempt in late if attempt.id in told]
        if new and plan.state is PlanState.OPEN:
            events.append(stuck_event(dg.AssetKey.from_user_string(plan.asset), late, " ".join(new)))
    return events


def _expiring(
    ledger: Ledger, out: Sequence[tuple[Plan, Sequence[Attempt]]], profiles: Mapping[str, Profile]
) -> Iterator[str]:
    """What to say of batches whose results are about to be deleted at the provider; once per batch."""
    for plan, attempts in out:
        keeps = profiles[plan.llm].keeps_seconds if plan.llm in profiles else None
        for attempt in expiring(attempts, ledger.clock.now(), keeps):
            message = (
                f"The results of batch {attempt.batch_id} of resource {attempt.llm!r} are kept for "
                f"{(keeps or 0.0) / 86_400:g} days from its creation, and haven't been fetched."
            )
            if ledger.attempts.incident("results expire", str(attempt.batch_id), message):
                yield f"{message} {ADVICE['results expire']}"


def _stuck_message(attempt: Attempt) -> str:
    return (
        f"Batch {attempt.batch_id} of resource {attempt.llm!r} should have ended by now and hasn't; "
        f"{attempt.completed} of its {attempt.rows} requests are done. {ADVICE['stuck batch']}"
    )


def _progress(out: Sequence[tuple[Plan, Sequence[Attempt]]], seen: Sequence[Attempt]) -> list[dg.AssetObservation]:
    """An observation per plan whose batches were looked at: the UI draws a chart of them."""
    looked_at = {attempt.id for attempt in seen}
    events: list[dg.AssetObservation] = []
    for plan, attempts in out:
        if plan.state is PlanState.OPEN and any(attempt.id in looked_at for attempt in attempts):
            events.append(observation(dg.AssetKey.from_user_string(plan.asset), plan, attempts))
    return events
