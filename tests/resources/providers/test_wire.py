from __future__ import annotations

import json
from dataclasses import replace

import pytest
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.providers.compatible import COMPATIBLE
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.wires.openai import OPENAI_WIRE
from dagster_batch_llm.resources.providers.wires.wire import line_bytes_sql, line_sql
from dagster_batch_llm.resources.request import LIMITS, Operation, RequestSpec
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from openai.types.embedding_create_params import EmbeddingCreateParams
from pydantic import TypeAdapter

CHAT = RequestSpec(
    operation=Operation.CHAT,
    model="gpt-4.1-mini",
    instruction="Choose.",
    schema={"type": "object", "properties": {"label": {"type": "string"}}},
    parameters={"max_completion_tokens": 5},
)
EMBEDDING = RequestSpec(operation=Operation.EMBEDDING, model="text-embedding-3-small", dimensions=256)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_the_official_package_takes_our_bodies() -> None:
    TypeAdapter(CompletionCreateParamsNonStreaming).validate_python(OPENAI_WIRE.body(CHAT, "hello"))
    TypeAdapter(EmbeddingCreateParams).validate_python(OPENAI_WIRE.body(EMBEDDING, "hello"))


def test_nothing_is_said_that_was_not_declared() -> None:
    spec = RequestSpec(operation=Operation.CHAT, model="m")
    assert OPENAI_WIRE.body(spec, "hello") == {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.mark.parametrize(("spec", "holder"), [(CHAT, "messages"), (EMBEDDING, "input")], ids=["chat", "embedding"])
def test_parameters_can_not_take_the_prompts_place(spec: RequestSpec, holder: str) -> None:
    with pytest.raises(InputError, match=f"parameters may not have '{holder}'"):
        COMPATIBLE.line_parts(replace(spec, parameters={holder: "mine"}))
    with pytest.raises(InputError, match=f"openai: parameters has '{holder}', which can't be set"):
        OPENAI.line_parts(replace(spec, parameters={holder: "mine"}))


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_has_one_name_at_openai_whatever_the_task_calls_it(name: str) -> None:
    assert OPENAI.placed(replace(CHAT, parameters={name: 7})).parameters == {"max_completion_tokens": 7}
    with pytest.raises(InputError, match=f"{name} is 'many'; it is a number of tokens"):
        OPENAI.placed(replace(CHAT, parameters={name: "many"}))


@pytest.mark.parametrize("spec", [CHAT, EMBEDDING], ids=["chat", "embedding"])
@settings(max_examples=40)
@given(prompt=TEXT)
def test_a_line_is_never_longer_than_it_was_planned(spec: RequestSpec, prompt: str) -> None:
    parts = OPENAI.line_parts(spec)
    line, planned = rows(
        connect(), f"SELECT {line_sql(parts, '$id', '$prompt')}, {line_bytes_sql(parts, '$prompt')}",
        {"id": "x" * 64, "prompt": prompt},
    )[0]  # fmt: skip
    assert len(line.encode()) == planned
    assert json.loads(line)["body"] == OPENAI_WIRE.body(spec, prompt)
