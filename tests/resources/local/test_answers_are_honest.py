"""What a request is answered with, decided with a stand-in for the encoder that shows its working."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from dagster_batch_llm.resources.local.answer import CHAT, EMBEDDINGS, LocalEngine
from dagster_batch_llm.resources.local.minilm import DIMENSIONS, Encoded
from dagster_batch_llm.resources.local.sentence import first_sentence
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion


class WordEncoder:
    """Texts are near each other when they share words."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        self.seen.extend(texts)
        return [self._encode(text) for text in texts]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def _encode(self, text: str) -> Encoded:
        vector = np.full(DIMENSIONS, 1e-3, dtype=np.float32)
        for word in text.lower().replace(":", " ").replace(".", " ").split():
            vector[sum(word.encode("utf-8", "surrogatepass")) % DIMENSIONS] += 1
        return Encoded((vector / np.linalg.norm(vector)).astype(np.float32), len(text.split()))


@pytest.fixture
def encoder() -> WordEncoder:
    return WordEncoder()


@pytest.fixture
def engine(encoder: WordEncoder) -> LocalEngine:
    return LocalEngine(encoder, now=lambda: 1000.0)


def chat(text: object, properties: object = None, *, system: str | None = None, **more: object) -> dict[str, object]:
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    body: dict[str, object] = {"model": "any", "messages": messages, **more}
    if properties is not None:
        schema = {"type": "object", "properties": properties}
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return body


def completion(engine: LocalEngine, body: Mapping[str, object]) -> ChatCompletion:
    (answer,) = engine.answer([body], CHAT)
    assert answer.status == 200, answer.body
    return ChatCompletion.model_validate(answer.body)


def content(engine: LocalEngine, body: Mapping[str, object]) -> Any:
    return json.loads(completion(engine, body).choices[0].message.content or "")


def refusal(engine: LocalEngine, body: Mapping[str, object], endpoint: str = CHAT) -> dict[str, Any]:
    (answer,) = engine.answer([body], endpoint)
    assert answer.status == 400
    error = answer.body["error"]
    assert isinstance(error, dict)
    return error  # pyright: ignore[reportUnknownVariableType]


TEXT = "The rain floods rivers. Later the sun shines."
LABELS = ["sport", "weather"]


@pytest.mark.parametrize(
    ("schema", "system"),
    [
        ({"type": "string", "enum": LABELS}, "Pick one.\n- sport: ball and goal\n- weather: rain and sun\n"),
        ({"type": "string", "enum": LABELS, "description": "* sport: ball\n* `weather`: rain, the sun"}, None),
        ({"anyOf": [{"const": "sport", "description": "ball"}, {"const": "weather", "description": "rain"}]}, None),
        ({"oneOf": [{"const": "sport", "description": "ball"}, {"const": "weather", "description": "rain"}]}, None),
        ({"type": ["string", "null"], "enum": [*LABELS, None]}, "- sport: ball\n- weather: rain"),
        ({"anyOf": [{"type": "string", "enum": LABELS}, {"type": "null"}]}, "- **weather**: rain"),
        ({"allOf": [{"type": "string", "enum": LABELS}]}, "- weather: rain"),
    ],
)
def test_a_label_is_chosen_by_its_description_wherever_it_stands(
    engine: LocalEngine, schema: object, system: str | None
) -> None:
    body = chat(TEXT, {"topic": schema}, system=system)
    assert content(engine, body) == {"topic": "weather"}
    assert completion(engine, body).model == "all-MiniLM-L6-v2/nearest-label"


def test_labels_without_descriptions_are_compared_as_they_are(engine: LocalEngine, encoder: WordEncoder) -> None:
    assert content(engine, chat("I like sport", {"topic": {"enum": LABELS}})) == {"topic": "sport"}
    assert encoder.seen == ["I like sport", "sport", "weather"]


def test_the_nearer_description_wins_and_labels_may_hold_colons(engine: LocalEngine, encoder: WordEncoder) -> None:
    schema = {"enum": ["a:b", "c"], "description": "- a:b: mine\n- other: nobody's"}
    content(engine, chat("x", {"topic": schema}, system="- a:b: not mine\n- c: yours"))
    assert encoder.seen == ["x", "a:b: mine", "c: yours"]


def test_an_enum_class_of_pydantic_is_found_behind_its_reference(engine: LocalEngine) -> None:
    body = chat("rain", {"topic": {"$ref": "#/$defs/Topic", "description": "- weather: rain"}})
    schema: Any = body["response_format"]
    schema["json_schema"]["schema"]["$defs"] = {"Topic": {"enum": LABELS, "type": "string"}}
    assert content(engine, body) == {"topic": "weather"}


def test_a_string_property_is_the_first_sentence(engine: LocalEngine) -> None:
    body = chat(TEXT, {"summary": {"type": "string"}, "short": {"type": "string", "maxLength": 8}})
    assert content(engine, body) == {"summary": "The rain floods rivers.", "short": "The rain"}
    assert completion(engine, body).model == "first-sentence"


def test_a_chat_without_a_format_is_answered_with_the_first_sentence(engine: LocalEngine) -> None:
    parts = [{"type": "text", "text": "One. Two."}, {"type": "text", "text": "Three."}]
    found = completion(engine, chat(parts, system="be brief"))
    assert found.choices[0].message.content == "One."
    assert found.choices[0].finish_reason == "stop"
    assert found.model == "first-sentence"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (5, 1, 6)


def test_a_property_that_can_only_be_null_is_null(engine: LocalEngine) -> None:
    assert content(engine, chat("x", {"nothing": {"type": "null"}})) == {"nothing": None}


@pytest.mark.parametrize(
    ("schema", "word"),
    [
        ({"type": "number"}, "number"),
        ({"type": "integer"}, "integer"),
        ({"type": "boolean"}, "boolean"),
        ({"type": "array", "items": {"type": "string"}}, "array"),
        ({"type": "object"}, "object"),
        ({"anyOf": [{"type": "string"}, {"type": "number"}]}, "number"),
        ({"enum": [1, 2]}, "integer"),
        ({"enum": ["a", True]}, "boolean"),
        ({"type": "string", "format": "date"}, "format"),
        ({"type": "string", "pattern": "^[0-9]+$"}, "pattern"),
        ({}, "no type"),
        ({"$ref": "#/$defs/Missing"}, "leads nowhere"),
        ({"$ref": "https://example.com/schema"}, "leaves the schema"),
        ({"$ref": "#/properties/score"}, "no type"),
    ],
)
def test_what_can_not_be_answered_is_refused_with_the_property_and_its_type(
    engine: LocalEngine, schema: object, word: str
) -> None:
    error = refusal(engine, chat(TEXT, {"score": schema}))
    assert error["code"] == "unsupported_by_local_engine"
    assert word in error["message"]
    assert "score" in error["message"] or "reference" in error["message"]


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [{"type": "function"}]},
        {"stream": True},
        {"n": 2},
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_a_feature_there_is_not_is_refused_by_name(engine: LocalEngine, more: dict[str, Any]) -> None:
    error = refusal(engine, chat("x", **more))
    assert error["code"] == "unsupported_by_local_engine"
    assert next(iter(more)) in error["message"]


def test_an_image_is_refused(engine: LocalEngine) -> None:
    error = refusal(engine, chat([{"type": "image_url", "image_url": {"url": "data:"}}]))
    assert "image_url" in error["message"]


def test_one_refused_row_leaves_its_neighbours_alone(engine: LocalEngine) -> None:
    bodies: list[dict[str, object]] = [
        chat("Good."),
        chat("x", {"n": {"type": "number"}}),
        chat(""),
        {"messages": []},
        chat("Fine."),
    ]
    assert [answer.status for answer in engine.answer(bodies, CHAT)] == [200, 400, 400, 400, 200]


def test_an_embedding_is_a_unit_vector_in_either_encoding(engine: LocalEngine) -> None:
    bodies: list[dict[str, object]] = [
        {"model": "any", "input": ["one two", "three"]},
        {"model": "any", "input": "one two", "encoding_format": "base64"},
        {"model": "any", "input": "one two", "dimensions": 8},
    ]
    plain, packed, short = engine.answer(bodies, EMBEDDINGS)
    found = CreateEmbeddingResponse.model_validate(plain.body)
    assert found.model == "all-MiniLM-L6-v2"
    assert [item.index for item in found.data] == [0, 1]
    assert found.usage.prompt_tokens == found.usage.total_tokens == 3
    data: Any = packed.body["data"]
    unpacked = np.frombuffer(base64.b64decode(data[0]["embedding"]), dtype="<f4")
    np.testing.assert_array_equal(unpacked, np.array(found.data[0].embedding, dtype=np.float32))
    cut = np.array(CreateEmbeddingResponse.model_validate(short.body).data[0].embedding)
    assert cut.shape == (8,)
    assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        {"input": ""},
        {"input": []},
        {"input": [1, 2]},
        {"input": ["a"] * 2049},
        {"input": None},
        {"input": "a", "dimensions": 0},
        {"input": "a", "dimensions": 385},
        {"input": "a", "dimensions": True},
        {"input": "a", "encoding_format": "hex"},
    ],
)
def test_a_malformed_embedding_request_is_refused(engine: LocalEngine, more: dict[str, object]) -> None:
    assert refusal(engine, {"model": "any", **more}, EMBEDDINGS)["message"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two.", "One."),
        ("  Wrapped\n over lines! More.", "Wrapped over lines!"),
        ("A heading\n\nA paragraph.", "A heading"),
        ("Use it, e.g. like so. Then stop.", "Use it, e.g. like so."),
        ("Written by J. Smith. In May.", "Written by J. Smith."),
        ('He said "stop." Then left.', 'He said "stop."'),
        ("Version 3.11 is out. Good.", "Version 3.11 is out."),
        ("\u4e00\u3002\u4e8c\u3002", "\u4e00\u3002"),
        ("no end", "no end"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_the_first_sentence_ends_where_a_reader_would_end_it(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SCHEMA: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "null", "number", "object", ["string", "null"], 7]),
            "enum": st.lists(st.sampled_from(["a", "b", None, 1, "\ud800"]), max_size=3) | JSON,
            "const": JSON,
            "$ref": st.sampled_from(["#", "#/properties/p", "#/$defs/x", "#/properties", 3]),
            "description": st.sampled_from(["- a: x", "- b: :", "\n- :", 5]),
            "maxLength": st.sampled_from([-1, 0, 3, "x", True]),
        },
    ),
    lambda inner: (
        st.fixed_dictionaries({"anyOf": st.lists(inner, max_size=3)}) | st.fixed_dictionaries({"allOf": inner})
    ),
    max_leaves=5,
)


def _format(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"schema": {"properties": {"p": schema}}}}


BODY: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"model": st.just("m")},
    optional={
        "messages": st.lists(
            st.fixed_dictionaries({"role": st.sampled_from(["user", "system", 1]), "content": JSON}) | JSON, max_size=3
        )
        | JSON,
        "response_format": JSON | st.builds(_format, SCHEMA),
        "input": JSON | st.lists(st.text(max_size=5), max_size=3),
        "dimensions": JSON,
        "encoding_format": JSON,
        "n": JSON,
        "tools": JSON,
        "modalities": JSON,
    },
)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(bodies=st.lists(BODY | st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=3))
@pytest.mark.parametrize("endpoint", [CHAT, EMBEDDINGS])
def test_no_request_raises_and_each_has_one_answer(endpoint: str, bodies: list[dict[str, object]]) -> None:
    answers = LocalEngine(WordEncoder()).answer(bodies, endpoint)
    assert len(answers) == len(bodies)
    for answer in answers:
        assert answer.status in (200, 400)
        assert json.dumps(answer.body)


def test_a_request_nested_beyond_reason_is_refused(engine: LocalEngine) -> None:
    nested: object = "x"
    for _ in range(5000):
        nested = {"anyOf": [nested]}
    assert refusal(engine, chat("x", {"p": nested}))["message"]
