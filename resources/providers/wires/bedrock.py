"""Amazon Bedrock's request and result lines: of its own Converse, and of Claude's native requests.

Shapes: ``Converse`` of botocore's bedrock-runtime model 1.44.8, read 2026-11-25, and Anthropic's Messages; the line
around them: docs.aws.amazon.com's pages on batch inference, read 2026-11-24.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import InputError
from ...request import Operation, RequestSpec
from .anthropic import ANTHROPIC_WIRE
from .parameters import Parameters, a_list
from .wire import STRANGE, Results, Wire, error_of, tokens_sql

CONVERSE_PARAMETERS = Parameters(
    {
        "temperature": "inferenceConfig.temperature",
        "top_p": "inferenceConfig.topP",
        "stop": "inferenceConfig.stopSequences",
        "stop_sequences": "inferenceConfig.stopSequences",
        "reasoning_effort": "outputConfig.effort",
        "guardrail_config": "guardrailConfig",
        "additional_model_request_fields": "additionalModelRequestFields",
    },
    limit="inferenceConfig.maxTokens",
    shaped={"inferenceConfig.stopSequences": a_list},
)
CLAUDE_PARAMETERS = Parameters(
    {
        **{name: name for name in ("temperature", "top_p", "top_k", "thinking", "stop_sequences", "anthropic_beta")},
        "stop": "stop_sequences",
    },
    limit="max_tokens",
    shaped={"stop_sequences": a_list, "anthropic_beta": a_list},
)

_ERROR = "line->'$.error'"
_TEXT = "nullif(array_to_string(body->>'$.output.message.content[*].text', ''), '')"
_STOP = "body->>'$.stopReason'"
_TOOL = "answer"
_BODY = "line->'$.modelOutput'"


def _count(name: str) -> str:
    return f"TRY_CAST(body->>'$.usage.{name}' AS BIGINT)"


def _line(_: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"modelInput": body}


def _converse_body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [{"text": prompt}]}], **spec.parameters}
    if spec.instruction:
        body["system"] = [{"text": spec.instruction}]
    if spec.schema is not None:
        schema = {"name": _TOOL, "schema": json.dumps(spec.schema)}
        strict = {"type": "json_schema", "structure": {"jsonSchema": schema}}
        body["outputConfig"] = {**spec.parameters.get("outputConfig", {}), "textFormat": strict}
    return body


def _claude_body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    if "anthropic" not in spec.model and not spec.model.startswith("arn:"):
        raise InputError(
            f"model is {spec.model!r}; invocation='InvokeModel' asks in the words of Anthropic's models, others are "
            "asked with invocation='Converse'."
        )
    # The plain body: batches have no prompt cache, and a schema is a tool's that the model has to call.
    body = ANTHROPIC_WIRE.body(replace(spec, instruction="", schema=None), prompt)
    del body["model"]
    system = {"system": spec.instruction} if spec.instruction else {}
    tool: dict[str, Any] = {}
    if spec.schema is not None:
        words = "Gives the answer. Call it once."
        tool["tools"] = [{"name": _TOOL, "description": words, "input_schema": spec.schema}]
        tool["tool_choice"] = {"type": "tool", "name": _TOOL}
    return {"anthropic_version": "bedrock-2023-05-31", **system, **tool, **body}


def _answered(row: str, status: int, body: Any) -> dict[str, Any]:
    if 200 <= status < 300:
        return {"recordId": row, "modelOutput": body}
    return {"recordId": row, "error": {"errorCode": status, "errorMessage": error_of(body).get("message")}}


def _failed(row: str, why: str) -> dict[str, Any]:
    return {"recordId": row, "error": {"errorCode": 500, "errorMessage": why}}


CONVERSE_WIRE = Wire(
    name="bedrock",
    body=_converse_body,
    holders={Operation.CHAT: "messages"},
    line=_line,
    row_id="recordId",
    inner="modelInput",
    answered=_answered,
    failed=_failed,
    results=Results(
        row_id="recordId",
        status=f"""CASE WHEN json_type({_BODY}) <> 'NULL' THEN 200
            WHEN json_type({_ERROR}) = 'OBJECT'
                THEN coalesce(TRY_CAST({_ERROR}->>'$.errorCode' AS INTEGER), 500) END""",
        body=_BODY,
        error=f"""CASE WHEN json_type({_BODY}) <> 'NULL' THEN NULL WHEN json_type({_ERROR}) = 'OBJECT'
            THEN json_object('code', {_ERROR}->>'$.errorCode', 'message', {_ERROR}->>'$.errorMessage') END""",
        answer=_TEXT,
        nothing=f"""CASE
            WHEN (body->'$.output') IS NULL AND json_type(body) <> 'NULL' THEN {STRANGE}
            WHEN {_STOP} = 'tool_use' THEN 'the model called a tool instead of answering'
            ELSE 'the answer is empty'
        END""",
        stopped=f"CASE WHEN {_STOP} LIKE 'malformed%' THEN 'the model stopped: ' || ({_STOP}) END",
        refusal=f"CASE WHEN {_STOP} = 'guardrail_intervened' THEN coalesce({_TEXT}, 'stopped by your guardrail') END",
        finish=f"""CASE WHEN {_STOP} IN ('max_tokens', 'model_context_window_exceeded') THEN 'length'
            WHEN {_STOP} = 'content_filtered' THEN 'content_filter' END""",
        input_tokens=tokens_sql(
            f"{_count('inputTokens')} + coalesce({_count('cacheReadInputTokens')}, 0)"
            f" + coalesce({_count('cacheWriteInputTokens')}, 0)"
        ),
        cached_tokens=tokens_sql(_count("cacheReadInputTokens")),
        output_tokens=tokens_sql(_count("outputTokens")),
    ),
)

CLAUDE_WIRE = replace(
    CONVERSE_WIRE,
    name="bedrock-claude",
    body=_claude_body,
    results=replace(
        ANTHROPIC_WIRE.results,
        row_id="recordId",
        status=CONVERSE_WIRE.results.status,
        body=CONVERSE_WIRE.results.body,
        error=CONVERSE_WIRE.results.error,
        answer=f"coalesce((body->'$.content[*].input')[1]::VARCHAR, {ANTHROPIC_WIRE.results.answer})",
    ),
)
"""A schema is that of a tool which the model has to call, and the call's input is the answer."""
