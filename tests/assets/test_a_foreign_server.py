"""Tables that AIBrix's batch server fills, through the resource that a user declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import summarize_asset
from dagster_batch_llm.resources import OpenAICompatibleBatch
from dagster_batch_llm.resources.providers import compatible

from ..resources.providers.aibrix import installed, running_aibrix, running_model
from .conftest import House, rows_asset

pytestmark = pytest.mark.real


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    installed()
    monkeypatch.setattr(compatible, "COMPATIBLE", replace(compatible.COMPATIBLE, poll_seconds=(0.1, 0.5)))


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[OpenAICompatibleBatch]:
    """The server as its command starts it: the answer to a request is the request."""
    with running_aibrix(tmp_path / "aibrix") as address:
        yield OpenAICompatibleBatch(base_url=address, completion_window="1d12h")


def summaries(house: House, llm: OpenAICompatibleBatch, *texts: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """(id, summary, status, error) of a table with these texts."""
    reviews = rows_asset("reviews", pa.table({"id": range(len(texts)), "text": texts}))
    table: dg.AssetsDefinition = summarize_asset(
        name="summaries", source="reviews", row_key="id", prompt="{text}", llm="llm", model="m", parameters=parameters
    )
    house.done(reviews, table, resources={"llm": llm})
    return house.rows("summaries")


def test_a_models_answers_fill_the_table_and_what_it_refuses_is_an_error_row(house: House, tmp_path: Path) -> None:
    with running_model() as (_, behind), running_aibrix(tmp_path / "aibrix", model=behind) as address:
        llm = OpenAICompatibleBatch(base_url=address, completion_window="6h")
        found = summaries(house, llm, "one", "bad two", "three")
    assert [row[:3] for row in found] == [(0, "re: one", "ok"), (1, None, "errored"), (2, "re: three", "ok")]
    assert "inference_failed" in found[1][3]


def test_an_echo_is_no_answer(house: House, echo: OpenAICompatibleBatch) -> None:
    found = summaries(house, echo, "one", "two")
    assert [row[:3] for row in found] == [(number, None, "invalid") for number in range(2)]
    assert all(row[3].startswith("instead of an answer the provider sent {") for row in found)


def test_small_batches_are_many_batches(house: House, echo: OpenAICompatibleBatch) -> None:
    small = OpenAICompatibleBatch(base_url=echo.base_url, max_rows_per_batch=2)
    answer = {"message": {"role": "assistant", "content": "it echoes this"}, "finish_reason": "stop"}
    found = summaries(house, small, "one", "two", "three", "four", "five", choices=[answer])
    assert found == [(number, "it echoes this", "ok", None) for number in range(5)]
    assert [attempt.rows for attempt in house.ledger.attempts.find()] == [2, 2, 1]
