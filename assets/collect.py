"""Collecting: a plan's rows joined with their answers become the table, in one statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
import duckdb

from ..resources.answers import best_sql, readable
from ..resources.duck import connect, parquet, quoted, rows, write_parquet
from ..resources.home import Home
from ..resources.ledger import Ledger, Plan
from ..resources.tables import DuckDBTables
from .look import answers_of
from .task import ERROR, PARTITION, STATUS, TaskSpec


@dataclass(frozen=True)
class Collected:
    """A written table.

    Attributes:
        statuses: Rows per status.
        types: SQL type per column.
        rows: Rows written.
    """

    statuses: Mapping[str, int]
    types: Mapping[str, str]
    rows: int


def write_table(ledger: Ledger, tables: DuckDBTables, key: dg.AssetKey, plan: Plan, spec: TaskSpec) -> Collected:
    """Replace the table, or the plan's partitions of it, with the plan's rows and their answers."""
    home = Home(ledger.home)
    engine = connect()
    file = home.rows(plan.id).with_name("table.parquet")
    try:
        engine.execute(f"CREATE TEMP VIEW row AS FROM {parquet([home.rows(plan.id)], '')}")
        engine.execute(f"CREATE TEMP VIEW best AS {best_sql(answers_of(ledger, home, plan))}")
        write_parquet(engine, _joined(spec), file)
        types = _types(engine, spec)
        statuses = dict(rows(engine, f"SELECT {STATUS}, count(*) FROM {parquet([file], '')} GROUP BY ALL"))
        count = tables.replace(key, file, types=types, partition_expr=PARTITION, partitions=plan.partitions)
    except duckdb.Error as error:
        raise readable(error, home.folder) from error
    finally:
        file.unlink(missing_ok=True)
    return Collected(statuses, types, count)


def _joined(spec: TaskSpec) -> str:
    # Answers are read before they are joined: a source may well have columns called "answer" or "outcome".
    outputs = ", ".join(
        f"CASE WHEN outcome = 'ok' THEN {column.sql} END AS {quoted(column.name)}" for column in spec.columns
    )
    kept = ", ".join(f"row.{quoted(name)}" for name in spec.keep)
    shown = ", ".join(f"answered.{quoted(column.name)}" for column in spec.columns)
    return f"""
        SELECT {kept}, {shown},
            CASE WHEN row.__key IS NULL THEN 'not_asked' ELSE coalesce(answered.__outcome, 'missing') END AS {STATUS},
            coalesce(row.__reason, answered.__why) AS {ERROR},
            {f"row.__partition AS {PARTITION}," if spec.partition_expr else ""}
        FROM row LEFT JOIN (SELECT key AS __key, outcome AS __outcome, reason AS __why, {outputs} FROM best) AS answered
            ON answered.__key = row.__key
        ORDER BY row.__n
    """


def _types(engine: duckdb.DuckDBPyConnection, spec: TaskSpec) -> dict[str, str]:
    """The table's column types; a vector gets the length that its answers have."""
    source = {name: kind for name, kind, *_ in rows(engine, "DESCRIBE FROM row")}
    types = {name: source[name] for name in spec.keep}
    for column in spec.columns:
        kind = column.sql_type
        if kind == "FLOAT[]":
            known = spec.request.dimensions
            length = known or rows(engine, "SELECT max(len(vector)) FROM best WHERE outcome = 'ok'")[0][0]
            kind = f"FLOAT[{length}]" if length else kind
        types[column.name] = kind
    ours = [STATUS, ERROR, *([PARTITION] if spec.partition_expr else [])]
    return {**types, **dict.fromkeys(ours, "VARCHAR")}
