"""One text per row."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import summarize_asset
from dagster_batch_llm.resources.errors import InputError

from .conftest import House, rows_asset
from .fake_provider import answered


def reviews(*texts: str) -> dg.AssetsDefinition:
    return rows_asset("reviews", pa.table({"id": range(len(texts)), "text": texts}))


def summaries(**how: Any) -> dg.AssetsDefinition:
    return summarize_asset(
        name="summaries", source="reviews", row_key="id", prompt="{text}", llm="llm", model="m", **how
    )


def test_a_summary_is_kept_as_it_came(house: House) -> None:
    house.server.rule = lambda prompt, body: answered(f" {prompt},\nin short")
    house.done(reviews("a", "b"), summaries(keep=["text"]))
    assert house.table("summaries").to_pylist() == [
        {"id": 0, "text": "a", "summary": " a,\nin short", "status": "ok", "error": None},
        {"id": 1, "text": "b", "summary": " b,\nin short", "status": "ok", "error": None},
    ]


@pytest.mark.parametrize(
    ("how", "asked"),
    [
        ({}, "Summarize the text in one sentence."),
        ({"max_words": 20}, "Summarize the text in at most 20 words."),
        ({"instruction": "Say it in French."}, "Say it in French."),
    ],
)
def test_how_long_it_may_be_is_said_in_the_instruction(house: House, how: dict[str, Any], asked: str) -> None:
    house.done(reviews("a"), summaries(**how))
    (request,) = house.server.requests
    assert request["messages"][0]["content"].startswith(asked)
    assert "response_format" not in request


def test_a_summary_that_is_too_long_is_paid_for_and_kept(house: House) -> None:
    house.server.rule = lambda prompt, body: answered("word " * 50)
    house.done(reviews("a"), summaries(max_words=3))
    assert house.rows("summaries", "summary, status") == [("word " * 50, "ok")]
    assert house.server.prompts == ["a"]


def test_the_column_may_be_called_otherwise(house: House) -> None:
    house.done(reviews("a"), summaries(summary_column="gist"))
    assert house.rows("summaries", "gist") == [("a",)]


@pytest.mark.parametrize("words", [0, -1])
def test_a_summary_has_at_least_one_word(words: int) -> None:
    with pytest.raises(InputError, match=f"summaries: a summary has at least one word, got max_words={words}"):
        summaries(max_words=words)


def test_a_limit_that_nobody_would_read_is_refused() -> None:
    with pytest.raises(InputError, match="summaries: max_words is part of the default instruction"):
        summaries(max_words=5, instruction="Be brief.")


def test_a_column_that_is_ours_is_refused() -> None:
    with pytest.raises(InputError, match="two columns named \\['status'\\]"):
        summaries(summary_column="status")
