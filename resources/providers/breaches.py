"""How an answer breaks a JSON schema, as SQL over whole files.

It judges what the strict schemas of structured outputs are made of: types, enums, properties, lists and null. An
answer may hold more than it was asked for; nobody reads that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..duck import literal

_MOST_SHOWN = 60
_MOST_VALUES = 8

# DuckDB reads 1.5 as the whole number 2, true as 1 and "5" as 5, so the kind is asked before the value is read.
_TYPES: Mapping[str, tuple[str, str]] = {
    "string": ("a text", "json_type({0}) = 'VARCHAR'"),
    "boolean": ("true or false", "json_type({0}) = 'BOOLEAN'"),
    "object": ("an object", "json_type({0}) = 'OBJECT'"),
    "array": ("a list", "json_type({0}) = 'ARRAY'"),
    "number": (
        "a number",
        """json_type({0}) IN ('BIGINT', 'UBIGINT', 'DOUBLE') AND isfinite(from_json({0}, '"DOUBLE"'))""",
    ),
    "integer": (
        "a whole number of 64 bits",
        """json_type({0}) IN ('BIGINT', 'UBIGINT', 'DOUBLE') AND from_json({0}, '"BIGINT"') IS NOT NULL
            AND trunc(from_json({0}, '"DOUBLE"')) = from_json({0}, '"DOUBLE"')""",
    ),
    "null": ("null", "json_type({0}) = 'NULL'"),
}


def path_sql(*names: str) -> str:
    """A JSON path as a SQL literal, whatever the names contain."""
    return literal(_path(names))


def breach_sql(answer: str, schema: Mapping[str, Any]) -> str:
    """SQL for the first breach of a schema, in words; NULL if there is none.

    Args:
        answer: SQL for valid JSON.
        schema: Strict JSON schema, with its definitions inlined. All properties are required.
    """
    return _breach(_Place(base=answer, names=(), called="", depth=0), schema)


@dataclass(frozen=True)
class _Place:
    """A value within an answer: the names that lead from a base (the answer, or a list's item) to it."""

    base: str
    names: tuple[str, ...]
    called: str
    depth: int

    @property
    def value(self) -> str:
        return f"json_extract({self.base}, {path_sql(*self.names)})"

    @property
    def words(self) -> str:
        """SQL for what a person calls it."""
        return self.called or literal("the answer")

    def field(self, name: str) -> _Place:
        called = f"{self.called} || {literal('.' + name)}" if self.called else literal(name)
        return _Place(self.base, (*self.names, name), called, self.depth)

    def item(self, variable: str, index: str) -> _Place:
        return _Place(variable, (), f"{self.words} || '[' || ({index} - 1) || ']'", self.depth + 1)


def _breach(place: _Place, schema: Mapping[str, Any]) -> str:
    if branches := _branches(schema):
        return _breach_of_any(place, branches)
    checks: list[str] = []
    if "type" in schema:
        words, holds = _TYPES[schema["type"]]
        checks.append(f"WHEN NOT ({holds.format(place.value)}) THEN {_is_not(place, words)}")
    if "enum" in schema:
        checks.append(f"WHEN {_outside(place, schema['enum'])} THEN {_is_not(place, _one_of(schema['enum']))}")
    inner = "NULL::VARCHAR"
    if schema.get("properties"):
        inner = _breach_of_properties(place, schema["properties"])
    elif schema.get("items"):
        inner = _breach_of_items(place, schema["items"])
    return f"CASE {' '.join(checks)} ELSE {inner} END" if checks else inner


def _branches(schema: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    if "anyOf" in schema:
        return schema["anyOf"]
    kinds: str | list[str] | None = schema.get("type")
    return [{**schema, "type": kind} for kind in kinds] if isinstance(kinds, list) else []


def _breach_of_any(place: _Place, branches: Sequence[Mapping[str, Any]]) -> str:
    """None of several; of one that may be null, how it is broken."""
    filled = [branch for branch in branches if branch.get("type") != "null"]
    null = f"WHEN json_type({place.value}) = 'NULL' THEN NULL" if len(filled) < len(branches) else ""
    if len(filled) == 1:
        return f"CASE {null} ELSE {_breach(place, filled[0])} END" if null else _breach(place, filled[0])
    kept = " OR ".join(f"({_breach(place, branch)}) IS NULL" for branch in filled)
    return f"CASE {null} WHEN {kept or 'false'} THEN NULL ELSE {_is_not(place, 'what was asked for')} END"


def _breach_of_properties(place: _Place, properties: Mapping[str, Mapping[str, Any]]) -> str:
    found: list[str] = []
    for name, schema in properties.items():
        inner = place.field(name)
        missing = f"WHEN {inner.value} IS NULL THEN {inner.words} || ' is missing'"
        found.append(f"CASE {missing} ELSE {_breach(inner, schema)} END")
    return f"coalesce({', '.join(found)}, NULL)"


def _breach_of_items(place: _Place, schema: Mapping[str, Any]) -> str:
    item, index = f"item{place.depth}", f"index{place.depth}"
    each = _breach(place.item(item, index), schema)
    items = f"json_extract({place.base}, {literal(_path(place.names) + '[*]')})"
    breaches = f"list_transform({items}, lambda {item}, {index}: {each})"
    return f"list_filter({breaches}, lambda breach: breach IS NOT NULL)[1]"


def _outside(place: _Place, values: Sequence[Any]) -> str:
    texts = ", ".join(literal(value) for value in values if isinstance(value, str))
    return f"json_extract_string({place.base}, {path_sql(*place.names)}) NOT IN ({texts})" if texts else "false"


def _one_of(values: Sequence[Any]) -> str:
    shown = [str(value) for value in values[:_MOST_VALUES]]
    return "one of " + ", ".join([*shown, *(["…"] if len(values) > _MOST_VALUES else [])])


def _is_not(place: _Place, expected: str) -> str:
    """SQL for the sentence; a long value is cut."""
    text = f"{place.value}::VARCHAR"
    shown = f"CASE WHEN length({text}) > {_MOST_SHOWN} THEN left({text}, {_MOST_SHOWN}) || '…' ELSE {text} END"
    return f"{place.words} || ' is ' || {shown} || {literal(f', not {expected}')}"


def _path(names: Sequence[str]) -> str:
    # Quoted and escaped, so that a field may have any name.
    return "$" + "".join('."' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names)
