"""A result line of each provider, in the shape that its documentation or its package gives it, and what it says.

None was recorded by us: there is no account here. Shapes: openai 3.57.0, anthropic 2.12.0, google-genai 3.6.1,
mistralai 3.7.0, botocore 1.44.8, cohere 7.3.1, together 3.1.1, xai-sdk 1.21.0; ai.google.dev on batches; Voyage's
guide; the pages named in the wires.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.providers.wires import WIRES
from dagster_batch_llm.resources.request import Operation, RequestSpec

LABEL = '{"label": "good"}'
TEXT = RequestSpec(Operation.CHAT, "m")
VECTOR = RequestSpec(Operation.EMBEDDING, "m")

Said = tuple[str, str | None, int | None, int | None, int | None]
"""Outcome, answer, and tokens: read, of these from a cache, written."""


def chat(content: str | None = LABEL, finish: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion."""
    usage = {
        "prompt_tokens": 40, "completion_tokens": 12, "total_tokens": 52,
        "prompt_tokens_details": {"cached_tokens": 32}, "completion_tokens_details": {"reasoning_tokens": 5},
    }  # fmt: skip
    said = {"role": "assistant", "content": content, "refusal": None, **message}
    choice = {"index": 0, "message": said, "finish_reason": finish, "logprobs": None}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def openai(body: Any, status: int = 200, error: Any = None) -> dict[str, Any]:
    response = {"status_code": status, "request_id": "req_1", "body": body} if body is not None else None
    return {"id": "batch_req_1", "custom_id": "t-0", "response": response, "error": error}


def vllm(body: Any, status: int, error: Any) -> dict[str, Any]:
    """A line of the file that vLLM's `run-batch` writes (0.33); answers and errors are in one file."""
    given = {"status_code": status, "request_id": "vllm-batch-1", "body": body}
    return {"id": "vllm-1", "custom_id": "t-0", "response": given, "error": error}


def response(**fields: Any) -> dict[str, Any]:
    """A reply of the Responses API."""
    part: dict[str, Any] = {"type": "output_text", "text": LABEL, "annotations": []}
    message = {"type": "message", "role": "assistant", "content": [part]}
    usage = {"input_tokens": 40, "input_tokens_details": {"cached_tokens": 32}, "output_tokens": 12}
    thought: dict[str, Any] = {"type": "reasoning_text", "text": "hm"}
    reasoning: dict[str, Any] = {"type": "reasoning", "content": [thought]}
    body = {"id": "resp_1", "status": "completed", "output": [reasoning, message], "usage": usage, "error": None}
    return openai({**body, **fields})


def record(**fields: Any) -> dict[str, Any]:
    """A line of Bedrock's output."""
    return {"recordId": "t-0", "modelInput": {}, **fields}


def converse(stop: str = "end_turn") -> dict[str, Any]:
    thought: dict[str, Any] = {"reasoningContent": {"reasoningText": {"text": "hm"}}}
    message: dict[str, Any] = {"role": "assistant", "content": [thought, {"text": LABEL}]}
    usage = {"inputTokens": 8, "outputTokens": 12, "totalTokens": 52, "cacheReadInputTokens": 32}
    return record(modelOutput={"output": {"message": message}, "stopReason": stop, "usage": usage})


def cohere(finish: str = "COMPLETE") -> dict[str, Any]:
    """A record of Cohere's output, as it is kept."""
    message = {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": LABEL}],
    }
    usage = {"billed_units": {"input_tokens": 9.0}, "tokens": {"input_tokens": 40.0, "output_tokens": 12.0}}
    reply = {"id": "r", "finish_reason": finish, "message": message, "usage": {**usage, "cached_tokens": 32.0}}
    return {"custom_id": "t-0", "response": reply, "error": None}


def anthropic(stop: str = "end_turn", **usage: int) -> dict[str, Any]:
    used = {"input_tokens": 3, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 32, "output_tokens": 12}
    blocks: list[dict[str, str]] = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": LABEL}]
    message = {"id": "msg_1", "role": "assistant", "content": blocks, "stop_reason": stop, "usage": {**used, **usage}}
    return {"custom_id": "t-0", "result": {"type": "succeeded", "message": message}}


def gemini(finish: str = "STOP", **fields: Any) -> dict[str, Any]:
    parts = [{"text": "hm", "thought": True}, {"text": LABEL}]
    usage = {
        "promptTokenCount": 40, "cachedContentTokenCount": 32, "candidatesTokenCount": 7, "thoughtsTokenCount": 5,
        "totalTokenCount": 52,
    }  # fmt: skip
    candidate = {"content": {"parts": parts, "role": "model"}, "finishReason": finish}
    said = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m", "responseId": "1", **fields}
    return {"key": "t-0", "response": said}


def vertex(**fields: Any) -> dict[str, Any]:
    said = gemini()["response"]
    return {
        "custom_id": "t-0",
        "status": "",
        "processed_time": "x",
        "request": {"contents": []},
        "response": said,
        **fields,
    }


def xai(body: Any, error: Any = None) -> dict[str, Any]:
    given = {"chat_get_completion": body} if body is not None else None
    return {"batch_request_id": "t-0", "batch_result": {"response": given, "error": error}}


OK: Said = ("ok", LABEL, 40, 32, 12)
NONE = (None, None, None, None)
BAD = {"error": {"message": "no such model", "type": "invalid_request_error", "code": "model_not_found", "param": None}}
EXPIRED = {"code": "batch_expired", "message": "This request could not be executed before the window expired."}

LINES: list[tuple[str, dict[str, Any], Said]] = [
    ("openai", openai(chat()), OK),
    ("openai", openai(chat(None, refusal="I can't")), ("refused", None, 40, 32, 12)),
    ("openai", openai(chat("a pi", "length")), ("truncated", "a pi", 40, 32, 12)),
    ("openai", openai(chat("", "content_filter")), ("refused", "", 40, 32, 12)),
    ("openai", openai(BAD, 400), ("refused", *NONE)),
    ("openai", openai({"error": {"message": "slow down"}}, 429), ("errored", *NONE)),
    ("openai", openai(None, error=EXPIRED), ("expired", *NONE)),
    ("openai", vllm(chat(), 200, None), OK),
    ("openai", vllm(None, 400, {"error": {"message": "bad", "code": 400}}), ("refused", *NONE)),
    ("openai", vllm(None, 500, "EngineDeadError"), ("errored", *NONE)),
    ("openai-responses", response(), OK),
    (
        "openai-responses",
        response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        ("truncated", LABEL, 40, 32, 12),
    ),
    (
        "openai-responses",
        response(output=[{"type": "message", "content": [{"type": "refusal", "refusal": "I can't"}]}]),
        ("refused", None, 40, 32, 12),
    ),
    ("openai-responses", openai(BAD, 400), ("refused", *NONE)),
    ("openai-responses", openai(None, error=EXPIRED), ("expired", *NONE)),
    ("anthropic", anthropic(), OK),
    ("anthropic", anthropic("max_tokens"), ("truncated", LABEL, 40, 32, 12)),
    ("anthropic", anthropic("refusal"), ("refused", LABEL, 40, 32, 12)),
    ("anthropic", {"custom_id": "t-0", "result": {"type": "expired"}}, ("expired", *NONE)),
    ("anthropic", {"custom_id": "t-0", "result": {"type": "canceled"}}, ("expired", *NONE)),
    (
        "anthropic",
        {"custom_id": "t-0", "result": {"type": "errored", "error": {
            "type": "error", "request_id": "r", "error": {"type": "invalid_request_error", "message": "bad"},
        }}},
        ("refused", *NONE),
    ),
    ("gemini", gemini(), OK),
    ("gemini", gemini("MAX_TOKENS"), ("truncated", LABEL, 40, 32, 12)),
    ("gemini", gemini("SAFETY"), ("refused", LABEL, 40, 32, 12)),
    (
        "gemini",
        {"key": "t-0", "response": {
            "promptFeedback": {"blockReason": "OTHER"}, "usageMetadata": {"promptTokenCount": 40},
        }},
        ("refused", None, 40, None, 0),
    ),
    ("gemini", {"key": "t-0", "error": {"code": 3, "message": "bad"}}, ("refused", *NONE)),
    ("gemini", {"key": "t-0", "error": {"code": 13, "message": "oops"}}, ("errored", *NONE)),
    ("vertex", vertex(), OK),
    ("vertex", vertex(response=None, status='Bad Request: {"error": 1}'), ("refused", *NONE)),
    ("vertex", vertex(response=None, status="Internal: oops"), ("errored", *NONE)),
    ("mistral", {"custom_id": "t-0", "response": {"status_code": 200, "body": chat()}}, OK),
    ("mistral", {"custom_id": "t-0", "response": {"status_code": 200, "body": chat("a", "model_length")}},
     ("truncated", "a", 40, 32, 12)),
    ("mistral", {"custom_id": "t-0", "response": {"status_code": 422, "body": {"detail": "no"}}, "error": None},
     ("refused", *NONE)),
    ("together", openai(chat()), OK),
    ("together", openai(None, error={"message": "oops", "code": "500"}), ("errored", *NONE)),
    ("xai", xai(chat()), OK),
    ("xai", xai(None, {"code": 3, "message": "bad"}), ("refused", *NONE)),
    ("xai", xai(None, {"code": 13, "message": "oops"}), ("errored", *NONE)),
    ("openrouter", {"custom_id": "t-0", "response": {"status_code": 200, "body": chat()}, "error": None}, OK),
    ("openrouter", {"custom_id": "t-0", "response": chat()}, OK),
    ("openrouter", {"custom_id": "t-0", "response": None, "error": {"code": 500, "message": "no"}}, ("errored", *NONE)),
    ("fireworks", {"custom_id": "t-0", "response": chat()}, OK),
    ("bedrock", converse(), OK),
    ("bedrock", converse("max_tokens"), ("truncated", LABEL, 40, 32, 12)),
    ("bedrock", converse("guardrail_intervened"), ("refused", LABEL, 40, 32, 12)),
    ("bedrock", converse("content_filtered"), ("refused", LABEL, 40, 32, 12)),
    ("bedrock", record(error={"errorCode": 400, "errorMessage": "bad request"}), ("refused", *NONE)),
    ("bedrock", record(error={"errorCode": 503, "errorMessage": "later"}), ("errored", *NONE)),
    ("bedrock-claude", record(modelOutput=anthropic()["result"]["message"]), OK),
    ("bedrock-claude", record(modelOutput=anthropic("max_tokens")["result"]["message"]),
     ("truncated", LABEL, 40, 32, 12)),
    ("bedrock-claude", record(error={"errorCode": 400, "errorMessage": "bad request"}), ("refused", *NONE)),
    ("cohere", cohere(), OK),
    ("cohere", cohere("MAX_TOKENS"), ("truncated", LABEL, 40, 32, 12)),
    ("cohere", {"custom_id": "t-0", "response": None, "error": {"message": "oops"}}, ("errored", *NONE)),
]  # fmt: skip

VECTORS = [
    ("openai", openai({"data": [{"index": 0, "embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 4}})),
    ("mistral", openai({"data": [{"index": 0, "embedding": [0.5, 1.0]}], "usage": {"prompt_tokens": 4}})),
    ("voyage", {"batch_id": "b", "custom_id": "t-0", "response": {"status_code": 200, "body": {
        "object": "list", "data": [{"object": "embedding", "embedding": [0.5, 1.0], "index": 0}], "model": "m",
        "usage": {"total_tokens": 4}}}, "error": None}),
    ("cohere", {"custom_id": "t-0", "response": {
        "embeddings": {"float": [[0.5, 1.0]]}, "meta": {"billed_units": {"input_tokens": 4}}}, "error": None}),
    ("gemini", {"key": "t-0", "response": {"embedding": {"values": [0.5, 1.0]}, "tokenCount": 4}}),
]  # fmt: skip


def read(wire: str, line: dict[str, Any], spec: RequestSpec, columns: str) -> tuple[Any, ...]:
    engine = connect()
    engine.execute("CREATE TEMP TABLE lines AS SELECT $1::JSON AS line", [json.dumps(line)])
    (found,) = rows(engine, f"SELECT custom_id, {columns} FROM ({WIRES[wire].result_sql(spec)})")
    assert found[0] == "t-0"
    return found[1:]


@pytest.mark.parametrize(("wire", "line", "said"), LINES, ids=[f"{wire}-{n}" for n, (wire, _, _) in enumerate(LINES)])
def test_a_result_line_says_what_its_provider_means(wire: str, line: dict[str, Any], said: Said) -> None:
    assert read(wire, line, TEXT, "outcome, answer, input_tokens, cached_tokens, output_tokens") == said


@pytest.mark.parametrize(("wire", "line"), VECTORS, ids=[wire for wire, _ in VECTORS])
def test_a_vector_is_read_with_what_it_cost(wire: str, line: dict[str, Any]) -> None:
    assert read(wire, line, VECTOR, "outcome, vector, input_tokens, unmetered") == ("ok", [0.5, 1.0], 4, False)


@pytest.mark.parametrize(
    ("wire", "line"),
    [
        ("mistral", openai(chat("The answer is", "error"))),
        ("openrouter", openai(chat("The answer is", "error"))),
        ("gemini", gemini("MALFORMED_RESPONSE")),
        ("gemini", gemini("OTHER")),
        ("cohere", {"custom_id": "t-0", "response": {
            "finish_reason": "ERROR", "message": {"content": [{"type": "text", "text": "The answer is"}]}}}),
    ],
)  # fmt: skip
def test_an_answer_that_broke_off_is_none(wire: str, line: dict[str, Any]) -> None:
    outcome, reason = read(wire, line, TEXT, "outcome, reason")
    assert outcome == "invalid"
    assert str(reason).startswith("the model stopped: ")


def test_what_xais_models_only_think_is_counted() -> None:
    body = chat()
    body["usage"] = {"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 135}
    assert read("xai", xai(body), TEXT, "input_tokens, output_tokens") == (32, 103)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('```json\n{"label": "good"}\n```', '{"label": "good"}'),
        ('```json\n{"label": "`good`"}\n```\n', '{"label": "`good`"}'),
        ('```json\n{"label": "```py\\nx\\n```"}\n```', '{"label": "```py\\nx\\n```"}'),
        ('```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```', '```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```'),
        ("Use this:\n```python\nprint(1)\n```", "Use this:\n```python\nprint(1)\n```"),
    ],
)
def test_only_an_answer_that_is_nothing_but_fenced_json_loses_its_fence(text: str, answer: str) -> None:
    said = {"message": {"content": [{"type": "text", "text": text}]}, "finish_reason": "COMPLETE"}
    assert read("cohere", {"custom_id": "t-0", "response": said}, TEXT, "answer") == (answer,)


def test_why_a_row_failed_is_said_however_deep_it_stands() -> None:
    line = vllm(None, 400, {"error": {"message": "too long", "type": "BadRequestError", "code": 400}})
    assert read("openai", line, TEXT, "reason") == ("400: too long",)
    assert read("openai", vllm(None, 500, "EngineDeadError"), TEXT, "reason") == ("status 500: EngineDeadError",)


def test_every_wire_has_a_line_here() -> None:
    assert {wire for wire, *_ in (*LINES, *VECTORS)} == set(WIRES)
