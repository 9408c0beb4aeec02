"""Anthropic's Message Batches: request and result lines.

Shapes: the types of the anthropic Python package 2.12.0, and platform.claude.com's pages on batches and structured
outputs, read 2026-11-24.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...request import Operation, RequestSpec
from .wire import STRANGE, Results, Wire, error_of, tokens_sql

MOST_UNIONS = 16
"""In one schema, of platform.claude.com's page on structured outputs."""

DEFAULT_MAX_TOKENS = 4096
"""Anthropic wants a limit in every request; this is ours where a table sets none."""

_ERROR = "line->'$.result.error.error'"
_ENDED_EARLY = """json_object('code', CASE line->>'$.result.type'
    WHEN 'expired' THEN 'batch_expired' ELSE 'batch_cancelled' END)"""
_TEXT = "nullif(array_to_string(body->>'$.content[*].text', ''), '')"
_STOP = "body->>'$.stop_reason'"
_STATUS = f"""CASE {_ERROR}->>'$.type'
    WHEN 'invalid_request_error' THEN 400
    WHEN 'request_too_large' THEN 413
    ELSE 500
END"""


def _body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": spec.model,
        "max_tokens": DEFAULT_MAX_TOKENS,
        "messages": [{"role": "user", "content": prompt}],
        **spec.parameters,
    }
    if spec.instruction:
        # All rows share it. A batch may take longer than the 5 minutes for which a prefix is kept by default.
        cached = {"type": "ephemeral", "ttl": "1h"}
        body["system"] = [{"type": "text", "text": spec.instruction, "cache_control": cached}]
    if spec.schema is not None:
        _check(spec.schema)
        strict = {"type": "json_schema", "schema": spec.schema}
        body["output_config"] = {**spec.parameters.get("output_config", {}), "format": strict}
    return body


def _check(schema: Mapping[str, Any]) -> None:
    """A structured output is refused in every row if too many of its fields may be null."""
    unions = json.dumps(schema).count('"anyOf":')
    if unions > MOST_UNIONS:
        raise InputError(
            f"the answer has {unions} fields that may be null; Anthropic takes {MOST_UNIONS}. Make some of them plain, "
            "such as str with '' for nothing, or spread them over two tables."
        )


def _line(_: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"params": body}


def _answered(row: str, status: int, body: Any) -> dict[str, Any]:
    if 200 <= status < 300:
        return {"custom_id": row, "result": {"type": "succeeded", "message": body}}
    # Of what kind an error is, its status tells, too, if something in between has answered.
    kind = {400: "invalid_request_error", 413: "request_too_large", 422: "invalid_request_error"}.get(status)
    return _errored(row, {**error_of(body), **({"type": kind} if kind else {})})


def _failed(row: str, why: str) -> dict[str, Any]:
    return _errored(row, {"type": "failed", "message": why})


def _errored(row: str, error: dict[str, Any]) -> dict[str, Any]:
    return {"custom_id": row, "result": {"type": "errored", "error": {"type": "error", "error": error}}}


def _count(name: str) -> str:
    return f"TRY_CAST(body->>'$.usage.{name}' AS BIGINT)"


ANTHROPIC_WIRE = Wire(
    name="anthropic",
    body=_body,
    holders={Operation.CHAT: "messages"},
    line=_line,
    inner="params",
    answered=_answered,
    failed=_failed,
    results=Results(
        status=f"CASE line->>'$.result.type' WHEN 'succeeded' THEN 200 WHEN 'errored' THEN {_STATUS} END",
        body="line->'$.result.message'",
        error=f"""CASE
            WHEN line->>'$.result.type' = 'errored' THEN coalesce({_ERROR}, line->'$.result')
            WHEN line->>'$.result.type' IN ('expired', 'canceled') THEN {_ENDED_EARLY}
        END""",
        answer=_TEXT,
        nothing=f"""CASE
            WHEN (body->'$.content') IS NULL AND json_type(body) <> 'NULL' THEN {STRANGE}
            WHEN {_STOP} = 'tool_use' THEN 'the model called a tool instead of answering'
            ELSE 'the answer is empty'
        END""",
        refusal=f"""CASE WHEN {_STOP} = 'refusal'
            THEN coalesce(body->>'$.stop_details.explanation', {_TEXT}, 'the model refused') END""",
        finish=f"CASE WHEN {_STOP} IN ('max_tokens', 'model_context_window_exceeded') THEN 'length' END",
        input_tokens=tokens_sql(
            f"{_count('input_tokens')} + coalesce({_count('cache_creation_input_tokens')}, 0)"
            f" + coalesce({_count('cache_read_input_tokens')}, 0)"
        ),
        cached_tokens=tokens_sql(_count("cache_read_input_tokens")),
        output_tokens=tokens_sql(_count("output_tokens")),
    ),
)
