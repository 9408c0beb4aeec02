"""Collecting: a plan's rows joined with their answers become the table, in one statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
import duckdb

from ..resources.answers import answers_of, best_sql, readable
from ..resources.duck import connect, parquet, quoted, rows, write_parquet
from ..resources.home import Home
from ..resources.ledger import Ledger, Plan
from ..resources.request import Operation
from ..resources.table_store import TableStore
from .preview import first_rows, reasons
from .task import ERROR, PARTITION, STATUS, TaskSpec

_SAID = 500
"""Characters of an answer that can't be used, for its error row; the provider's files have all of it."""


@dataclass(frozen=True)
class Collected:
    """A written table.

    Attributes:
        statuses: Rows per partition and status; the partition is None if the table has none.
        types: SQL type per column.
        rows: Rows written.
        preview: Its first rows, as Markdown.
        reasons: Why rows have no answer, as Markdown; empty if all have one.
    """

    statuses: Mapping[str | None, Mapping[str, int]]
    types: Mapping[str, str]
    rows: int
    preview: str
    reasons: str


def write_table(ledger: Ledger, tables: TableStore, key: dg.AssetKey, plan: Plan, spec: TaskSpec) -> Collected:
    """Replace the table, or the plan's partitions of it, with the plan's rows and their answers."""
    home = Home(ledger.home)
    engine = connect()
    file = home.rows(plan.id).with_name("table.parquet")
    try:
        engine.execute(f"CREATE TEMP VIEW row AS FROM {parquet([home.rows(plan.id)], '')}")
        answers = best_sql(answers_of(home, ledger.looks.snapshot(plan.task))[0])
        engine.execute(f"CREATE TEMP VIEW answer AS FROM ({answers}) AS found SEMI JOIN row ON row.__key = found.key")
        length = _vector_length(engine, spec)
        engine.execute(f"CREATE TEMP VIEW best AS {_of_length(length)}")
        write_parquet(engine, _joined(spec), file)
        types = _types(engine, spec, length)
        written = parquet([file], "")
        statuses = _statuses(engine, written, spec)
        preview, why = first_rows(engine, written), reasons(engine, written)
        count = tables.replace(key, file, types=types, partition_expr=PARTITION, partitions=plan.partitions)
    except duckdb.Error as error:
        raise readable(error, home.folder) from error
    finally:
        file.unlink(missing_ok=True)
    return Collected(statuses, types, count, preview, why)


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
            coalesce(row.__reason, nullif(concat_ws(chr(10), __why, __asked, __said), '')) AS {ERROR},
            {f"row.__partition AS {PARTITION}," if spec.partition_expr else ""}
        FROM row LEFT JOIN (
            SELECT key AS __key, outcome AS __outcome, reason AS __why, {outputs},
                CASE WHEN outcome <> 'ok' AND tries > 1 THEN 'It was asked ' || tries || ' times.' END AS __asked,
                CASE WHEN outcome <> 'ok' AND answer <> ''
                    THEN 'The answer was: ' || left(answer, {_SAID})
                        || CASE WHEN length(answer) > {_SAID} THEN '…' ELSE '' END
                END AS __said
            FROM best
        ) AS answered ON answered.__key = row.__key
        ORDER BY row.__n
    """


def _statuses(engine: duckdb.DuckDBPyConnection, written: str, spec: TaskSpec) -> dict[str | None, dict[str, int]]:
    partition = PARTITION if spec.partition_expr else "NULL"
    counted: dict[str | None, dict[str, int]] = {}
    for name, status, count in rows(engine, f"SELECT {partition}, {STATUS}, count(*) FROM {written} GROUP BY ALL"):
        counted.setdefault(name, {})[status] = count
    return counted


def _vector_length(engine: duckdb.DuckDBPyConnection, spec: TaskSpec) -> int | None:
    """How long the table's vectors are: as declared, else as most of the answers are."""
    if spec.request.operation is not Operation.EMBEDDING or spec.request.dimensions:
        return spec.request.dimensions
    return rows(engine, "SELECT mode(len(vector)) FROM answer WHERE outcome = 'ok'")[0][0]


def _of_length(length: int | None) -> str:
    """The answers, with vectors of another length as error rows: a model's name may have moved to another model."""
    if length is None:
        return "FROM answer"
    other = f"outcome = 'ok' AND len(vector) <> {int(length)}"
    words = f"'the vector has ' || len(vector) || ' numbers, the table has {int(length)}; declare dimensions'"
    return f"""
        SELECT * REPLACE (
            CASE WHEN {other} THEN 'invalid' ELSE outcome END AS outcome,
            CASE WHEN {other} THEN {words} ELSE reason END AS reason)
        FROM answer
    """


def _types(engine: duckdb.DuckDBPyConnection, spec: TaskSpec, length: int | None) -> dict[str, str]:
    """The table's column types; a vector gets the length that its answers have."""
    source = {name: kind for name, kind, *_ in rows(engine, "DESCRIBE FROM row")}
    types = {name: source[name] for name in spec.keep}
    for column in spec.columns:
        is_vector = column.sql_type == "FLOAT[]" and length
        types[column.name] = f"FLOAT[{length}]" if is_vector else column.sql_type
    ours = [STATUS, ERROR, *([PARTITION] if spec.partition_expr else [])]
    return {**types, **dict.fromkeys(ours, "VARCHAR")}
