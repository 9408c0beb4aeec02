"""What a Dagster run tells about itself, and who will look after a batch when the run ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import dagster as dg
from dagster import DagsterInstance, DagsterRun

PLAN_TAG = "batch_llm/plan"
"""On a collect run: ids of the plans it may finish, comma-separated."""
ORIGIN_TAG = "batch_llm/origin"
"""On a collect run: the run that started it all."""
STATE_TAG = "batch_llm/state"
"""On a run that has let go, or is about to: ``waiting``."""
MODEL_METADATA = "batch_llm/model"
"""In the metadata of every LLM table's definition, and of no other asset's."""
SENSOR_NAME = "batch_llm_sensor"

BACKFILL_TAG = "dagster/backfill"
_HAND_OVER_SECONDS = 120.0
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
PARTITION_TAG = "dagster/partition"


class Waiting(Enum):
    """How a run waits for its batches."""

    DETACH = "the run ends; the sensor brings the answers"
    KEEP = "the run stays for its backfill, which Dagster would otherwise call failed"
    HOLD = "nobody would come back, so the run waits by itself"


@dataclass(frozen=True)
class RunFacts:
    """The part of a run that planning and waiting depend on.

    Attributes:
        run_id: This run.
        origin: The run that a person, schedule or backfill started; this one, unless it is a collect run.
        plans: Plans that a collect run was sent for.
        location: Code location; None if the run was not launched through one.
        backfill: Backfill id, if it is part of one.
        selection: Asset keys that the run has selected.
        partitions: Partition keys of the run; empty if it has none.
        carried: Tags that a collect run for it has to carry as well.
    """

    run_id: str
    origin: str
    plans: tuple[str, ...]
    location: str | None
    backfill: str | None
    selection: tuple[str, ...]
    partitions: tuple[str, ...]
    carried: Mapping[str, str]

    @classmethod
    def of(cls, context: dg.AssetExecutionContext) -> RunFacts:
        """Read the run of a context."""
        run, tags = context.run, context.run.tags
        # A run with a partition may also materialize unpartitioned assets, whole.
        is_partitioned = context.job_def.asset_layer.get(context.asset_key).partitions_def is not None
        keyed = context.has_partition_key or context.has_partition_key_range
        selected = sorted(key.to_user_string() for key in context.job_def.asset_layer.selected_asset_keys)
        return cls(
            run_id=run.run_id,
            origin=tags.get(ORIGIN_TAG, run.run_id),
            plans=tuple(filter(None, tags.get(PLAN_TAG, "").split(","))),
            location=_location(run),
            backfill=tags.get(BACKFILL_TAG),
            selection=tuple(selected),
            partitions=tuple(context.partition_keys) if is_partitioned and keyed else (),
            carried={name: tags[name] for name in (BACKFILL_TAG, PARTITION_TAG, *RANGE_TAGS) if name in tags},
        )


def _location(run: DagsterRun) -> str | None:
    origin = run.remote_job_origin
    return origin.repository_origin.code_location_origin.location_name if origin else None


def leaves_at(instance: DagsterInstance, run: DagsterRun) -> float | None:
    """When a run should go by itself, before Dagster's run monitoring ends it for its length; None if it won't."""
    if not instance.run_monitoring_enabled:
        return None
    own = run.tags.get("dagster/max_runtime")
    limit = float(own) if own else float(instance.run_monitoring_max_runtime_seconds)
    record = instance.get_run_record_by_id(run.run_id)
    if limit <= 0 or record is None or record.start_time is None:
        return None
    return record.start_time + limit - min(_HAND_OVER_SECONDS, limit / 2)


def why_no_sensor(instance: DagsterInstance, run: DagsterRun) -> str | None:
    """Why nobody would bring a batch's answers if this run ended, and what to do; None if the sensor will.

    This is the one place that knows how a run lets go; the day Dagster offers suspended runs, it changes here.
    """
    location = _location(run)
    if instance.is_ephemeral or location is None:
        return "This run was not launched through a code location, so no sensor follows it."
    statuses = instance.get_daemon_statuses(daemon_types=["SENSOR"])
    if not all(status.healthy for status in statuses.values()):
        return "Dagster's daemon is not running, so no sensor brings the answers. Start dagster-daemon."
    states = [
        state
        for state in instance.all_instigator_state()
        if state.instigator_name == SENSOR_NAME
        and state.origin.repository_origin.code_location_origin.location_name == location
    ]
    # A sensor that is declared RUNNING has no stored state until the daemon has seen it once.
    if not states:
        return f"Code location {location} has no {SENSOR_NAME} yet. Merge batch_llm_defs() into its definitions."
    if not all(state.is_running for state in states):
        return f"The sensor {SENSOR_NAME} of code location {location} is switched off. Switch it on."
    return None
