"""What a SQL query reads, found in its syntax tree, before any of its tables has to be there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

import duckdb

from .duck import connect, rows
from .errors import InputError

_KEY_PART = re.compile(r"[A-Za-z0-9_.-]+")  # what Dagster allows; a table with another name is no asset's


def tables_of(sql: str) -> list[tuple[str, ...]]:
    """The tables that a query reads, as asset key paths: a schema is the key's prefix.

    DuckDB's own list of table names comes from binding the query, which needs the columns of tables that may not
    be there yet: ``JOIN … USING`` and ``read_parquet`` fail.

    Raises:
        InputError: It is not one query.

    Example:
        >>> tables_of("WITH a AS (FROM shop.reviews) SELECT * FROM a JOIN topics USING (id)")
        [('shop', 'reviews'), ('topics',)]
    """
    return sorted(set(_named(_parsed(sql), frozenset())))


def without_end(sql: str) -> str:
    """The query without its semicolon, on lines of its own: a copy puts more after it, which a comment would hide."""
    encoded = sql.encode()  # offsets of tokens count bytes
    ends = [
        at for at, kind in duckdb.tokenize(sql) if kind == duckdb.token_type.operator and encoded[at : at + 1] == b";"
    ]
    return encoded[: ends[0] if ends else None].decode() + "\n"


def _parsed(sql: str) -> Any:
    serialized = rows(connect(), "SELECT json_serialize_sql($sql::VARCHAR)", {"sql": sql})[0][0]
    tree: dict[str, Any] = json.loads(serialized)
    if tree["error"]:
        raise InputError(f"The source query can't be parsed ({tree['error_message']}): {sql!r}")
    if len(tree["statements"]) != 1:
        raise InputError(f"A source query has to be one SELECT, not {len(tree['statements'])} statements: {sql!r}")
    return tree["statements"][0]["node"]


def _named(node: Any, ctes: frozenset[str]) -> Iterator[tuple[str, ...]]:
    """Asset key paths below a node; names in `ctes` are the query's own."""
    if isinstance(node, list):
        for child in cast("list[Any]", node):
            yield from _named(child, ctes)
    if not isinstance(node, dict):
        return
    fields = cast("dict[str, Any]", node)
    if fields.get("type") == "RECURSIVE_CTE_NODE":
        ctes |= {fields["cte_name"].lower()}
    own: list[dict[str, Any]] = fields.get("cte_map", {}).get("map", [])
    for entry in own:
        yield from _named(entry["value"], ctes)
        ctes |= {entry["key"].lower()}
    if fields.get("type") == "BASE_TABLE":
        schema, table = fields.get("schema_name") or "", str(fields["table_name"])
        path = (*(schema.split(".") if schema not in {"", "main"} else ()), table)
        # Without a schema, a dot makes it a file: FROM 'reviews.parquet'.
        ours = schema or not (table.lower() in ctes or "." in table)
        if ours and all(_KEY_PART.fullmatch(part) for part in path):
            yield path
    for name, child in fields.items():
        if name != "cte_map":
            yield from _named(child, ctes)
