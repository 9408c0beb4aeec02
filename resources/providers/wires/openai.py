"""OpenAI's request and result lines, which most other APIs have taken over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...duck import literal
from ...request import Operation, RequestSpec
from .wire import STRANGE, Results, Wire, tokens_sql

_EMPTY_ERROR = r"""\s*(null|""|false|\[\s*\]|\{\s*("\w+"\s*:\s*(null|"")\s*,?\s*)*\})\s*"""

_CONTENT = """CASE json_type(body->'$.choices[0].message.content')
    WHEN 'ARRAY' THEN nullif(array_to_string(body->>'$.choices[0].message.content[*].text', ''), '')
    ELSE body->>'$.choices[0].message.content'
END"""
"""The answer's text; some servers cut it into parts."""
_NOTHING = f"""CASE
    WHEN (body->'$.choices') IS NULL AND (body->'$.results') IS NULL AND json_type(body) <> 'NULL' THEN {STRANGE}
    WHEN (body->'$.choices[0].message.tool_calls[0]') IS NOT NULL THEN 'the model called a tool instead of answering'
    ELSE 'the answer is empty'
END"""


def _body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    if spec.operation is Operation.MODERATION:
        return {"model": spec.model, "input": prompt, **spec.parameters}
    if spec.operation is Operation.EMBEDDING:
        dimensions = {"dimensions": spec.dimensions} if spec.dimensions else {}
        return {"model": spec.model, "input": prompt, "encoding_format": "float", **dimensions, **spec.parameters}
    messages = [{"role": "system", "content": spec.instruction}] if spec.instruction else []
    messages.append({"role": "user", "content": prompt})
    body: dict[str, Any] = {"model": spec.model, "messages": messages, **spec.parameters}
    if spec.schema is not None:
        strict = {"name": "answer", "strict": True, "schema": spec.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": strict}
    return body


def _line(endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"method": "POST", "url": endpoint, "body": body}


def _error_sql(error: str) -> str:
    """SQL for an error; some servers send an empty one with every answer, or one whose fields are all empty."""
    empty = literal(_EMPTY_ERROR)
    return f"CASE WHEN NOT regexp_full_match(({error})::VARCHAR, {empty}) THEN {error} END"


# vLLM's `run-batch` puts one error into another, in the file of the answers.
_ERRORS = ("line->'$.error.error'", "line->'$.error'", "line->'$.response.body.error'")
_ERROR = ", ".join(_error_sql(place) for place in _ERRORS)

OPENAI_WIRE = Wire(
    name="openai",
    body=_body,
    holders={Operation.CHAT: "messages", Operation.EMBEDDING: "input", Operation.MODERATION: "input"},
    line=_line,
    results=Results(
        status="TRY_CAST(line->>'$.response.status_code' AS INTEGER)",
        body="line->'$.response.body'",
        error=f"coalesce({_ERROR})",
        answer=_CONTENT,
        vector="TRY_CAST(body->'$.data[0].embedding' AS FLOAT[])",
        verdict="CASE WHEN json_type(body->'$.results[0]') = 'OBJECT' THEN (body->'$.results[0]')::VARCHAR END",
        nothing=_NOTHING,
        stopped="CASE WHEN body->>'$.choices[0].finish_reason' = 'error' THEN 'the model stopped: error' END",
        refusal="nullif(body->>'$.choices[0].message.refusal', '')",
        finish="body->>'$.choices[0].finish_reason'",
        input_tokens=tokens_sql("body->>'$.usage.prompt_tokens'", "body->>'$.usage.input_tokens'"),
        cached_tokens=tokens_sql("body->>'$.usage.prompt_tokens_details.cached_tokens'"),
        output_tokens=tokens_sql("body->>'$.usage.completion_tokens'", "body->>'$.usage.output_tokens'"),
    ),
)
