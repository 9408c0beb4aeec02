"""Lines of providers that have taken over OpenAI's, each with what it does differently."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...request import Operation, RequestSpec
from .openai import OPENAI_WIRE
from .wire import WRONG_REQUEST, error_of, tokens_sql


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


def _nameless(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    return {name: value for name, value in OPENAI_WIRE.body(spec, prompt).items() if name != "model"}


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

OPENROUTER_WIRE = replace(
    OPENAI_WIRE,
    name="openrouter",
    body=_nameless,
    line=_body_only,
    results=replace(
        OPENAI_WIRE.results,
        # Whether a response has a status and a body, or is the body, isn't documented.
        status="""CASE
            WHEN (line->'$.response.body') IS NOT NULL THEN TRY_CAST(line->>'$.response.status_code' AS INTEGER)
            WHEN json_type(line->'$.response') <> 'NULL' THEN 200 END""",
        body="coalesce(line->'$.response.body', line->'$.response')",
    ),
)
"""The job names the model, and is its own results."""

_RESULT = "line->'$.batch_result"
_USED = "TRY_CAST(body->>'$.usage.{}' AS BIGINT)"


def _xai_answered(row: str, status: int, body: Any) -> dict[str, Any]:
    if status in WRONG_REQUEST:
        return _xai_line(row, error={**error_of(body), "code": 400})
    return _xai_line(row, response={"chat_get_completion": body})


def _xai_failed(row: str, why: str) -> dict[str, Any]:
    return _xai_line(row, error={"code": 13, "message": why})


def _xai_line(row: str, **result: Any) -> dict[str, Any]:
    return {"batch_request_id": row, "batch_result": {"response": None, "error": None, **result}}


XAI_WIRE = replace(
    OPENAI_WIRE,
    name="xai",
    answered=_xai_answered,
    failed=_xai_failed,
    results=replace(
        OPENAI_WIRE.results,
        row_id="batch_request_id",
        status=f"""CASE WHEN json_type({_RESULT}.response') = 'OBJECT' THEN 200
            WHEN ({_RESULT}.error.code')::VARCHAR IN ('3', '400') THEN 400
            WHEN ({_RESULT}.error') IS NOT NULL THEN 500 END""",
        # What the model has only thought isn't among its completion_tokens, but is paid.
        output_tokens=tokens_sql(
            f"greatest({_USED.format('completion_tokens')}, "
            f"{_USED.format('total_tokens')} - {_USED.format('prompt_tokens')})"
        ),
        # The reply stands in an object of one field, which is called after its endpoint.
        body=f"coalesce({_RESULT}.response.chat_get_completion', {_RESULT}.response.completion_response', "
        f"{_RESULT}.response')",
        error=f"""CASE WHEN ({_RESULT}.error.code')::VARCHAR IN ('1', '499') THEN json_object('code', 'batch_cancelled')
            WHEN json_type({_RESULT}.error') = 'OBJECT' THEN {_RESULT}.error' END""",
    ),
)

FIREWORKS_WIRE = replace(OPENROUTER_WIRE, name="fireworks")
"""So it is here, as far as is known."""
