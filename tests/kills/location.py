"""The code location of all worlds: a table, what stands below it, and a partitioned table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dagster as dg
import pyarrow as pa
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.pipelines import batch_llm_defs
from dagster_batch_llm.resources import DuckDBTables, LocalBatch

from .points import Order

NAME = "here"
LABELS = ["praise", "complaint"]
PARTITIONS = ["a", "b", "c"]
ROWS = 6


def expected(row: int) -> str:
    """The label that the emulator gives."""
    return LABELS[row % 2]


@dataclass(frozen=True)
class Location:
    """Definitions that are made once; whose warehouse and prompts they mean is read from the campaign's folder."""

    folder: Path

    @property
    def tables(self) -> DuckDBTables:
        return DuckDBTables(path=str(self.folder / "now" / "warehouse.duckdb"))

    @cached_property
    def repository(self) -> dg.RepositoryDefinition:
        return self._definitions().get_repository_def()

    @cached_property
    def whole(self) -> dg.JobDefinition:
        """The job of which each run is a part."""
        return self.repository.get_implicit_global_asset_job_def()

    def job(self, assets: frozenset[dg.AssetKey]) -> dg.JobDefinition:
        return self.whole.get_subset(asset_selection=assets)

    def _definitions(self) -> dg.Definitions:
        folder = self.folder

        @dg.asset(io_manager_key="tables")
        def reviews() -> pa.Table:
            world = Order.read(folder).world  # on the provider's bill, it tells the worlds apart
            texts = [f"world {world}: my {expected(row)}, number {row}" for row in range(ROWS)]
            groups = [PARTITIONS[row % len(PARTITIONS)] for row in range(ROWS)]
            return pa.table({"id": list(range(ROWS)), "text": texts, "grp": groups})

        @dg.asset(io_manager_key="tables")
        def report(topics: pa.Table) -> pa.Table:
            return pa.table({"rows": [len(topics)]})

        topics = classify_asset(
            name="topics", source="reviews", row_key="id", prompt="{text}", labels=LABELS, llm="llm", model="m"
        )
        by_group = classify_asset(
            name="by_group",
            source="SELECT * FROM reviews",
            row_key="id",
            prompt="{text}",
            labels=LABELS,
            llm="llm",
            model="m",
            partitions_def=dg.StaticPartitionsDefinition(PARTITIONS),
            partition_expr="grp",
        )
        own = dg.Definitions(
            assets=[reviews, topics, by_group, report],
            resources={"llm": LocalBatch(folder=str(folder / "emulator")), "tables": self.tables},
            executor=dg.in_process_executor,
        )
        return dg.Definitions.merge(own, batch_llm_defs(minimum_interval_seconds=1))
