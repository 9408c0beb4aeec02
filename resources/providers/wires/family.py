"""Lines of providers that have taken over OpenAI's, each with what it does differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...request import Operation, RequestSpec
from .openai import OPENAI_WIRE
from .wire import tokens_sql


def _body_only(_: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"body": body}


def _without_model(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    body = OPENAI_WIRE.body(spec, prompt)
    del body["model"]
    if spec.operation is Operation.EMBEDDING:
        del body["encoding_format"]
        if dimensions := body.pop("dimensions", None):
            body["output_dimension"] = dimensions
    return body


def _texts_only(_: RequestSpec, prompt: str) -> dict[str, Any]:
    return {"input": [prompt]}


TOGETHER_WIRE = replace(OPENAI_WIRE, name="together", line=_body_only)
"""A line names neither method nor endpoint."""

MISTRAL_WIRE = replace(
    OPENAI_WIRE,
    name="mistral",
    body=_without_model,
    line=_body_only,
    results=replace(
        OPENAI_WIRE.results,
        finish="""CASE body->>'$.choices[0].finish_reason' WHEN 'model_length' THEN 'length'
            ELSE body->>'$.choices[0].finish_reason' END""",
    ),
)
"""A line doesn't name the model either: the job does."""

VOYAGE_WIRE = replace(
    OPENAI_WIRE,
    name="voyage",
    body=_texts_only,
    holders={Operation.EMBEDDING: "input"},
    line=_body_only,
    results=replace(OPENAI_WIRE.results, input_tokens=tokens_sql("body->>'$.usage.total_tokens'")),
)
"""All that rows share is said of the job."""
