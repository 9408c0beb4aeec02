"""One run's work on one plan: ask what is missing, then bring the table, wait for it, or let go."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster import DagsterExecutionInterruptedError

from ..resources.errors import BusyError, InputError, ProviderError, RefusedError, StaleFenceError, StorageError
from ..resources.ledger import Attempt, AttemptState, Ledger, Plan, PlanState
from ..resources.machine import BatchMachine
from ..resources.operations.waits import new_troubles
from ..resources.table_store import TableStore
from .collect import write_table
from .look import look, unfinished
from .report import by_partition, observation, result
from .run import STATE_TAG, RunFacts, Waiting, leaves_at, why_no_sensor
from .task import TaskSpec

_STEP_SECONDS = 1.0
_KEEPER_SECONDS = 3.0

Events = Generator[dg.MaterializeResult[Any] | dg.AssetCheckResult]


@dataclass
class Convergence:
    """One run's work on one plan."""

    _context: dg.AssetExecutionContext
    _ledger: Ledger
    _machine: BatchMachine
    _tables: TableStore
    _run: RunFacts
    _plan: Plan
    _keeps: bool = False
    _told: set[str | None] = field(default_factory=set[str | None])

    def go(self) -> Events:
        try:
            if not self._ledger.plans.hold(self._plan.id, self._run.run_id):
                self._context.log.info("Another run is working on this plan at the moment; this one leaves it alone.")
                return
            if self._plan.state is PlanState.OPEN:
                yield from self._bring()
            else:
                # The plan has ended, but answers that are paid are fetched and kept.
                self._ledger.attempts.void_unsent(self._plan.id)
                self._advance()
            if self._keeps:
                self._stay_for_backfill()
        except DagsterExecutionInterruptedError:
            self._cancel()
            raise
        except (InputError, RefusedError) as error:
            self._give_up(PlanState.FAILED, error.message)
            raise
        finally:
            self._ledger.plans.let_go(self._plan.id, self._run.run_id)

    def _bring(self) -> Events:
        waiting: Waiting | None = None
        out: set[str] | None = None
        while self._is_wanted():
            self._ledger.plans.hold(self._plan.id, self._run.run_id)
            self._advance()
            if self._out() != out or not out:  # only what has come back can leave something to ask or finish the table
                look(self._ledger, self._machine.provider(self._plan.llm), self._plan, self._run.run_id)
                out = self._out()  # before anything else can come back, which wants a look of its own
                self._advance()
                if unfinished(self._ledger, self._plan) == 0:
                    if self._is_wanted():
                        yield from self._write()
                    return
            if waiting is None:
                waiting = self._how_to_wait()
                self._announce(waiting)
            if waiting is Waiting.DETACH or (self._keeps and self._handed_over()):
                return
            self._ledger.clock.sleep(_STEP_SECONDS)
            self._machine.poll(self._plan.llm)

    def _out(self) -> set[str]:
        """The attempts that the plan waits for; what goes wrong with them is logged, once per change."""
        attempts = self._ledger.attempts.open_of_plan(self._plan.id)
        messages = [attempt.message for attempt in attempts]
        if trouble := new_troubles(messages, self._told):
            self._context.log.warning(trouble)
        self._told.update(messages)
        return {attempt.id for attempt in attempts}

    def _is_wanted(self) -> bool:
        """Whether nobody has cancelled the plan meanwhile, such as the sensor for its backfill."""
        return self._ledger.plans.get(self._plan.id).state is PlanState.OPEN

    def _advance(self) -> None:
        """Take every step that can be taken now."""
        for attempt in self._looked_at_longer():
            if not self._machine.knows(attempt):
                self._context.log.warning(
                    f"Batch {attempt.batch_id or attempt.id} belongs to {attempt.account}, which resource "
                    f"{attempt.llm!r} does not point to any more. Point it there again until the batch is fetched."
                )
                self._no_longer_slow(attempt)
                continue
            try:
                self._machine.step(attempt)
            except RefusedError:
                raise
            except ProviderError as error:
                if attempt.state is AttemptState.PLANNED:
                    self._stop_at_once(error)
                self._told.add(error.message)
                self._context.log.warning(f"{error.message} It will be tried again.")

    def _looked_at_longer(self) -> list[Attempt]:
        """What the plan waits for, after a look at batches for which a sensor's tick has too little time."""
        attempts = self._ledger.attempts.open_of_plan(self._plan.id)
        slow = [a for a in attempts if a.slow_since is not None and a.state is AttemptState.SUBMITTED]
        if not slow:
            return attempts
        self._machine.poll(self._plan.llm, attempts=slow)
        return self._ledger.attempts.open_of_plan(self._plan.id)

    def _no_longer_slow(self, attempt: Attempt) -> None:
        """No run is sent for a batch that nobody can look at."""
        if attempt.slow_since is not None:
            with contextlib.suppress(StaleFenceError):
                self._ledger.attempts.note(attempt, slow_since=None)

    def _stop_at_once(self, error: ProviderError) -> None:
        """A server that can't take a run's very first file is a mistake in the set-up, not a passing trouble."""
        sent = any(a.send_no for a in self._ledger.attempts.all_of_plan(self._plan.id))
        if not sent and not self._run.plans and not isinstance(error, BusyError):
            self._give_up(PlanState.FAILED, error.message)
            raise error

    def _write(self) -> Events:
        plan = self._plan
        if self._ledger.plans.is_outdated(plan):
            message = "A later plan of this table is done, so this one's answers are kept and its table is not written."
            self._context.log.info(message)
            self._ledger.plans.close(plan.id, PlanState.SUPERSEDED, message)
            return
        spec = TaskSpec.from_json(plan.spec)
        collected = write_table(self._ledger, self._tables, self._context.asset_key, plan, spec)
        metadata = result(self._ledger, self._ledger.plans.get(plan.id), spec, collected)
        metadata |= self._tables.metadata(self._context.asset_key)
        for partition, numbers in by_partition(self._ledger, plan, collected).items():
            self._context.add_asset_metadata(numbers, partition_key=partition)
        if failed := metadata["batch_llm/rows_failed"]:
            self._context.log.warning(f"{failed} of {collected.rows} rows have no answer:\n{collected.reasons}")
        yield dg.MaterializeResult(metadata=metadata, tags={"dagster/code_version": plan.code_version, **plan.inputs})
        self._ledger.plans.close(plan.id, PlanState.DONE)
        for left in self._ledger.plans.left_behind(plan):
            self._ledger.plans.close(left.id, PlanState.SUPERSEDED, f"plan {plan.id} of the same table is done")
            self._ledger.attempts.void_unsent(left.id)

    def _how_to_wait(self) -> Waiting:
        missing = why_no_sensor(self._context.instance, self._context.run)
        if missing is not None:
            # Without a code location, as in a notebook or a test, there is nothing to be mended.
            if self._run.location is not None:
                self._context.log.warning(f"{missing} Until then each run waits for its batches and holds its worker.")
            return Waiting.HOLD
        if self._run.backfill is None:
            return Waiting.DETACH
        self._keeps = self._ledger.plans.keep(self._run.backfill, self._run.run_id)
        return Waiting.KEEP if self._keeps else Waiting.DETACH

    def _announce(self, waiting: Waiting) -> None:
        attempts = self._ledger.attempts.open_of_plan(self._plan.id)
        self._context.log_event(observation(self._context.asset_key, self._plan, attempts))
        ids = ", ".join(attempt.batch_id or f"{attempt.state} {attempt.id}" for attempt in attempts)
        self._context.log.info(f"Waiting for {len(attempts)} batch(es), {ids}: {waiting.value}.")
        tags: Mapping[str, str] = {STATE_TAG: "waiting"}
        if waiting is Waiting.DETACH:
            self._context.instance.add_run_tags(self._run.run_id, dict(tags))

    def _stay_for_backfill(self) -> None:
        """Stay until no partition of the backfill waits any more; then leave in one step with that check."""
        backfill = self._run.backfill or ""
        while not self._ledger.plans.stop_keeping(backfill, self._run.run_id) and not self._handed_over():
            self._ledger.plans.keep(backfill, self._run.run_id)
            self._ledger.clock.sleep(_KEEPER_SECONDS)

    def _handed_over(self) -> bool:
        """Before Dagster ends a keeper for its length, it makes room and stays until its successor is there."""
        context, plans, clock = self._context, self._ledger.plans, self._ledger.clock
        leave = leaves_at(context.instance, context.run)
        if self._run.backfill is None or leave is None or clock.now() < leave:
            return False
        context.instance.add_run_tags(self._run.run_id, {STATE_TAG: "waiting"})
        plans.let_go(self._plan.id, self._run.run_id)
        plans.resign(self._run.backfill, self._run.run_id)
        context.log.info("This run is about to reach its maximum length; another one takes its place.")
        while not plans.is_kept(self._run.backfill):
            clock.sleep(_KEEPER_SECONDS)
        self._keeps = False
        return True

    def _give_up(self, state: PlanState, message: str) -> None:
        """End the plan; nothing unsent of it will ever be paid for."""
        if self._ledger.plans.close(self._plan.id, state, message):
            unsent = self._ledger.attempts.void_unsent(self._plan.id)
            self._context.log.info(f"{unsent} request(s) that were not sent yet have been given up.")

    def _cancel(self) -> None:
        if self._plan.run != self._run.run_id:
            return  # only a collect run was cancelled: another one follows
        with contextlib.suppress(StorageError):
            self._give_up(PlanState.CANCELLED, f"run {self._run.run_id} was cancelled")
