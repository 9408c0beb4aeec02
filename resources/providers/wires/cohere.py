"""Cohere's batches: request lines, and result lines as `CohereBatches` writes them from Avro records.

Shapes: ``V2ChatResponse`` of the cohere Python package 7.3.1; which fields a batch's dataset takes, and what a record
has: RubyLLM's Cohere protocol, read 2026-11-25.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...duck import literal
from ...errors import InputError
from ...request import Operation, RequestSpec
from .parameters import Parameters
from .wire import STRANGE, Results, Wire, error_of, tokens_sql

# There is neither a response_format nor a stop sequence among the fields that a batch's dataset takes.
CHAT_PARAMETERS = Parameters.named(
    (
        "temperature",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "reasoning",
        "thinking_budget",
        "max_input_tokens",
    ),
    limit="max_tokens",
    top_p="p",
    top_k="k",
)

_INPUT_TYPES = {"document": "search_document", "query": "search_query"}
EMBEDDING_PARAMETERS = Parameters(
    {"input_type": "input_type", "truncate": "truncate"},
    shaped={"input_type": lambda value: _INPUT_TYPES.get(str(value), value)},
)

_ERROR = "line->'$.error'"
_TEXT = "nullif(array_to_string(body->>'$.message.content[*].text', ''), '')"
_FENCED = r"(?s)^\s*```(?:json|JSON)?\s*(\{.*\})\s*```\s*$"
_OBJECT = f"regexp_extract({_TEXT}, {literal(_FENCED)}, 1)"
"""One object of JSON, which was asked for in words, in a fence and with nothing around it."""
_FINISH = "body->>'$.finish_reason'"


def _body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    if spec.operation is Operation.EMBEDDING:
        if spec.dimensions:
            raise InputError("batches of embeddings take no dimensions; leave them out, or name another provider.")
        asked = {"input_type": "search_document", "embedding_types": ["float"], **spec.parameters}
        return {**asked, "texts": [prompt]}
    system = [spec.instruction] if spec.instruction else []
    if spec.schema is not None:
        schema = json.dumps(spec.schema, ensure_ascii=False)
        system.append(f"Answer with one JSON object that follows this JSON schema, and with nothing else:\n{schema}")
    messages = [_message("system", "\n\n".join(system))] if system else []
    return {**spec.parameters, "messages": [*messages, _message("user", prompt)]}


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _line(_: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"body": body}


def _count(name: str) -> str:
    return f"round(TRY_CAST(coalesce(body->>'$.usage.tokens.{name}', body->>'$.usage.billed_units.{name}') AS DOUBLE))"


def _answered(row: str, status: int, body: Any) -> dict[str, Any]:
    if 200 <= status < 300:
        return {"custom_id": row, "response": body}
    error = {"message": error_of(body).get("message"), "status_code": status}
    return {"custom_id": row, "response": None, "error": error}


def _failed(row: str, why: str) -> dict[str, Any]:
    return {"custom_id": row, "response": None, "error": {"message": why, "status_code": 500}}


COHERE_WIRE = Wire(
    name="cohere",
    body=_body,
    holders={Operation.CHAT: "messages", Operation.EMBEDDING: "texts"},
    line=_line,
    answered=_answered,
    failed=_failed,
    results=Results(
        status=f"""CASE WHEN json_type(line->'$.response') <> 'NULL' THEN 200
            ELSE TRY_CAST({_ERROR}->>'$.status_code' AS INTEGER) END""",
        body="line->'$.response'",
        error=f"CASE WHEN json_type(line->'$.response') = 'NULL' AND json_type({_ERROR}) <> 'NULL' THEN {_ERROR} END",
        answer=f"CASE WHEN json_valid({_OBJECT}) THEN {_OBJECT} ELSE {_TEXT} END",
        vector="TRY_CAST(coalesce(body->'$.embeddings.float[0]', body->'$.embeddings[0]') AS FLOAT[])",
        nothing=f"""CASE
            WHEN (body->'$.message') IS NULL AND json_type(body) <> 'NULL' THEN {STRANGE}
            WHEN {_FINISH} = 'TOOL_CALL' THEN 'the model called a tool instead of answering'
            ELSE 'the answer is empty'
        END""",
        stopped=f"CASE WHEN {_FINISH} IN ('ERROR', 'TIMEOUT') THEN 'the model stopped: ' || ({_FINISH}) END",
        refusal="NULL::VARCHAR",  # one that declines is an answer like others
        finish=f"CASE WHEN {_FINISH} = 'MAX_TOKENS' THEN 'length' END",
        input_tokens=tokens_sql(
            _count("input_tokens"), "round(TRY_CAST(body->>'$.meta.billed_units.input_tokens' AS DOUBLE))"
        ),
        cached_tokens=tokens_sql("round(TRY_CAST(body->>'$.usage.cached_tokens' AS DOUBLE))"),
        output_tokens=tokens_sql(_count("output_tokens")),
    ),
)
"""A schema is asked for in words, and checked afterwards as every answer is."""
