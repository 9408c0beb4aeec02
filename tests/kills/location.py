"""The code location of one world: a table, what stands below it, and a partitioned table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pyarrow as pa
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.pipelines import batch_llm_defs
from dagster_batch_llm.resources import DuckDBTables, LocalBatch

NAME = "here"
LABELS = ["praise", "complaint"]
PARTITIONS = ["a", "b", "c"]
ROWS = 6


def expected(row: int) -> str:
    return LABELS[row % 2]


@dataclass(frozen=True)
class Location:
    """Definitions over a warehouse of their own; the prompts tell whose they are on the provider's bill."""

    world: int
    warehouse: Path
    emulator: Path

    @property
    def tables(self) -> DuckDBTables:
        return DuckDBTables(path=str(self.warehouse))

    def definitions(self) -> dg.Definitions:
        world = self.world

        @dg.asset(io_manager_key="tables")
        def reviews() -> pa.Table:
            texts = [f"world {world}: my {expected(row)}, number {row}" for row in range(ROWS)]
            groups = [PARTITIONS[row % len(PARTITIONS)] for row in range(ROWS)]
            return pa.table({"id": list(range(ROWS)), "text": texts, "grp": groups})

        @dg.asset(io_manager_key="tables")
        def report(topics: pa.Table) -> pa.Table:
            return pa.table({"rows": [len(topics)]})

        def llm_table(name: str, **partitioned: object) -> dg.AssetsDefinition:
            return classify_asset(
                name=name, source="SELECT * FROM reviews", row_key="id", prompt="{text}", labels=LABELS, llm="llm",
                model="m", **partitioned,
            )  # fmt: skip

        parts = dg.StaticPartitionsDefinition(PARTITIONS)
        topics, by_group = llm_table("topics"), llm_table("by_group", partitions_def=parts, partition_expr="grp")
        resources = {"llm": LocalBatch(folder=str(self.emulator)), "tables": self.tables}
        own = dg.Definitions(
            assets=[reviews, topics, by_group, report], resources=resources, executor=dg.in_process_executor
        )
        return dg.Definitions.merge(own, batch_llm_defs(minimum_interval_seconds=1))
