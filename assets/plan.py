"""Planning: source rows → checked rows and distinct requests, as Parquet; no row passes through Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from ..resources.duck import literal, parquet, quoted, rows, write_parquet
from ..resources.errors import InputError
from ..resources.home import Home
from ..resources.providers.profile import Profile
from ..resources.providers.wires.wire import line_bytes_sql
from ..resources.request import request_key_sql
from .task import TaskSpec

REQUEST_COLUMNS = "key VARCHAR, prompt VARCHAR, bytes BIGINT"

_EMPTY = "CASE WHEN trim(__prompt, ' ' || chr(9) || chr(10) || chr(13)) = '' THEN 'the prompt is empty' END"


@dataclass(frozen=True)
class Planned:
    """Sizes of a plan: rows of the table, and distinct requests behind them."""

    rows: int
    keys: int


def write_plan(
    engine: duckdb.DuckDBPyConnection,
    *,
    spec: TaskSpec,
    profile: Profile,
    home: Home,
    plan: str,
    partitions: Sequence[str],
) -> Planned:
    """Check relation ``source`` of `engine` and write the plan's two files.

    Raises:
        InputError: A column is missing, a row key is null or stands twice; nothing was written or asked.
    """
    _check_columns(engine, spec)
    narrowed = _narrowed(spec, partitions)
    rendered = home.rows(plan).with_name("rendered.parquet")
    limit = literal(f"the request has more than the {profile.max_line_bytes:,} bytes that {profile.name} takes")
    size = line_bytes_sql(profile.line_parts(spec.request), "__prompt")
    query = f"""
        SELECT {", ".join(quoted(name) for name in spec.keep)}, __prompt AS __prompt,
            coalesce(__no_prompt, CASE WHEN __bytes > {profile.max_line_bytes} THEN {limit} END) AS __reason,
            CASE WHEN __no_prompt IS NULL AND __bytes <= {profile.max_line_bytes}
                THEN {request_key_sql("__prompt")} END AS __key,
            __bytes{", __partition" if partitions else ""},
        FROM (
            SELECT *, {size} AS __bytes
            FROM (SELECT *, {spec.template.sql()} AS __prompt,
                    coalesce({spec.template.null_reason_sql()}, {_EMPTY}) AS __no_prompt
                FROM ({narrowed}))
        )
    """
    try:
        write_parquet(engine, query, rendered, {"task": spec.request.task, **_bound(partitions)})
        whole = f"(SELECT *, row_number() OVER () AS __n FROM {parquet([rendered], '')})"
        _check_keys(engine, spec, whole)
        kept = f"SELECT * EXCLUDE (__prompt, __bytes) FROM {whole}"
        write_parquet(engine, kept, home.rows(plan))
        distinct = f"""
            SELECT __key AS key, __prompt AS prompt, __bytes AS bytes FROM {whole}
            SEMI JOIN (SELECT min(__n) AS __n FROM {whole} WHERE __key IS NOT NULL GROUP BY __key) AS first USING (__n)
        """
        write_parquet(engine, distinct, home.requests(plan))
    except (duckdb.ProgrammingError, duckdb.DataError) as error:
        about = f"partition_expr {spec.partition_expr!r}" if spec.partition_expr else "the source's columns"
        raise InputError(f"The source's rows can't be rendered ({error}). Look at {about}.") from error
    finally:
        rendered.unlink(missing_ok=True)
    counted = [
        rows(engine, f"SELECT count(*) FROM {parquet([p], '')}")[0][0] for p in (home.rows(plan), home.requests(plan))
    ]
    return Planned(*counted)


def _narrowed(spec: TaskSpec, partitions: Sequence[str]) -> str:
    if not partitions:
        return "FROM source"
    return f"""
        FROM (SELECT *, ({spec.partition_expr})::VARCHAR AS __partition FROM source)
        WHERE list_contains($partitions, __partition)
    """


def _bound(partitions: Sequence[str]) -> dict[str, list[str]]:
    return {"partitions": list(partitions)} if partitions else {}


def _check_columns(engine: duckdb.DuckDBPyConnection, spec: TaskSpec) -> None:
    available = [row[0] for row in rows(engine, "DESCRIBE FROM source")]
    for role, names in (("row_key", [spec.row_key]), ("keep", spec.keep)):
        missing = [name for name in names if name not in available]
        if missing:
            raise InputError(
                f"{role} names the column(s) {missing}, which the source doesn't have. It has {available}."
            )
    reserved = [name for name in available if name.startswith("__")]
    if reserved:
        raise InputError(f"Source columns may not begin with two underscores: {reserved}. Rename them in SQL.")
    spec.template.check(available)


def _check_keys(engine: duckdb.DuckDBPyConnection, spec: TaskSpec, relation: str) -> None:
    key = quoted(spec.row_key)
    nulls = rows(engine, f"SELECT count(*) FROM {relation} WHERE {key} IS NULL")[0][0]
    if nulls:
        raise InputError(
            f"{nulls} row(s) have no {spec.row_key}: a null row key identifies nothing. Filter or fill them."
        )
    twice = rows(
        engine, f"SELECT {key}::VARCHAR, count(*) FROM {relation} GROUP BY ALL HAVING count(*) > 1 ORDER BY 1 LIMIT 5"
    )
    if twice:
        shown = ", ".join(f"{value[:60]!r} ({count} times)" for value, count in twice)
        raise InputError(f"{spec.row_key} is not unique: {shown}. Each row of the table needs a key of its own.")
