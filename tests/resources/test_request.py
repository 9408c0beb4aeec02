from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.request import Operation, RequestSpec, request_key_sql

SPEC = RequestSpec(
    operation=Operation.CHAT, model="m", instruction="é", schema={"b": 1, "a": [2]}, parameters={"y": 1, "x": None}
)


def test_a_spec_survives_the_ledger() -> None:
    assert RequestSpec.from_json(SPEC.to_json()) == SPEC
    assert RequestSpec.from_json(SPEC.to_json()).task == SPEC.task


def test_the_order_in_which_parameters_are_written_does_not_matter() -> None:
    other = replace(SPEC, parameters={"x": None, "y": 1}, schema={"a": [2], "b": 1})
    assert other.task == SPEC.task


def test_the_order_of_a_schemas_properties_is_part_of_the_question_and_stays() -> None:
    inner: dict[str, Any] = {"type": "object", "properties": {"z": {}, "properties": {}, "a": {}}}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"b": {"items": inner, "type": "array"}, "a": {"type": "string"}},
    }
    spec = replace(SPEC, schema=schema)
    stored = RequestSpec.from_json(spec.to_json()).schema
    assert stored is not None
    assert list(stored["properties"]) == ["b", "a"]
    assert list(stored["properties"]["b"]["items"]["properties"]) == ["z", "properties", "a"]
    other: dict[str, Any] = {"properties": dict(reversed(schema["properties"].items())), "type": "object"}
    assert replace(SPEC, schema=other).task != spec.task
    again: dict[str, Any] = {
        "properties": {"b": {"type": "array", "items": inner}, "a": {"type": "string"}},
        "type": "object",
    }
    assert replace(SPEC, schema=again).task == spec.task


@pytest.mark.parametrize(
    "change",
    [
        {"operation": Operation.EMBEDDING},
        {"model": "n"},
        {"instruction": "e"},
        {"schema": None},
        {"parameters": {}},
        {"dimensions": 3},
    ],
)
def test_whatever_changes_the_question_changes_the_task(change: dict[str, object]) -> None:
    assert replace(SPEC, **change).task != SPEC.task


def test_a_key_is_a_rows_own() -> None:
    keys = {
        rows(connect(), f"SELECT {request_key_sql('$prompt')}", {"task": task, "prompt": prompt})[0][0]
        for task in ("a", "b")
        for prompt in ("", "x", "X", "x ", "\n", "a\nx", "\x00")
    }
    assert len(keys) == 14
    assert all(len(key) == 64 for key in keys)
