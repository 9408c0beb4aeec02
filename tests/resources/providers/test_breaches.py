"""Answers that look well enough, and what is wrong with them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, cast

import pytest
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.providers.wires.openai import OPENAI_WIRE
from dagster_batch_llm.resources.request import Operation, RequestSpec
from hypothesis import given, settings
from hypothesis import strategies as st


def an_object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def maybe(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def list_of(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


TEXT, WHOLE, NUMBER, TRUTH = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
USE = {"type": "string", "enum": ["work", 'it\'s "odd"']}
PART = an_object(name=TEXT, use=USE)
SCHEMA = an_object(
    use=USE,
    count=WHOLE,
    price=NUMBER,
    sold=TRUTH,
    mood=maybe(USE),
    tags=list_of(TEXT),
    part=maybe(PART),
    parts=list_of(PART),
    grid=list_of(list_of(maybe(WHOLE))),
)
GOOD: Mapping[str, Any] = {
    "use": "work", "count": 1, "price": 1.5, "sold": True, "mood": None, "tags": ["a"], "part": None,
    "parts": [{"name": "a", "use": "work"}], "grid": [[1, None], []],
}  # fmt: skip


def judged(answer: str, schema: Mapping[str, Any] = SCHEMA) -> tuple[str, str | None]:
    """Outcome and reason of a result line with this answer."""
    message = {"role": "assistant", "content": answer}
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    line = json.dumps({"custom_id": "x", "response": {"status_code": 200, "body": body}})
    spec = RequestSpec(operation=Operation.CHAT, model="m", schema=schema)
    engine = connect()
    engine.execute("CREATE TEMP TABLE lines AS SELECT $1::JSON AS line", [line])
    return rows(engine, f"SELECT outcome, reason FROM ({OPENAI_WIRE.result_sql(spec)})")[0]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"use": 'it\'s "odd"', "mood": "work"},
        {"count": -(2**63)},
        {"count": 3.0},
        {"price": 7},
        {"price": 2**64},
        {"tags": [], "parts": [], "grid": []},
        {"part": {"name": "", "use": "work", "more": [1]}},
        {"more": {"than": "asked"}},
    ],
    ids=str,
)
def test_an_answer_that_keeps_the_schema_is_ok(change: Mapping[str, Any]) -> None:
    assert judged(json.dumps({**GOOD, **change})) == ("ok", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"use": "play"}, 'use is "play", not one of work, it\'s "odd"'),
        ({"use": "Work"}, 'use is "Work", not one of'),
        ({"use": None}, "use is null, not a text"),
        ({"use": ["work"]}, 'use is ["work"], not a text'),
        ({"count": 1.5}, "count is 1.5, not a whole number of 64 bits"),
        ({"count": "1"}, 'count is "1", not a whole number'),
        ({"count": True}, "count is true, not a whole number"),
        ({"count": 2**63}, "count is 9223372036854775808, not a whole number"),
        ({"count": 10**30}, "count is 1000000000000000000000000000000, not a whole number"),
        ({"count": None}, "count is null, not a whole number"),
        ({"price": "1.5"}, 'price is "1.5", not a number'),
        ({"price": math.nan}, "price is NaN, not a number"),
        ({"price": math.inf}, "price is Infinity, not a number"),
        ({"sold": "true"}, 'sold is "true", not true or false'),
        ({"sold": 1}, "sold is 1, not true or false"),
        ({"mood": "null"}, 'mood is "null", not one of'),
        ({"mood": 0}, "mood is 0, not a text"),
        ({"tags": None}, "tags is null, not a list"),
        ({"tags": "a, b"}, 'tags is "a, b", not a list'),
        ({"tags": ["a", None]}, "tags[1] is null, not a text"),
        ({"tags": {"0": "a"}}, 'tags is {"0":"a"}, not a list'),
        ({"part": {}}, "part.name is missing"),
        ({"part": {"name": "a"}}, "part.use is missing"),
        ({"part": {"name": "a", "use": "play"}}, 'part.use is "play", not one of'),
        ({"part": []}, "part is [], not an object"),
        ({"parts": [GOOD["parts"][0], {"name": "b", "use": None}]}, "parts[1].use is null, not a text"),
        ({"parts": [1]}, "parts[0] is 1, not an object"),
        ({"grid": [[1], [2, "3"]]}, 'grid[1][1] is "3", not a whole number'),
        ({"grid": [None]}, "grid[0] is null, not a list"),
        ({"use": "x" * 999}, f'use is "{"x" * 59}…, not one of'),
    ],
    ids=str,
)
def test_an_answer_that_breaks_the_schema_is_invalid_and_the_reason_names_the_field(
    change: Mapping[str, Any], reason: str
) -> None:
    outcome, said = judged(json.dumps({**GOOD, **change}))
    assert outcome == "invalid"
    assert (said or "").startswith(reason)


@pytest.mark.parametrize("name", list(GOOD))
def test_every_field_has_to_be_there_even_if_it_may_be_null(name: str) -> None:
    answer = {key: value for key, value in GOOD.items() if key != name}
    assert judged(json.dumps(answer)) == ("invalid", f"{name} is missing")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "the answer is empty"),
        ("I'd say work.", "the answer is not JSON"),
        (f"```json\n{json.dumps(GOOD)}\n```", "the answer is not JSON"),
        (json.dumps(GOOD)[:-1], "the answer is not JSON"),
        (json.dumps(GOOD) * 2, "the answer is not JSON"),
        ('{"use": "\\ud800"}', "the answer is not JSON"),
        ("null", "the answer is null, not an object"),
        ("[]", "the answer is [], not an object"),
        ('"{}"', 'the answer is "{}", not an object'),
        ("{}", "use is missing"),
    ],
)
def test_an_answer_of_another_shape_is_invalid(answer: str, reason: str) -> None:
    shown = f": {answer[:80]}" if reason.endswith("not JSON") else ""
    assert judged(answer) == ("invalid", reason + shown)


@pytest.mark.parametrize("name", ["a b", "a.b", 'quo"te', "it's", "back\\slash", "$x", "[0]", "ünï😀", "{0}"])
def test_a_field_may_have_any_name(name: str) -> None:
    schema = an_object(**{name: an_object(**{name: list_of(USE)})})
    assert judged(json.dumps({name: {name: ["work"]}}), schema) == ("ok", None)
    assert judged(json.dumps({name: {name: [0]}}), schema) == ("invalid", f"{name}.{name}[0] is 0, not a text")


def test_one_of_several_kinds_is_enough() -> None:
    schema = an_object(x={"anyOf": [TEXT, WHOLE]}, y={"type": ["string", "null"]})
    assert judged('{"x": 1, "y": null}', schema) == ("ok", None)
    assert judged('{"x": "1", "y": "1"}', schema) == ("ok", None)
    assert judged('{"x": true, "y": null}', schema) == ("invalid", "x is true, not what was asked for")
    assert judged('{"x": 1, "y": 1}', schema) == ("invalid", "y is 1, not a text")


def keeps(value: Any, schema: Mapping[str, Any]) -> bool:
    """The same judgement in Python."""
    if "anyOf" in schema:
        return any(keeps(value, branch) for branch in schema["anyOf"])
    match schema["type"]:
        case "null":
            return value is None
        case "string":
            return isinstance(value, str) and value in schema.get("enum", [value])
        case "boolean":
            return isinstance(value, bool)
        case "array":
            return isinstance(value, list) and all(keeps(item, schema["items"]) for item in cast("list[Any]", value))
        case "object":
            return isinstance(value, dict) and all(
                name in value and keeps(value[name], part) for name, part in schema["properties"].items()
            )
        case kind:
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                return False
            return kind == "number" or (value == int(value) and -(2**63) <= value < 2**63)


def an_object_of(properties: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return an_object(**properties)


SCALARS = st.sampled_from([TEXT, WHOLE, NUMBER, TRUTH, USE])
SCHEMAS: st.SearchStrategy[Mapping[str, Any]] = st.recursive(
    SCALARS | SCALARS.map(maybe),
    lambda inner: inner.map(list_of) | st.dictionaries(st.sampled_from("abc"), inner, min_size=1).map(an_object_of),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**66), 2**66)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "work"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=6,
)


def fitting(schema: Mapping[str, Any]) -> st.SearchStrategy[Any]:
    """Values that keep a schema, and some that nearly do."""
    if "anyOf" in schema:
        return st.one_of(*[fitting(branch) for branch in schema["anyOf"]])
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "string": st.sampled_from(["work", 'it\'s "odd"']),
        "boolean": st.booleans(),
        "number": st.floats(allow_nan=False) | st.integers(-(2**60), 2**60),
        "integer": st.integers(-(2**60), 2**60) | st.sampled_from([1.0, 1.5]),
    }
    if schema["type"] == "array":
        return st.lists(fitting(schema["items"]), max_size=2)
    if schema["type"] == "object":
        return st.fixed_dictionaries({name: fitting(part) for name, part in schema["properties"].items()})
    return kinds[schema["type"]]


@settings(max_examples=120)
@given(data=st.data())
def test_sql_and_python_judge_alike(data: st.DataObject) -> None:
    schema = an_object(x=data.draw(SCHEMAS))
    answer = {"x": data.draw(VALUES | fitting(schema["properties"]["x"]))}
    outcome, reason = judged(json.dumps(answer), schema)
    assert outcome == ("ok" if keeps(answer, schema) else "invalid"), (answer, schema, reason)
    assert (reason is None) == (outcome == "ok")
    assert reason is None or reason.startswith("x")
