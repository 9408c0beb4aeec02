"""The demo code location, which workspace.yaml and `dg dev` load."""

from __future__ import annotations

import dagster as dg

from ..resources import DuckDBTables, ParquetTables
from .defs import batch_llm_defs
from .demo import assets, settings

tables = DuckDBTables(path=str(settings.DUCKDB))
parquet = ParquetTables(folder=str(settings.PARQUET))

defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[
            assets.stdlib_functions,
            assets.function_topics,
            assets.function_traits,
            assets.function_summaries,
            assets.function_vectors,
            assets.question_vectors,
            assets.topics_by_group,
            assets.topic_report,
        ],
        asset_checks=[assets.better_than_guessing],
        jobs=[assets.classify_job],
        schedules=[assets.nightly],
        resources={"llm": settings.provider(), "tables": tables, "parquet": parquet},
    ),
    # Local batches take seconds, so the demo's sensor looks more often than the default.
    batch_llm_defs(minimum_interval_seconds=2 if settings.PROVIDER == "local" else 30),
)
