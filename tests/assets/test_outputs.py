"""What an answer becomes, and declarations that can't become anything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dagster_batch_llm.assets import Labels, Text, Vector, classify_asset
from dagster_batch_llm.resources.duck import connect
from dagster_batch_llm.resources.errors import InputError


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["praise"], "at least two labels, got \\['praise'\\]"),
        ({"praise": "says what is good"}, "at least two labels"),
        ([], "at least two labels, got \\[\\]"),
        (["praise", "complaint", "praise"], "declared twice: \\['praise'\\]"),
        ("praise", "non-empty strings.*'praise'"),
        (["praise", ""], "non-empty strings"),
        (["praise", " "], "non-empty strings"),
        ({"praise", "complaint"}, "non-empty strings, or a mapping"),
        (["praise", "complaint"].__iter__(), "non-empty strings, or a mapping"),
        ([1, 2], "non-empty strings.*\\[1, 2\\]"),
    ],
)
def test_labels_that_cannot_be_chosen_from_are_refused(labels: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Labels(labels)
    with pytest.raises(InputError, match=says):
        classify_asset(name="t", source="s", row_key="id", prompt="{x}", labels=labels, llm="llm", model="m")


@pytest.mark.parametrize("dimensions", [0, -1])
def test_a_vector_has_a_length(dimensions: int) -> None:
    with pytest.raises(InputError, match=f"at least one dimension, got {dimensions}"):
        Vector(dimensions)


def test_descriptions_are_part_of_the_question() -> None:
    assert "- praise: says what is good\n- other" in Labels({"praise": "says what is good", "other": ""}).instruction


def test_the_schema_allows_the_labels_and_nothing_else() -> None:
    schema = Labels(["b", "a"], column="mood").schema
    assert schema["properties"] == {"mood": {"type": "string", "enum": ["b", "a"]}}
    assert (schema["required"], schema["additionalProperties"]) == (["mood"], False)


@pytest.mark.parametrize("column", ["label", "a b", "a.b", 'quo"te', "it's", "back\\slash", "$x", "[0]", "ünï😀"])
def test_a_label_column_may_have_any_name(column: str) -> None:
    (declared,) = Labels(["a", "b"], column=column).columns
    answer = json.dumps({column: "a"})
    assert connect().execute(f"SELECT {declared.sql} FROM (SELECT $1 AS answer)", [answer]).fetchall() == [("a",)]


def test_free_text_is_kept_as_it_came() -> None:
    (declared,) = Text(column="summary").columns
    assert (declared.name, declared.sql) == ("summary", "answer")
