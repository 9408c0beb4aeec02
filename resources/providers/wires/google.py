"""Google's request and result lines: Gemini's own API, and Vertex AI, which differs in the line only.

Shapes: `GenerateContentRequest` and its response, as the google-genai Python package 3.6.1 sends and reads them; result
lines: ai.google.dev's page on batches, read 2026-11-24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

from ...duck import literal
from ...errors import InputError
from ...request import Operation, RequestSpec
from .parameters import Parameters, a_list
from .wire import STRANGE, WRONG_REQUEST, Results, Wire, error_of, tokens_sql

_TASKS = {
    "document": "RETRIEVAL_DOCUMENT",
    "query": "RETRIEVAL_QUERY",
    "similarity": "SEMANTIC_SIMILARITY",
}

CHAT_PARAMETERS = Parameters(
    {
        **{
            name: f"generationConfig.{place}"
            for name, place in {
                "temperature": "temperature",
                "top_p": "topP",
                "top_k": "topK",
                "seed": "seed",
                "stop": "stopSequences",
                "stop_sequences": "stopSequences",
                "presence_penalty": "presencePenalty",
                "frequency_penalty": "frequencyPenalty",
                "thinking_config": "thinkingConfig",
                "thinking_budget": "thinkingConfig.thinkingBudget",
                "reasoning_effort": "thinkingConfig.thinkingLevel",
                "media_resolution": "mediaResolution",
            }.items()
        },
        "safety_settings": "safetySettings",
    },
    limit="generationConfig.maxOutputTokens",
    shaped={
        "generationConfig.stopSequences": a_list,
        "generationConfig.thinkingConfig.thinkingLevel": lambda value: str(value).upper(),
    },
)
EMBEDDING_PARAMETERS = Parameters(
    {"input_type": "taskType", "task_type": "taskType", "title": "title"},
    shaped={"taskType": lambda value: _TASKS.get(str(value).lower(), str(value).upper())},
)

_CANDIDATE = "$.candidates[0]"
_PARTS = f"TRY_CAST(body->'{_CANDIDATE}.content.parts' AS JSON[])"
_TEXT = f"""nullif(array_to_string(list_transform(
    list_filter({_PARTS}, lambda p: (p->>'$.thought') IS DISTINCT FROM 'true'),
    lambda p: coalesce(p->>'$.text', '')
), ''), '')"""
"""The answer's parts but for those that the model has only thought."""
_FINISH = f"(body->>'{_CANDIDATE}.finishReason')"
_BLOCKED = "(body->>'$.promptFeedback.blockReason')"
_FILTERS = (
    *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "LANGUAGE", "MODEL_ARMOR"),
    *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"),
)
_GOOD = ("STOP", "FINISH_REASON_UNSPECIFIED", "MAX_TOKENS", *_FILTERS)
_USAGE = "$.usageMetadata"


def _body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    if spec.operation is Operation.EMBEDDING:
        dimensions = {"outputDimensionality": spec.dimensions} if spec.dimensions else {}
        return {"content": {"parts": [{"text": prompt}]}, **dimensions, **spec.parameters}
    system = {"systemInstruction": {"parts": [{"text": spec.instruction}]}} if spec.instruction else {}
    config = dict(spec.parameters.get("generationConfig", {}))
    if spec.schema is not None:
        config |= {"responseMimeType": "application/json", "responseJsonSchema": spec.schema}
    return {
        **system,
        **spec.parameters,
        **({"generationConfig": config} if config else {}),
        "contents": [{"role": "user", "parts": [{"text": prompt}]}],
    }


def _line(_: str, body: Mapping[str, Any]) -> dict[str, Any]:
    return {"request": body}


def _answered(row: str, status: int, body: Any) -> dict[str, Any]:
    if 200 <= status < 300:
        return {"key": row, "response": body}
    return {"key": row, "error": {**error_of(body), "code": 400 if status in WRONG_REQUEST else status}}


def _failed(row: str, why: str) -> dict[str, Any]:
    return {"key": row, "error": {"code": 13, "message": why}}


def _written(name: str) -> str:
    return f"coalesce(TRY_CAST(body->>'{_USAGE}.{name}' AS BIGINT), 0)"


GEMINI_WIRE = Wire(
    name="gemini",
    body=_body,
    holders={Operation.CHAT: "contents", Operation.EMBEDDING: "content"},
    line=_line,
    row_id="key",
    inner="request",
    answered=_answered,
    failed=_failed,
    results=Results(
        row_id="key",
        # What is 3 to Google, an invalid argument, is 400 to everyone.
        status="""CASE WHEN json_type(line->'$.response') <> 'NULL' THEN 200
            WHEN line->>'$.error.code' IN ('3', '400') THEN 400 WHEN (line->'$.error') IS NOT NULL THEN 500 END""",
        body="line->'$.response'",
        error="""CASE WHEN line->>'$.error.code' IN ('1', '499') THEN json_object('code', 'batch_cancelled')
            WHEN json_type(line->'$.error') = 'OBJECT' THEN line->'$.error' END""",
        answer=_TEXT,
        vector="TRY_CAST(coalesce(body->'$.embedding.values', body->'$.embeddings[0].values') AS FLOAT[])",
        nothing=f"""CASE
            WHEN (body->'$.candidates') IS NULL AND json_type(body) <> 'NULL' THEN {STRANGE}
            ELSE 'the answer is empty'
        END""",
        stopped=f"""CASE WHEN {_FINISH} NOT IN ({", ".join(map(literal, _GOOD))})
            THEN 'the model stopped: ' || {_FINISH} END""",
        refusal=f"CASE WHEN {_BLOCKED} IS NOT NULL THEN 'the prompt was blocked: ' || {_BLOCKED} END",
        finish=f"""CASE WHEN {_FINISH} = 'MAX_TOKENS' THEN 'length'
            WHEN {_FINISH} IN ({", ".join(map(literal, _FILTERS))}) THEN 'content_filter' END""",
        input_tokens=tokens_sql(f"body->>'{_USAGE}.promptTokenCount'", "body->>'$.tokenCount'"),
        cached_tokens=tokens_sql(f"body->>'{_USAGE}.cachedContentTokenCount'"),
        # Counts that are 0 are left out; thoughts are paid as what is written.
        output_tokens=tokens_sql(
            f"CASE WHEN TRY_CAST(body->>'{_USAGE}.promptTokenCount' AS BIGINT) >= 0 "
            f"THEN {_written('candidatesTokenCount')} + {_written('thoughtsTokenCount')} END"
        ),
    ),
)


def _vertex_body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    body = _body(spec, prompt)
    if why := _not_imported(body):
        raise InputError(f"{why}. Vertex AI imports requests like a table, which can't hold that; change that field.")
    return body


def _not_imported(value: object) -> str | None:
    """Why a request can't be a row of BigQuery's: a name with a dollar sign, or a record without fields."""
    if isinstance(value, list):
        return next((why for one in cast("list[object]", value) if (why := _not_imported(one))), None)
    if not isinstance(value, dict):
        return None
    fields = cast("dict[str, object]", value)
    for name, inner in fields.items():
        if name.startswith("$"):
            return f"{name!r} begins with $"
        if any(one == {} for one in (cast("list[object]", inner) if isinstance(inner, list) else [inner])):
            return f"{name!r} is an empty object"
    return _not_imported(list(fields.values()))


def _vertex_answered(row: str, status: int, body: Any) -> dict[str, Any]:
    if 200 <= status < 300:
        return {"custom_id": row, "status": "", "response": body}
    kind = "Bad Request" if status in WRONG_REQUEST else f"Error {status}"
    return {"custom_id": row, "status": f"{kind}: {error_of(body).get('message')}"}


def _vertex_failed(row: str, why: str) -> dict[str, Any]:
    return {"custom_id": row, "status": f"Error: {why}"}


VERTEX_WIRE = replace(
    GEMINI_WIRE,
    name="vertex",
    row_id="custom_id",
    body=_vertex_body,
    answered=_vertex_answered,
    failed=_vertex_failed,
    results=replace(
        GEMINI_WIRE.results,
        row_id="custom_id",
        status="""CASE WHEN line->>'$.status' LIKE 'Bad Request%' THEN 400
            WHEN coalesce(line->>'$.status', '') <> '' THEN 500
            WHEN json_type(line->'$.response') <> 'NULL' THEN 200 END""",
        error="""CASE WHEN line->>'$.status' LIKE 'Cancelled%'
                THEN json_object('code', 'batch_cancelled', 'message', line->>'$.status')
            WHEN coalesce(line->>'$.status', '') <> '' THEN json_object('message', line->>'$.status') END""",
    ),
)
"""A failed row has a text as its status; what else stands in a request line comes back in the result line."""
