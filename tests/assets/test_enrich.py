"""Several typed columns per row, from declaration to table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import enrich_asset, llm_table
from dagster_batch_llm.resources.errors import InputError
from pydantic import BaseModel, Field, create_model

from .conftest import House, rows_asset
from .fake_provider import Rule, answered, errored


class Dish(BaseModel):
    name: str
    price: float | None


class Review(BaseModel):
    mood: Literal["happy", "angry"] = Field(description="How the guest feels\n- happy: likes it\n- angry: does not")
    stars: int | None = Field(description="Stars given")
    again: bool
    dishes: list[Dish]
    best: Dish | None


SOUP = {"name": "soup", "price": 4.5}
GOOD: Mapping[str, Any] = {"mood": "happy", "stars": None, "again": True, "dishes": [SOUP], "best": SOUP}


def reviews(*texts: str) -> dg.AssetsDefinition:
    return rows_asset("reviews", pa.table({"id": range(len(texts)), "text": texts}))


def details(**how: Any) -> dg.AssetsDefinition:
    given: dict[str, Any] = {"source": "reviews", "row_key": "id", "prompt": "{text}", "output": Review}
    return enrich_asset(name="details", llm="llm", model="m", **{**given, **how})


def model_of(*names: str) -> type[BaseModel]:
    """A model with fields of this name."""
    fields: Any = dict.fromkeys(names, (str, ...))
    return create_model("Model", **fields)


def by_text(answers: Mapping[str, Mapping[str, Any]]) -> Rule:
    return lambda prompt, body: answers[prompt]


def test_each_field_of_the_model_becomes_a_column(house: House) -> None:
    house.server.rule = by_text(
        {
            "a": answered(json.dumps(GOOD)),
            "b": answered(json.dumps({**GOOD, "mood": "angry", "stars": 1, "dishes": [], "best": None})),
        }
    )
    metadata = house.done(reviews("a", "b"), details(keep=["text"]))
    assert house.table("details").to_pylist() == [
        {"id": 0, "text": "a", **GOOD, "status": "ok", "error": None},
        {"id": 1, "text": "b", "mood": "angry", "stars": 1, "again": True, "dishes": [], "best": None}
        | {"status": "ok", "error": None},
    ]
    types = {column.name: column.type for column in metadata["dagster/column_schema"].columns}
    assert types["dishes"] == 'STRUCT("name" VARCHAR, "price" DOUBLE)[]'
    assert house.types("SELECT mood, stars, again, best FROM details") == {
        "mood": "string", "stars": "int64", "again": "bool", "best": "struct<name: string, price: double>",
    }  # fmt: skip


def test_a_column_keeps_its_type_when_every_row_failed(house: House) -> None:
    house.server.rule = lambda prompt, body: errored("server_error", "it broke")
    house.done(reviews("a"), details())
    assert house.types("SELECT stars, best FROM details") == {
        "stars": "int64", "best": "struct<name: string, price: double>",
    }  # fmt: skip
    assert house.rows("details", "mood, best, status") == [(None, None, "errored")]


def test_an_answer_that_breaks_the_model_is_an_error_row_beside_good_ones(house: House) -> None:
    broken = {**GOOD, "dishes": [SOUP, {"name": "tea", "price": "free"}]}
    house.server.rule = by_text(
        {"a": answered(json.dumps(broken)), "b": answered(json.dumps(GOOD)), "c": answered("I'd say happy.")}
    )
    house.done(reviews("a", "b", "c"), details())
    assert house.rows("details", "id, status, split_part(error, chr(10), 1), dishes") == [
        (0, "invalid", 'dishes[1].price is "free", not a number', None),
        (1, "ok", None, [SOUP]),
        (2, "invalid", "the answer is not JSON: I'd say happy.", None),
    ]
    assert house.server.prompts.count("a") == 3  # an unusable answer may be luck
    assert house.server.prompts.count("b") == 1


def test_fields_are_asked_for_in_the_models_order(house: House) -> None:
    house.server.rule = lambda prompt, body: answered(json.dumps(GOOD))
    house.done(reviews("a"), details())
    (asked,) = house.server.requests
    schema = asked["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["mood", "stars", "again", "dishes", "best"]
    assert schema["required"] == list(schema["properties"])
    assert "- mood (one of happy, angry): How the guest feels" in asked["messages"][0]["content"]


def test_models_that_differ_in_the_order_of_their_fields_ask_different_questions(house: House) -> None:
    house.server.rule = lambda prompt, body: answered('{"a": "x", "b": "y"}')
    here, there = create_model("M", a=(str, ...), b=(str, ...)), create_model("M", b=(str, ...), a=(str, ...))
    house.done(reviews("t"), details(output=here, instruction="Fill in."))
    house.done(reviews("t"), details(output=there, instruction="Fill in."))
    assert [list(body["response_format"]["json_schema"]["schema"]["properties"]) for body in house.server.requests] == [
        ["a", "b"],
        ["b", "a"],
    ]


def test_a_class_of_another_name_asks_nothing_again(house: House) -> None:
    house.server.rule = lambda prompt, body: answered('{"a": "x"}')
    house.done(reviews("t"), details(output=create_model("Old", a=(str, ...))))
    house.server.forget()
    house.done(reviews("t"), details(output=create_model("New", a=(str, ...))))
    assert house.server.prompts == []


def test_a_function_may_give_the_rows(house: House) -> None:
    @llm_table(row_key="id", prompt="{text}", output=Dish, llm="llm", model="m")
    def dishes(reviews: pd.DataFrame) -> pd.DataFrame:
        return reviews[reviews.id > 0]

    house.server.rule = lambda prompt, body: answered(json.dumps({"name": prompt, "price": 1}))
    house.done(reviews("a", "b"), dishes)
    assert house.rows("dishes", "id, name, price") == [(1, "b", 1.0)]


def test_your_own_instruction_takes_the_place_of_the_default(house: House) -> None:
    house.server.rule = lambda prompt, body: answered(json.dumps(GOOD))
    house.done(reviews("a"), details(instruction="Be kind."))
    assert house.server.requests[0]["messages"][0] == {"role": "system", "content": "Be kind."}


@pytest.mark.parametrize("name", ["status", "error", "id", "text", "STATUS"])
def test_a_field_may_not_be_called_like_another_column(name: str) -> None:
    with pytest.raises(InputError, match="details: The table would have two columns named"):
        details(output=model_of(name), keep=["text"])


def test_a_model_that_cannot_work_is_refused_when_it_is_declared_and_the_table_is_named() -> None:
    with pytest.raises(InputError, match=r"^details: Field facts is of type dict"):
        details(output=create_model("Wrong", facts=(dict[str, str], ...)))
    with pytest.raises(
        InputError, match=r"^details: output is a pydantic model, Labels, Vector or Text, got <class 'int'>"
    ):
        details(output=int)
