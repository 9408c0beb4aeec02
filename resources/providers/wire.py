"""OpenAI's request and result lines, as SQL over whole files: no row passes through Python."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..duck import literal
from ..errors import InputError
from ..request import Operation, RequestSpec
from .breaches import breach_sql
from .profile import Profile

_HERE = "the prompt goes here"
_FINAL = (400, 413, 422)
"""HTTP statuses of a row that say that the request itself is wrong: asking it again can't change that."""

_OUTCOME = f"""CASE
    WHEN code IN ('batch_expired', 'batch_cancelled') THEN 'expired'
    WHEN status IN {_FINAL} THEN 'refused'
    WHEN error IS NOT NULL OR status IS NULL OR status NOT BETWEEN 200 AND 299 THEN 'errored'
    WHEN refusal IS NOT NULL OR finish = 'content_filter' THEN 'refused'
    WHEN finish = 'length' THEN 'truncated'
    WHEN invalid IS NOT NULL THEN 'invalid'
    ELSE 'ok'
END"""
_REASON = f"""CASE
    WHEN outcome = 'ok' THEN NULL
    WHEN outcome = 'refused' AND status NOT IN {_FINAL}
        THEN coalesce(refusal, 'stopped by the provider''s content filter')
    WHEN outcome = 'truncated' THEN 'the answer was cut off at the output limit'
    WHEN outcome = 'invalid' THEN invalid
    ELSE coalesce(said, 'the provider gave neither an answer nor a reason')
END"""


def request_body(spec: RequestSpec, prompt: str) -> dict[str, Any]:
    """One request's body, as the provider documents it."""
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


def line_parts(profile: Profile, spec: RequestSpec) -> tuple[str, str, str]:
    """A request line cut at its two variable places: … custom_id … prompt as JSON …; the last part ends the line.

    Raises:
        InputError: The task's parameters have a field of their own where the prompt goes.
    """
    # The marker stands in quotes, and JSON escapes quotes, so it can't occur in the user's own words by chance
    # unless they are the whole of another value; the prompt's place is the last such value in "messages"/"input".
    body = request_body(spec, _HERE)
    holder = "input" if spec.operation is Operation.EMBEDDING else "messages"
    if holder in spec.parameters:
        raise InputError(f"parameters may not have {holder!r}: the prompt goes there. Use prompt and instruction.")
    url = profile.endpoints[spec.operation]
    dumped = json.dumps({"method": "POST", "url": url, "body": _last(holder, body)}, ensure_ascii=False)
    before, after = dumped.rsplit(json.dumps(_HERE), 1)
    return '{"custom_id": "', '", ' + before[1:], after + "\n"


def _last(holder: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The same body with the field that holds the prompt at its end."""
    return {**{k: v for k, v in body.items() if k != holder}, holder: body[holder]}


def line_sql(parts: tuple[str, str, str], custom_id: str, prompt: str) -> str:
    """SQL for a whole request line, given SQL for its custom_id and prompt."""
    head, middle, tail = (literal(part) for part in parts)
    return f"{head} || {custom_id} || {middle} || to_json({prompt})::VARCHAR || {tail}"


def line_bytes_sql(parts: tuple[str, str, str], prompt: str) -> str:
    """SQL for the size of a request line in bytes, with the longest custom_id."""
    fixed = sum(len(part.encode()) for part in parts) + 64
    return f"strlen(to_json({prompt})::VARCHAR) + {fixed}"


def result_sql(spec: RequestSpec) -> str:
    """SQL that turns result lines, ``lines(line JSON)``, into one row each, in the order of the lines.

    Columns: custom_id, outcome, answer (text or JSON; NULL for a vector), vector, reason, input_tokens,
    cached_tokens, output_tokens. What a line says is decided by its content, never by the file it came in.
    """
    embedding = spec.operation is Operation.EMBEDDING
    answer = "NULL::VARCHAR" if embedding else "body->>'$.choices[0].message.content'"
    vector = "TRY_CAST(body->'$.data[0].embedding' AS FLOAT[])" if embedding else "NULL::FLOAT[]"
    return f"""
        WITH parsed AS (
            SELECT
                line->>'$.custom_id' AS custom_id,
                TRY_CAST(line->>'$.response.status_code' AS INTEGER) AS status,
                line->'$.response.body' AS body,
                coalesce({_error_sql("line->'$.error'")}, {_error_sql("line->'$.response.body.error'")}) AS error,
            FROM lines
        ), read AS (
            SELECT *,
                {answer} AS answer,
                {vector} AS vector,
                coalesce(error->>'$.code', error->>'$.type') AS code,
                coalesce(error->>'$.message', error->>'$') AS words,
                body->>'$.choices[0].message.refusal' AS refusal,
                body->>'$.choices[0].finish_reason' AS finish,
            FROM parsed
        ), judged AS (
            SELECT *,
                nullif(concat_ws(': ', coalesce(code, 'status ' || status), words), '') AS said,
                {_invalid_sql(spec)} AS invalid,
                {_OUTCOME} AS outcome,
            FROM read
        )
        SELECT
            custom_id,
            outcome,
            answer,
            CASE WHEN outcome = 'ok' THEN vector END AS vector,
            {_REASON} AS reason,
            {_tokens_sql("coalesce(body->>'$.usage.prompt_tokens', body->>'$.usage.input_tokens')")} AS input_tokens,
            {_tokens_sql("body->>'$.usage.prompt_tokens_details.cached_tokens'")} AS cached_tokens,
            {_tokens_sql("coalesce(body->>'$.usage.completion_tokens', body->>'$.usage.output_tokens')")}
                AS output_tokens,
        FROM judged
    """


def _error_sql(error: str) -> str:
    """SQL for an error; some servers send an empty one with every answer."""
    return f"CASE WHEN ({error})::VARCHAR NOT IN ('null', '{{}}', '\"\"', 'false') THEN {error} END"


def _tokens_sql(count: str) -> str:
    """SQL for a number of tokens; one that can't be true is 0."""
    return f"greatest(coalesce(TRY_CAST({count} AS INTEGER), 0), 0)::BIGINT"


def _invalid_sql(spec: RequestSpec) -> str:
    """SQL for why an answer breaks the task's schema; NULL if it doesn't."""
    if spec.operation is Operation.EMBEDDING:
        wrong_length = f"len(vector) <> {int(spec.dimensions)}" if spec.dimensions else "len(vector) = 0"
        gaps = "list_count(vector) <> len(vector)"
        return f"CASE WHEN vector IS NULL OR {wrong_length} OR {gaps} THEN 'no vector of the expected length' END"
    if spec.schema is None:
        return "CASE WHEN answer IS NULL THEN 'the answer is empty' END"
    return f"""CASE
        WHEN coalesce(answer, '') = '' THEN 'the answer is empty'
        WHEN NOT json_valid(answer) THEN 'the answer is not JSON: ' || left(answer, 80)
        ELSE {breach_sql("answer", spec.schema)}
    END"""
