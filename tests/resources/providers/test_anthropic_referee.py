"""The anthropic package as referee: it asks the same of the same server, and reads the same from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anthropic
import pytest
from anthropic.types.messages.batch_create_params import Request
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.providers.anthropic import ANTHROPIC, AnthropicBatch, MessageBatches
from dagster_batch_llm.resources.providers.protocol import Phase
from dagster_batch_llm.resources.providers.wires.anthropic import ANTHROPIC_WIRE
from dagster_batch_llm.resources.request import RequestSpec
from pydantic import TypeAdapter

from ..fake_anthropic import FakeAnthropic, failed, message, text_of
from ..fake_clock import FakeClock
from ..rendered import rendered
from ..served import served
from .test_anthropic import CHAT

PROMPTS = ["hello", "two\nlines", 'quotes " and ünïcode']


@pytest.fixture
def fake() -> FakeAnthropic:
    return FakeAnthropic(FakeClock())


@pytest.fixture
def address(fake: FakeAnthropic) -> Iterator[str]:
    with served(fake.handle) as fake.address:
        yield fake.address


@pytest.fixture
def ours(address: str) -> Iterator[MessageBatches]:
    provider = cast("MessageBatches", AnthropicBatch(api_key="sk-test", base_url=address).provider())
    yield provider
    provider.close()


@pytest.fixture
def theirs(address: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=address, api_key="sk-test", max_retries=0, default_headers={"x-api-key": "sk-test"}
    ) as client:
        yield client


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A request file as it is rendered."""
    return rendered(tmp_path / "rows.jsonl", ANTHROPIC, CHAT, PROMPTS)


def requests_of(lines: Path) -> list[Any]:
    return [json.loads(line) for line in lines.read_text().splitlines()]


def test_they_take_our_requests_and_send_the_same(
    fake: FakeAnthropic, ours: MessageBatches, theirs: anthropic.Anthropic, lines: Path
) -> None:
    requests = requests_of(lines)
    TypeAdapter(list[Request]).validate_python(requests)
    we_made = ours.create(ours.upload(lines, lines.name), CHAT, "t", lambda: None)
    they_made = theirs.messages.batches.create(requests=requests)
    assert fake.batches[we_made.id]["_requests"] == fake.batches[they_made.id]["_requests"]
    assert [text_of(row["params"]) for row in fake.batches[we_made.id]["_requests"]] == PROMPTS


def test_they_see_the_batches_that_we_see(
    fake: FakeAnthropic, ours: MessageBatches, theirs: anthropic.Anthropic, lines: Path
) -> None:
    made = [ours.create(ours.upload(lines, lines.name), CHAT, "t", lambda: None) for _ in range(3)]
    fake.clock.sleep(61.0)
    for batch in made:
        seen = theirs.messages.batches.retrieve(batch.id)
        assert ours.check(batch.id) == ours.parse(json.loads(seen.model_dump_json()))
        assert ours.check(batch.id).phase is Phase.COMPLETED
    listed = [batch.id for batch in theirs.messages.batches.list(limit=2)]
    assert [batch.id for batch in ours.list(0.0).batches] == listed


def test_what_we_cancel_is_cancelled_to_them(ours: MessageBatches, theirs: anthropic.Anthropic, lines: Path) -> None:
    batch = ours.create(ours.upload(lines, lines.name), CHAT, "t", lambda: None)
    ours.cancel(batch.id)
    assert theirs.messages.batches.retrieve(batch.id).request_counts.canceled == len(PROMPTS)
    assert ours.check(batch.id).phase is Phase.CANCELLED
    ours.cancel(batch.id)  # one that has ended is fine


def test_they_read_the_results_that_we_read(
    fake: FakeAnthropic, ours: MessageBatches, theirs: anthropic.Anthropic, lines: Path, tmp_path: Path
) -> None:
    fake.result = lambda params: failed("api_error", "oops") if text_of(params) == PROMPTS[1] else message(params)
    batch = ours.create(ours.upload(lines, lines.name), CHAT, "t", lambda: None)
    fake.clock.sleep(61.0)
    (path,) = ours.fetch(ours.check(batch.id), tmp_path / "results")
    engine = connect()
    engine.execute(f"CREATE TEMP VIEW lines AS SELECT json AS line FROM read_ndjson_objects('{path}')")
    said = ANTHROPIC_WIRE.result_sql(RequestSpec(CHAT.operation, CHAT.model))
    found = rows(engine, f"SELECT custom_id, answer, input_tokens, output_tokens, reason FROM ({said})")
    read: list[tuple[Any, ...]] = []
    for result in theirs.messages.batches.results(batch.id):
        if result.result.type == "succeeded":
            block, usage = result.result.message.content[0], result.result.message.usage
            cached = (usage.cache_creation_input_tokens or 0) + (usage.cache_read_input_tokens or 0)
            text = block.text if block.type == "text" else None
            read.append((result.custom_id, text, usage.input_tokens + cached, usage.output_tokens, None))
        elif result.result.type == "errored":
            error = result.result.error.error
            read.append((result.custom_id, None, None, None, f"{error.type}: {error.message}"))
    assert found == read
    assert ours.first_custom_id(ours.check(batch.id)) == read[0][0]
