"""The check of every LLM table: no batch that it waits for is past its window."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dagster as dg

from ..resources.ledger import Attempt, Ledger, PlanState, schema
from ..resources.operations.waits import WINDOW_SECONDS, overdue

STUCK_CHECK = "batch_llm_stuck"


def stuck_spec(name: str, key_prefix: Sequence[str] | None) -> dg.AssetCheckSpec:
    """The check's declaration; the sensor says when it fails, and each run says how it stands."""
    prefix = [key_prefix] if isinstance(key_prefix, str) else list(key_prefix or ())
    return dg.AssetCheckSpec(
        name=STUCK_CHECK,
        asset=dg.AssetKey([*prefix, name]),
        description="Whether the provider has ended every batch of this table within its window.",
    )


def stuck_now(key: dg.AssetKey) -> dg.AssetCheckResult:
    """How the check stands as a run ends."""
    ledger = Ledger()
    plans = ledger.plans.find(schema.plan.c.asset == key.to_user_string(), schema.plan.c.state == PlanState.OPEN)
    attempts = [attempt for plan in plans for attempt in ledger.attempts.open_of_plan(plan.id)]
    late = overdue(attempts, ledger.clock.now(), WINDOW_SECONDS)
    return dg.AssetCheckResult(
        check_name=STUCK_CHECK, passed=not late, severity=dg.AssetCheckSeverity.WARN, metadata=_metadata(late)
    )


def stuck_event(key: dg.AssetKey, late: Sequence[Attempt], message: str) -> dg.AssetCheckEvaluation:
    """What the sensor says of a table whose batches are past their window."""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=STUCK_CHECK,
        passed=False,
        severity=dg.AssetCheckSeverity.WARN,
        description=message,
        metadata={name: dg.MetadataValue.json(value) for name, value in _metadata(late).items()},
    )


def _metadata(late: Sequence[Attempt]) -> dict[str, Any]:
    return {"batch_llm/batch_ids": [attempt.batch_id for attempt in late]} if late else {}
