"""A code location whose rows, answers, partition and descriptions would run code in a page that let them."""

import json
import os
from pathlib import Path

import dagster as dg
import pandas as pd
from dagster_batch_llm.assets import Labels, llm_table, summarize_asset
from dagster_batch_llm.pipelines import batch_llm_defs
from dagster_batch_llm.resources import DuckDBTables, LocalBatch

HERE = Path(os.environ["TEST_LOCATION_HOME"])
HOSTILE: list[str] = json.loads(os.environ["TEST_HOSTILE_TEXTS"])
PARTITIONS = [HOSTILE[0], "plain"]


def rows() -> pd.DataFrame:
    groups = [PARTITIONS[n % 2] for n in range(len(HOSTILE))]
    return pd.DataFrame({"text_id": range(len(HOSTILE)), "text": HOSTILE, "grp": groups})


@dg.asset(io_manager_key="tables")
def texts() -> pd.DataFrame:
    return rows()


# By itself the local engine answers with the text's first sentence: what comes in is what came as an answer.
answers = summarize_asset(
    name="answers", source="texts", row_key="text_id", keep=["text"], prompt="{text}", llm="llm", model="m"
)


@llm_table(
    row_key="text_id",
    keep=["text"],
    prompt="{grp}: {text}",
    output=Labels({"harmful": "code that does something", "harmless": f"a text without code such as {HOSTILE[0]}"}),
    description=f"Sorted into two: {HOSTILE[0]}{HOSTILE[1]}",
    llm="llm",
    model="m",
    partitions_def=dg.StaticPartitionsDefinition(PARTITIONS),
    partition_expr="grp",
)
def by_group() -> pd.DataFrame:
    return rows()


@dg.asset(io_manager_key="tables")
def report(answers: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rows": [len(answers)]})


defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[texts, answers, by_group, report],
        executor=dg.in_process_executor,
        resources={
            "llm": LocalBatch(folder=str(HERE / "fast"), min_batch_seconds=1.0),
            "tables": DuckDBTables(path=str(HERE / "warehouse.duckdb")),
        },
    ),
    batch_llm_defs(minimum_interval_seconds=1),
)
