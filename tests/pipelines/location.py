"""A code location for tests that run real Dagster; what differs between tests comes from the environment."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_batch_llm.assets import classify_asset, embed_asset
from dagster_batch_llm.pipelines import batch_llm_defs
from dagster_batch_llm.resources import DuckDBTables, LocalBatch
from dagster_batch_llm.resources.providers.protocol import Batch, BatchProvider
from dagster_batch_llm.resources.request import RequestSpec

HERE = Path(os.environ["TEST_LOCATION_HOME"])
GROUPS = ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
# An edit of the code, as far as this location is concerned: the test writes the file and reloads the location.
EDIT = HERE / "prompt.txt"
PROMPT = EDIT.read_text() if EDIT.exists() else "{text}"
KILL = HERE / "kill.txt"
RENAMED = HERE / "renamed.txt"
TOPICS_NAME = RENAMED.read_text() if RENAMED.exists() else "topics"
LABELS = {"praise": "says what is good", "complaint": "says what is bad"}


@dg.asset(io_manager_key="tables")
def reviews() -> pd.DataFrame:
    moods = ["What a wonderful place", "Never again, awful service"]
    return pd.DataFrame(
        {
            "review_id": range(18),
            "text": [f"{moods[n % 2]}, number {n}" for n in range(18)],
            "grp": [GROUPS[n % 9] for n in range(18)],
        }
    )


topics = classify_asset(
    name=TOPICS_NAME, source="reviews", row_key="review_id", prompt=PROMPT, labels=LABELS, llm="fast", model="m"
)
vectors = embed_asset(name="vectors", source="reviews", row_key="review_id", prompt="{text}", llm="slow", model="m")
by_group = classify_asset(
    name="by_group",
    source="SELECT * FROM reviews",
    row_key="review_id",
    prompt="{grp}: {text}",
    labels=LABELS,
    llm="fast",
    model="m",
    partitions_def=dg.StaticPartitionsDefinition(GROUPS),
    partition_expr="grp",
)


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"))
def daily() -> None:
    """Partitioned in another way than `by_group`, as in most code locations."""


@dg.asset(io_manager_key="tables", ins={"topics": dg.AssetIn(TOPICS_NAME), "vectors": dg.AssetIn("vectors")})
def report(context: dg.AssetExecutionContext, topics: pd.DataFrame, vectors: pd.DataFrame) -> pd.DataFrame:
    joined = topics.merge(vectors, on="review_id")
    return pd.DataFrame({"rows": [len(joined)], "run": [context.run_id]})


job = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]
    "all_topics", dg.AssetSelection.assets("reviews", TOPICS_NAME)
)
# Every minute is the finest that cron knows.
schedule = dg.ScheduleDefinition(name="every_minute", job=job, cron_schedule="* * * * *")


class DeadlyBatch(LocalBatch):
    """Kills its process right after the server has accepted a create, before the reply is written down."""

    def provider(self) -> BatchProvider:
        provider = super().provider()
        create = provider.create

        def create_and_die(file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
            created = create(file_id, spec, token, still_allowed)
            if KILL.exists():
                KILL.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
            return created

        vars(provider)["create"] = create_and_die
        return provider


tables = DuckDBTables(path=str(HERE / "warehouse.duckdb"))
defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[reviews, topics, vectors, by_group, daily, report],
        jobs=[job],
        schedules=[schedule],
        # Half the processes, so half the time; the test that kills one needs the default.
        executor=None if os.environ.get("TEST_STEP_PROCESSES") else dg.in_process_executor,
        resources={
            "fast": DeadlyBatch(
                folder=str(HERE / "fast"), min_batch_seconds=float(os.environ.get("TEST_FAST_SECONDS", "1"))
            ),
            "slow": LocalBatch(
                folder=str(HERE / "slow"), min_batch_seconds=float(os.environ.get("TEST_SLOW_SECONDS", "1"))
            ),
            "tables": tables,
        },
    ),
    batch_llm_defs(minimum_interval_seconds=1),
)
