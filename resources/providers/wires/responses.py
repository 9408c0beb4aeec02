"""OpenAI's Responses API: other bodies in the same lines.

Shapes: `ResponseCreateParams` and `Response` of the openai Python package 3.57.0, read 2026-11-25.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...request import Operation, RequestSpec
from .openai import OPENAI_WIRE
from .wire import STRANGE, tokens_sql

_MESSAGES = """list_filter(TRY_CAST(body->'$.output' AS JSON[]), lambda item: (item->>'$.type') = 'message')"""
_PARTS = f"flatten(list_transform({_MESSAGES}, lambda item: TRY_CAST(item->'$.content' AS JSON[])))"


def _said(kind: str, field: str) -> str:
    """The parts of one kind, put together; NULL if there is none."""
    parts = f"list_filter({_PARTS}, lambda part: (part->>'$.type') = '{kind}')"
    return f"nullif(array_to_string(list_transform({parts}, lambda part: part->>'$.{field}'), ''), '')"


def _body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    if spec.operation is not Operation.CHAT:
        return OPENAI_WIRE.body(spec, prompt)
    body: dict[str, Any] = {"model": spec.model, **spec.parameters, "input": prompt}
    if spec.instruction:
        body["instructions"] = spec.instruction
    if spec.schema is not None:
        strict = {"type": "json_schema", "name": "answer", "strict": True, "schema": spec.schema}
        body["text"] = {**spec.parameters.get("text", {}), "format": strict}
    return body


RESPONSES_WIRE = replace(
    OPENAI_WIRE,
    name="openai-responses",
    body=_body,
    holders={**OPENAI_WIRE.holders, Operation.CHAT: "input"},
    results=replace(
        OPENAI_WIRE.results,
        answer=_said("output_text", "text"),
        nothing=f"""CASE
            WHEN (body->'$.output') IS NULL AND json_type(body) <> 'NULL' THEN {STRANGE}
            ELSE 'the answer is empty'
        END""",
        refusal=_said("refusal", "refusal"),
        finish="""CASE body->>'$.incomplete_details.reason' WHEN 'max_output_tokens' THEN 'length'
            WHEN 'content_filter' THEN 'content_filter' END""",
        cached_tokens=tokens_sql(
            "body->>'$.usage.input_tokens_details.cached_tokens'",
            "body->>'$.usage.prompt_tokens_details.cached_tokens'",
        ),
    ),
)
