"""Numbers under stable labels: Dagster's UI draws a line per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import dagster as dg

from ..resources.answers import MANIFEST_COLUMNS
from ..resources.duck import connect, parquet, rows
from ..resources.home import Home
from ..resources.ledger import Attempt, Ledger, Plan
from .collect import Collected
from .run import MODEL_METADATA
from .task import TaskSpec


def observation(key: dg.AssetKey, plan: Plan, attempts: Sequence[Attempt]) -> dg.AssetObservation:
    """How far a plan's batches are."""
    expiries = [attempt.expires_at for attempt in attempts if attempt.expires_at]
    metadata: dict[str, Any] = {
        "batch_llm/rows_waiting": sum(attempt.rows for attempt in attempts),
        "batch_llm/rows_done": sum(attempt.completed for attempt in attempts),
        "batch_llm/rows_failed": sum(attempt.failed for attempt in attempts),
        "batch_llm/batches": len(attempts),
        "batch_llm/batch_ids": [attempt.batch_id for attempt in attempts if attempt.batch_id],
        "batch_llm/plan": plan.id,
    }
    if expiries:
        metadata["batch_llm/deadline"] = dg.MetadataValue.timestamp(max(expiries))
    partition = plan.partitions[0] if len(plan.partitions) == 1 else None
    return dg.AssetObservation(asset_key=key, metadata=metadata, partition=partition)


def result(ledger: Ledger, plan: Plan, spec: TaskSpec, collected: Collected) -> dict[str, Any]:
    """What a finished table's materialization says."""
    attempts = ledger.attempts.all_of_plan(plan.id)
    mine = [attempt for attempt in attempts if attempt.plan == plan.id]
    files = ledger.attempts.answers([attempt.id for attempt in mine])
    outcomes: Counter[str] = Counter()
    for file in files:
        outcomes.update(file.outcomes)
    failed = sum(count for status, count in collected.statuses.items() if status != "ok")
    columns = [dg.TableColumn(name, type=kind) for name, kind in collected.types.items()]
    shown = {"batch_llm/preview": collected.preview, "batch_llm/errors": collected.reasons}
    return {
        "dagster/row_count": collected.rows,
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "batch_llm/rows_asked": plan.asked,
        "batch_llm/rows_reused": reused(ledger, plan),
        "batch_llm/rows_failed": failed,
        "batch_llm/input_tokens": sum(file.input_tokens for file in files),
        "batch_llm/output_tokens": sum(file.output_tokens for file in files),
        "batch_llm/seconds": round(ledger.clock.now() - plan.created_at, 1),
        "batch_llm/batches": len(attempts),
        "batch_llm/batch_ids": [attempt.batch_id for attempt in attempts if attempt.batch_id],
        MODEL_METADATA: spec.request.model,
        "batch_llm/outcomes": dict(outcomes),
        "batch_llm/plan": plan.id,
        **{name: dg.MetadataValue.md(text) for name, text in shown.items() if text},
    }


def reused(ledger: Ledger, plan: Plan) -> int:
    """How many of a plan's requests had an answer, or were asked by others, when it wanted them."""
    mine = [attempt for attempt in ledger.attempts.all_of_plan(plan.id) if attempt.plan == plan.id]
    return plan.keys - _distinct(Home(ledger.home), mine)


def _distinct(home: Home, attempts: Sequence[Attempt]) -> int:
    """How many requests these attempts hold, each counted once however often it was asked."""
    manifests = parquet([home.manifest(attempt.manifest) for attempt in attempts], MANIFEST_COLUMNS)
    return int(rows(connect(), f"SELECT count(DISTINCT key) FROM {manifests}")[0][0])
