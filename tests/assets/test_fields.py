"""Models that can be asked for, and models that can't."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal, Optional, cast

import pytest
from dagster_batch_llm.assets.outputs import Fields
from dagster_batch_llm.resources.duck import connect
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.local.schema import LabelProperty, read_properties
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.lib._pydantic import to_strict_json_schema  # the official package's own idea of strict
from pydantic import BaseModel, Field, create_model, field_validator


class Use(StrEnum):
    """What it is for.

    - work: in an office
    - play: anywhere else
    """

    WORK = "work"
    PLAY = "play"


class Part(BaseModel):
    """A part."""

    name: str
    weights: list[float]


class Thing(BaseModel):
    """A thing."""

    title: str = Field(description="How it is called")
    count: int
    price: float | None
    sold: bool = False
    use: Use
    mood: Optional[Literal["good", 'it\'s "odd"']] = Field(None, description="How it feels")  # noqa: UP045
    tags: list[str]
    parts: list[Part]
    best: Part | None


WHOLE: Mapping[str, Any] = {
    "title": "it's\n“one” 😀",
    "count": 9007199254740993,
    "price": None,
    "sold": True,
    "use": "play",
    "mood": 'it\'s "odd"',
    "tags": [],
    "parts": [{"name": "leg", "weights": [1, 2.5]}, {"name": "top", "weights": []}],
    "best": None,
}


def read(model: type[BaseModel], answer: str) -> dict[str, Any]:
    """An answer as the table has it."""
    columns = ", ".join(f'{column.sql} AS "{column.name}"' for column in Fields(model).columns)
    result = connect().execute(f"SELECT {columns} FROM (SELECT $1 AS answer)", [answer])
    return dict(zip([name for name, *_ in result.description], result.fetchall()[0], strict=True))


def types(model: type[BaseModel]) -> list[str]:
    return [column.sql_type for column in Fields(model).columns]


def test_each_field_is_a_column_of_its_type() -> None:
    part = 'STRUCT("name" VARCHAR, "weights" DOUBLE[])'
    assert types(Thing) == [
        "VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "VARCHAR", "VARCHAR", "VARCHAR[]", f"{part}[]", part,
    ]  # fmt: skip


def test_what_is_declared_is_what_duckdb_makes() -> None:
    for column in Fields(Thing).columns:
        made = connect().execute(
            f"SELECT typeof({column.sql}), typeof(NULL::{column.sql_type}) FROM (SELECT '{{}}' AS answer)"
        )
        assert len(set(made.fetchall()[0])) == 1, column.name


def test_an_answer_is_read_as_it_was_meant() -> None:
    assert read(Thing, json.dumps(WHOLE)) == WHOLE
    best = {"name": "leg", "weights": [0.1]}
    assert read(Thing, json.dumps({**WHOLE, "price": 3, "best": best, "more": 1})) == {
        **WHOLE,
        "price": 3.0,
        "best": best,
    }


THINGS = st.fixed_dictionaries(
    {
        "title": (text := st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
        "count": st.integers(-(2**63), 2**63 - 1),
        "price": st.none() | (number := st.floats(allow_nan=False, allow_infinity=False)),
        "sold": st.booleans(),
        "use": st.sampled_from(["work", "play"]),
        "mood": st.sampled_from([None, "good", 'it\'s "odd"']),
        "tags": st.lists(text, max_size=3),
        "parts": st.lists(
            part := st.fixed_dictionaries({"name": text, "weights": st.lists(number, max_size=3)}), max_size=2
        ),
        "best": st.none() | part,
    }
)


@settings(max_examples=60)
@given(answer=THINGS, ascii_only=st.booleans())
def test_whatever_keeps_the_schema_is_read_exactly(answer: Mapping[str, Any], ascii_only: bool) -> None:
    assert read(Thing, json.dumps(answer, ensure_ascii=ascii_only)) == answer


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every object in a schema."""
    if isinstance(schema, list):
        return [found for part in cast("list[Any]", schema) for found in objects(part)]
    if not isinstance(schema, dict):
        return []
    part = cast("dict[str, Any]", schema)
    return [*([part] if part.get("type") == "object" else []), *objects(list(part.values()))]


def test_the_schema_is_as_strict_as_openai_wants_it() -> None:
    schema = Fields(Thing).schema
    assert schema["type"] == "object"
    assert len(objects(schema)) == 3
    for found in objects(schema):
        assert found["additionalProperties"] is False
        assert found["required"] == list(found["properties"])
    assert not {"$ref", "$defs", "default"} & set(json.dumps(schema).split('"'))


def test_the_official_package_asks_for_the_same_fields() -> None:
    theirs, ours = to_strict_json_schema(Thing), Fields(Thing).schema
    assert theirs["required"] == ours["required"]
    assert theirs["additionalProperties"] is ours["additionalProperties"] is False
    for name in ("count", "price", "sold", "tags"):
        kept = {key: value for key, value in theirs["properties"][name].items() if key not in ("title", "default")}
        assert ours["properties"][name] == kept


def test_null_is_allowed_where_it_is_declared() -> None:
    properties = Fields(Thing).schema["properties"]
    assert properties["price"] == {"anyOf": [{"type": "number"}, {"type": "null"}]}
    assert properties["mood"]["anyOf"] == [{"type": "string", "enum": ["good", 'it\'s "odd"']}, {"type": "null"}]
    assert properties["mood"]["description"] == "How it feels"


def test_the_instruction_lists_fields_and_what_their_values_mean() -> None:
    assert Fields(Thing).instruction.splitlines()[1:] == [
        "- title (text): How it is called",
        "- count (whole number)",
        "- price (number, or null)",
        "- sold (true or false)",
        "- use (one of work, play): What it is for.",
        "    work: in an office",
        "    play: anywhere else",
        '- mood (one of good, it\'s "odd", or null): How it feels',
        "- tags (list, each text)",
        "- parts (list, each object): A part.",
        "- parts[].name (text)",
        "- parts[].weights (list, each number)",
        "- best (object, or null): A part.",
        "- best.name (text)",
        "- best.weights (list, each number)",
    ]


class Twins(BaseModel):
    quick: Literal["yes", "no"] = Field(description="Is it quick?\n- yes: takes a minute\n- no: takes an hour")
    use: Use | None
    plain: Literal["yes", "no", "use"]


def test_the_local_engine_finds_the_meaning_of_each_fields_own_values() -> None:
    output = Fields(Twins)
    found = [prop for prop in read_properties(output.schema, output.instruction) if isinstance(prop, LabelProperty)]
    assert {prop.name: [label.text for label in prop.labels] for prop in found} == {
        "quick": ["yes: takes a minute", "no: takes an hour"],
        "use": ["work: in an office", "play: anywhere else"],
        "plain": ["yes", "no", "use"],
    }


class Loop(BaseModel):
    inner: list[Loop]


class Checked(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def not_empty(cls, value: str) -> str:
        return value


class Level(IntEnum):
    LOW = 1


class Odd(Enum):
    A = "a"
    B = 2


@pytest.mark.parametrize(
    ("annotation", "shown"),
    [
        (dict[str, int], "dict[str, int]"),
        (dict, "dict"),
        (tuple[int, str], "tuple[int, str]"),
        (set[str], "set[str]"),
        (list, "list"),
        (Sequence[str], "Sequence"),
        (int | str, "int | str"),
        (int | str | None, "int | str | None"),
        (Any, "Any"),
        (None, "None"),
        (object, "object"),
        (bytes, "bytes"),
        (date, "date"),
        (Decimal, "Decimal"),
        (Level, "Level"),
        (Odd, "Odd"),
        (Literal[1, 2], "Literal[1, 2]"),
        (Literal["a", 2], "Literal['a', 2]"),
        (Literal[None], "None"),
        (list[dict[str, int]], "dict[str, int]"),
        (list[int | str], "int | str"),
    ],
)
def test_a_type_that_cannot_be_a_column_is_refused_by_name(annotation: Any, shown: str) -> None:
    model = create_model("Wrong", fine=(str, ...), broken=(annotation, ...))
    with pytest.raises(InputError) as raised:
        Fields(model)
    assert raised.value.message.startswith("Field broken is of type ")
    assert shown in raised.value.message
    assert "Supported are str, int, float, bool" in raised.value.message


@pytest.mark.parametrize(
    ("annotation", "says"),
    [
        (Annotated[str, Field(pattern="^a")], "Field broken is constrained by .*pattern='\\^a'"),
        (Annotated[int, Field(ge=1, le=5)], "Field broken is constrained by Ge\\(ge=1\\), Le\\(le=5\\)"),
        (Annotated[list[str], Field(max_length=3)], "Field broken is constrained by MaxLen"),
        (list[Annotated[int, Field(ge=1)]], "Field broken is of type .*Ge"),
        (Annotated[str, Field(alias="other")], "Field broken has an alias"),
        (Loop, "broken.inner: Loop holds itself"),
        (Checked, "broken: \\['not_empty'\\] of Checked would have to run in Python"),
        (create_model("Empty"), "broken: Empty has no fields"),
        (create_model("Cases", a=(str, ...), A=(int, ...)), "broken: \\['A', 'a'\\] differ only in case"),
        (create_model("Deep", x=(dict[str, str], ...)), "Field broken.x is of type dict"),
    ],
)
def test_what_sql_cannot_check_or_hold_is_refused(annotation: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Fields(create_model("Wrong", broken=(annotation, ...)))


class Later(BaseModel):
    name: Unknown  # noqa: F821  # pyright: ignore[reportUndefinedVariable]


def test_an_annotation_that_leads_nowhere_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="Later has an annotation that is not known at run time \\('Unknown'\\)"):
        Fields(Later)
