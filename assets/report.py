"""Numbers under stable labels: Dagster's UI draws a line per label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from ..resources.answers import COLUMNS, MANIFEST_COLUMNS
from ..resources.duck import connect, parquet, rows
from ..resources.home import Home
from ..resources.ledger import AnswersFile, Attempt, Ledger, Plan
from .collect import Collected
from .run import MODEL_METADATA
from .task import TaskSpec

_PER_PARTITION = (
    "dagster/row_count",
    "batch_llm/rows_failed",
    "batch_llm/rows_asked",
    "batch_llm/rows_reused",
    "batch_llm/input_tokens",
    "batch_llm/output_tokens",
)


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
    files = ledger.attempts.answers([attempt.id for attempt in _own(ledger, plan)])
    outcomes: Counter[str] = Counter()
    for file in files:
        outcomes.update(file.outcomes)
    columns = [dg.TableColumn(name, kind, spec.described(name)) for name, kind in collected.types.items()]
    shown = {"batch_llm/preview": collected.preview, "batch_llm/errors": collected.reasons}
    return {
        "dagster/row_count": collected.rows,
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "batch_llm/rows_asked": plan.asked,
        "batch_llm/rows_reused": reused(ledger, plan),
        "batch_llm/rows_failed": sum(map(_failed, collected.statuses.values())),
        **tokens(files),
        "batch_llm/seconds": round(ledger.clock.now() - plan.created_at, 1),
        "batch_llm/batches": len(attempts),
        "batch_llm/batch_ids": [attempt.batch_id for attempt in attempts if attempt.batch_id],
        MODEL_METADATA: spec.request.model,
        "batch_llm/outcomes": dict(outcomes),
        "batch_llm/plan": plan.id,
        **{name: dg.MetadataValue.md(text) for name, text in shown.items() if text},
    }


def tokens(files: Sequence[AnswersFile]) -> dict[str, int]:
    """What was paid, as far as the provider said; a sum of nothing but unknown numbers is left out."""
    known = {
        "batch_llm/input_tokens": sum(file.input_tokens for file in files),
        "batch_llm/output_tokens": sum(file.output_tokens for file in files),
    }
    unmetered = sum(file.unmetered for file in files)
    if not unmetered:
        return known
    return {name: count for name, count in known.items() if count} | {"batch_llm/rows_without_tokens": unmetered}


def by_partition(ledger: Ledger, plan: Plan, collected: Collected) -> dict[str, dict[str, int]]:
    """The numbers of each partition, if the run brings several: Dagster would show the run's totals at each of them.

    A request that several partitions share counts at the first of them, so that they add up to the totals.
    """
    if len(plan.partitions) < 2:
        return {}
    home, own = Home(ledger.home), _own(ledger, plan)
    manifests = [home.manifest(attempt.manifest) for attempt in own]
    answers = [home.answers(file.file) for file in ledger.attempts.answers([attempt.id for attempt in own])]
    counted = rows(
        connect(),
        f"""
        WITH request AS (
            SELECT __key AS key, min(__partition) AS partition FROM {parquet([home.rows(plan.id)], "")}
            WHERE __key IS NOT NULL GROUP BY ALL
        ), asked AS (
            SELECT key, count(*) AS times FROM {parquet(manifests, MANIFEST_COLUMNS)} GROUP BY ALL
        ), paid AS (
            SELECT key, sum(input_tokens) AS input, sum(output_tokens) AS output
            FROM {parquet(answers, COLUMNS)} GROUP BY ALL
        )
        SELECT partition, coalesce(sum(times), 0)::BIGINT, (count(*) - count(times))::BIGINT,
            coalesce(sum(input), 0)::BIGINT, coalesce(sum(output), 0)::BIGINT
        FROM request LEFT JOIN asked USING (key) LEFT JOIN paid USING (key) GROUP BY ALL
        """,
    )
    requests = {partition: numbers for partition, *numbers in counted}
    found: dict[str, dict[str, int]] = {}
    for partition in plan.partitions:
        statuses = collected.statuses.get(partition, {})
        numbers = [sum(statuses.values()), _failed(statuses), *requests.get(partition, [0, 0, 0, 0])]
        found[partition] = dict(zip(_PER_PARTITION, numbers, strict=True))
    return found


def reused(ledger: Ledger, plan: Plan) -> int:
    """How many of a plan's requests had an answer, or were asked by others, when it wanted them."""
    manifests = [Home(ledger.home).manifest(attempt.manifest) for attempt in _own(ledger, plan)]
    asked = f"SELECT count(DISTINCT key) FROM {parquet(manifests, MANIFEST_COLUMNS)}"
    return plan.keys - int(rows(connect(), asked)[0][0])


def _own(ledger: Ledger, plan: Plan) -> list[Attempt]:
    """Those that the plan asked by itself; it may have waited for others' too."""
    return [attempt for attempt in ledger.attempts.all_of_plan(plan.id) if attempt.plan == plan.id]


def _failed(statuses: Mapping[str, int]) -> int:
    return sum(count for status, count in statuses.items() if status != "ok")
