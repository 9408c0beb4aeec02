"""What the demo shows: batches while they are out, and tables when they are in."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...resources.duck import literal
from ...resources.ledger import AttemptState, Ledger, Plan
from ...resources.parquet_tables import ParquetTables
from ...resources.table_store import TableStore
from ...resources.tables import DuckDBTables
from .assets import QUESTION
from .settings import DUCKDB, MODEL, PARQUET, PROVIDER

_SAMPLES = (
    ("function_topics", "SELECT function_id, topic, status FROM function_topics ORDER BY sha256(function_id) LIMIT 4"),
    (
        "function_traits",
        """SELECT function_id, kind_of_use, side_effects, returns_iterator
        FROM function_traits ORDER BY sha256(function_id) LIMIT 4""",
    ),
    ("function_summaries", "SELECT function_id, summary FROM function_summaries ORDER BY sha256(function_id) LIMIT 4"),
    (
        "function_vectors",
        """SELECT function_id, vector[1:3]::FLOAT[]::VARCHAR || ' … ' || typeof(vector) AS vector
        FROM function_vectors ORDER BY sha256(function_id) LIMIT 3""",
    ),
    (
        "topics_by_group",
        """SELECT partition_key, count(*) AS functions, mode(topic) AS most_frequent_topic
        FROM topics_by_group GROUP BY ALL ORDER BY ALL""",
    ),
    ("topic_report", "SELECT * EXCLUDE (first_summary) FROM topic_report"),
)
_FILE = PARQUET / "question_vectors.parquet"
_QUESTIONS = "SELECT question, vector[1:3]::FLOAT[]::VARCHAR || ' … ' || typeof(vector) AS vector FROM question_vectors"
_SEARCH = f"""
    SELECT f.function_id, left(s.docstring, 60) AS docstring,
        list_cosine_similarity(f.vector, q.vector)::DECIMAL(4, 3) AS similarity,
    FROM function_vectors AS f JOIN stdlib_functions AS s USING (function_id), read_parquet({literal(str(_FILE))}) AS q
    ORDER BY similarity DESC LIMIT 5
"""
_ACCURACY = """
    WITH judged AS (
        SELECT (t.topic = s.gold_topic)::INTEGER AS hit, s.gold_topic
        FROM function_topics AS t JOIN stdlib_functions AS s USING (function_id)
    )
    SELECT avg(hit), (SELECT max(n) FROM (SELECT count(*) AS n FROM judged GROUP BY gold_topic)) / count(*), count(*)
    FROM judged
"""


def batches(ledger: Ledger, origin: str) -> Table:
    """One line per batch of an origin run or backfill."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("table", "batch", "state"):
        table.add_column(heading)
    for heading in ("planned", "submitted", "done", "failed", "collected"):
        table.add_column(heading, justify="right")
    for plan in ledger.plans.of_origin_or_backfill(origin):
        name = plan.asset + (f" [{plan.partitions[0]}…]" if plan.partitions else "")
        attempts = ledger.attempts.all_of_plan(plan.id)
        if not attempts and plan.keys:
            table.add_row(name, "-", plan.state, "0", "", "", "", f"{plan.keys} reused")
        for attempt in attempts:
            sent, answered = attempt.batch_id is not None, attempt.state is AttemptState.ANSWERED
            state = f"{attempt.state} ({attempt.phase})" if sent and not answered else str(attempt.state)
            counts = [attempt.rows if sent else 0, attempt.completed, attempt.failed, attempt.rows if answered else 0]
            # Text, not markup: a partition key may contain brackets.
            table.add_row(Text(name), attempt.batch_id or "-", state, str(attempt.rows), *map(str, counts))
    return table


def epilogue(
    console: Console, plans: Sequence[Plan], *, let_go: str | None, collected: str | None, ledger: Ledger
) -> None:
    """Samples, a search, the accuracy, and what was asked."""
    tables = DuckDBTables(path=str(DUCKDB))
    for name, query in _SAMPLES:
        _print(console, tables, name, query)
    _print(console, ParquetTables(folder=str(PARQUET)), str(_FILE.relative_to(PARQUET.parent)), _QUESTIONS)
    _print(console, tables, f"search: “{QUESTION}”", _SEARCH)
    accuracy, majority, judged = (column[0].as_py() for column in tables.query(_ACCURACY).itercolumns())
    method = f"{MODEL} as nearest label, not a language model" if PROVIDER == "local" else MODEL
    console.print(
        f"\naccuracy of function_topics: {accuracy:.2f} on {judged} rows, "
        f"always the most frequent topic: {majority:.2f} (by {method})"
    )
    final = [ledger.plans.get(plan.id) for plan in plans]
    asked, keys = sum(plan.asked for plan in final), sum(plan.keys for plan in final)
    console.print(f"rows asked: {asked}, reused: {keys - asked}" + ("" if asked else "  (nothing was asked again)"))
    if let_go and collected:
        console.print(f"run that let go:    {let_go}\nrun that collected: {collected} (started by the sensor)")
    elif not asked:
        console.print("no run had to let go: every answer was there already")


def _print(console: Console, tables: TableStore, title: str, query: str) -> None:
    rows = tables.query(query)
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in rows.column_names:
        table.add_column(name, overflow="ellipsis", no_wrap=True)
    for row in rows.to_pylist():
        table.add_row(*(Text(str(value)) for value in row.values()))
    console.print()
    console.print(table)
