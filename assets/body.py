"""The body of every LLM asset: a run converges to the table, whoever started it and however often."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg

from ..resources.duck import connect
from ..resources.errors import (
    BatchLLMError,
    InputError,
    MissingSecretError,
    RefusedError,
)
from ..resources.home import Home
from ..resources.ledger import Ledger, Origin, Plan, PlanId, PlanState
from ..resources.machine import BatchMachine
from ..resources.providers.resource import BatchResource
from ..resources.request import MAX_TRIES
from ..resources.table_store import TableStore
from .convergence import Convergence, Events
from .plan import write_plan
from .run import RunFacts
from .source import Source
from .task import TaskSpec


@dataclass(frozen=True)
class Declaration:
    """An LLM table as it was declared: its task, where its rows come from, and the resources it names."""

    spec: TaskSpec
    source: Source
    llm: str
    tables: str
    max_attempts: int = MAX_TRIES

    @property
    def version(self) -> str:
        """Changes with the task and with what is declared of the source: 16 hexadecimal characters."""
        return hashlib.sha256(f"{self.spec.version} {self.source.text}".encode()).hexdigest()[:16]


def converge(context: dg.AssetExecutionContext, declared: Declaration) -> Events:
    """Plan or pick up the plan, ask what is missing, and either bring the table or let go."""
    try:
        run = RunFacts.of(context)
        ledger = Ledger()
        tables = _tables(context, declared)
        stored = _stored_plan(ledger, context, run)
        llm = stored.llm if stored else declared.llm
        with contextlib.ExitStack() as stack:
            resource = _resource(context, llm, declared, stack)
            machine = BatchMachine(ledger, {llm: resource.provider()}, run.run_id)
            stack.callback(machine.close)
            plan = stored or _new_plan(
                context, declared=declared, resource=resource, machine=machine, tables=tables, run=run
            )
            yield from Convergence(context, ledger, machine, tables, run, plan).go()
    except BatchLLMError as error:
        # A mistake stays one however often it is tried; a lock or a lost connection may pass.
        final = isinstance(error, InputError | MissingSecretError | RefusedError)
        asset = context.asset_key.to_user_string()
        raise dg.Failure(f"{asset}: {error.message}", allow_retries=not final) from error


def _tables(context: dg.AssetExecutionContext, declared: Declaration) -> TableStore:
    found: object = getattr(context.resources, declared.tables)
    if not isinstance(found, TableStore):
        raise InputError(
            f"resource {declared.tables!r} is a {type(found).__name__}, where LLM tables can't be written. Give that "
            "key to a DuckDBTables or ParquetTables, or name another one with tables='…'."
        )
    return found


def _resource(
    context: dg.AssetExecutionContext, llm: str, declared: Declaration, stack: contextlib.ExitStack
) -> BatchResource:
    """The provider's resource; a stored plan may have been made when the asset still named another one."""
    if llm == declared.llm:
        return getattr(context.resources, llm)
    known: Mapping[str, dg.ResourceDefinition] = context.repository_def.get_top_level_resources()
    if llm not in known:
        raise InputError(f"the plan was made with resource {llm!r}, which is not declared any more. Declare it again.")
    built = stack.enter_context(dg.build_resources({llm: known[llm]}, instance=context.instance))
    return getattr(built, llm)


def _stored_plan(ledger: Ledger, context: dg.AssetExecutionContext, run: RunFacts) -> Plan | None:
    """The plan that a collect run was sent for: it never plans again."""
    asset = context.asset_key.to_user_string()
    plans = [ledger.plans.get(PlanId(name)) for name in run.plans]
    return next((plan for plan in plans if plan.asset == asset), None)


def _new_plan(
    context: dg.AssetExecutionContext,
    *,
    declared: Declaration,
    resource: BatchResource,
    machine: BatchMachine,
    tables: TableStore,
    run: RunFacts,
) -> Plan:
    ledger = machine.ledger
    resource.check_ready()
    if declared.spec.partition_expr and not run.partitions:
        raise InputError("the table is partitioned; choose the partitions to materialize.")
    asked = declared.spec.request
    spec = replace(declared.spec, request=replace(asked, model=resource.answering(asked.model)))
    plan = PlanId(ledger.clock.token())
    inputs = _input_versions(context)
    engine = connect()
    with tempfile.TemporaryDirectory(prefix="batch_llm_") as scratch:
        declared.source.bind(engine, context=context, tables=tables, scratch=Path(scratch))
        profile = machine.provider(declared.llm).profile
        home = Home(ledger.home)
        sizes = write_plan(engine, spec=spec, profile=profile, home=home, plan=plan, partitions=run.partitions)
        tables.check(context.asset_key, spec.column_names, run.partitions)
    ledger.looks.declare(spec.request)
    return ledger.plans.open(
        Plan(
            id=plan,
            state=PlanState.OPEN,
            asset=context.asset_key.to_user_string(),
            partitions=run.partitions,
            task=spec.request.task,
            llm=declared.llm,
            spec=spec.to_json(),
            code_version=context.assets_def.code_versions_by_key[context.asset_key] or declared.version,
            inputs=inputs,
            origin=run.origin,
            run=run.run_id,
            location=run.location,
            backfill=run.backfill,
            rows=sizes.rows,
            keys=sizes.keys,
            created_at=ledger.clock.now(),
            max_attempts=declared.max_attempts,
        ),
        Origin(run.origin, run.selection, run.carried),
    )


def _input_versions(context: dg.AssetExecutionContext) -> dict[str, str]:
    """The upstream versions that this plan reads, as the tags with which Dagster stamps a materialization."""
    tags: dict[str, str] = {}
    for key in context.job_def.asset_layer.get(context.asset_key).parent_keys:
        record = context.instance.get_latest_data_version_record(key)
        version = (record.event_log_entry.tags or {}).get("dagster/data_version") if record else None
        tags[f"dagster/input_data_version/{key.to_user_string()}"] = version or "INITIAL"
        tags[f"dagster/input_event_pointer/{key.to_user_string()}"] = str(record.storage_id) if record else "NULL"
    return tags
