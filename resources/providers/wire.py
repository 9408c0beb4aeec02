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

_EMPTY_ERROR = r"""\s*(null|""|false|\[\s*\]|\{\s*("\w+"\s*:\s*(null|"")\s*,?\s*)*\})\s*"""

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
    WHEN outcome = 'truncated' THEN cut_off
    WHEN outcome = 'invalid' THEN invalid
    ELSE coalesce(said, 'the provider gave neither an answer nor a reason')
END"""

_CONTENT = """CASE json_type(body->'$.choices[0].message.content')
    WHEN 'ARRAY' THEN nullif(array_to_string(body->>'$.choices[0].message.content[*].text', ''), '')
    ELSE body->>'$.choices[0].message.content'
END"""
"""The answer's text; some servers cut it into parts."""
_BEGINNING = r"regexp_replace(left(body->>'$', 200), '\s+', ' ', 'g')"
_STRANGE = f"'instead of an answer the provider sent ' || {_BEGINNING}"
_NOTHING = f"""CASE
    WHEN (body->'$.choices') IS NULL AND json_type(body) <> 'NULL' THEN {_STRANGE}
    WHEN (body->'$.choices[0].message.tool_calls[0]') IS NOT NULL THEN 'the model called a tool instead of answering'
    ELSE 'the answer is empty'
END"""
_SAID = f"""CASE WHEN error IS NOT NULL OR status IS NULL OR status NOT BETWEEN 200 AND 299 THEN nullif(concat_ws(
    ': ', coalesce(code, 'status ' || status), coalesce(words, CASE WHEN body::VARCHAR <> '{{}}' THEN {_BEGINNING} END)
), '') END"""
"""What was said of a row that failed: the provider's error, else the beginning of what it sent, such as a web page."""


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
    cached_tokens and output_tokens (NULL if the provider doesn't say), and unmetered: answered, and it doesn't say.
    What a line says is decided by its content, never by the file it came in.
    """
    embedding = spec.operation is Operation.EMBEDDING
    answer = "NULL::VARCHAR" if embedding else _CONTENT
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
                nullif(body->>'$.choices[0].message.refusal', '') AS refusal,
                body->>'$.choices[0].finish_reason' AS finish,
                {_tokens_sql("body->>'$.usage.prompt_tokens'", "body->>'$.usage.input_tokens'")} AS input_tokens,
                {_tokens_sql("body->>'$.usage.prompt_tokens_details.cached_tokens'")} AS cached_tokens,
                {_tokens_sql("body->>'$.usage.completion_tokens'", "body->>'$.usage.output_tokens'")} AS output_tokens,
            FROM parsed
        ), judged AS (
            SELECT *,
                {literal(_cut_off(spec))} AS cut_off,
                {_SAID} AS said,
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
            input_tokens,
            cached_tokens,
            output_tokens,
            error IS NULL AND status BETWEEN 200 AND 299
                AND (input_tokens IS NULL{"" if embedding else " OR output_tokens IS NULL"}) AS unmetered,
        FROM judged
    """


def _cut_off(spec: RequestSpec) -> str:
    limit = f"the output limit of {spec.limit} tokens" if spec.limit else "the model's own output limit"
    return f"the answer was cut off at {limit}"


def _error_sql(error: str) -> str:
    """SQL for an error; some servers send an empty one with every answer, or one whose fields are all empty."""
    empty = literal(_EMPTY_ERROR)
    return f"CASE WHEN NOT regexp_full_match(({error})::VARCHAR, {empty}) THEN {error} END"


def _tokens_sql(*counts: str) -> str:
    """SQL for a number of tokens; NULL, which is unknown and not nothing, if there is none that can be true."""
    count = f"TRY_CAST(coalesce({', '.join(counts)}) AS INTEGER)"
    return f"CASE WHEN {count} >= 0 THEN {count}::BIGINT END"


def _invalid_sql(spec: RequestSpec) -> str:
    """SQL for why an answer breaks the task's schema; NULL if it doesn't."""
    if spec.operation is Operation.EMBEDDING:
        wrong_length = f"len(vector) <> {int(spec.dimensions)}" if spec.dimensions else "len(vector) = 0"
        gaps = "list_count(vector) <> len(vector)"
        return f"""CASE
            WHEN vector IS NULL AND json_type(body) NOT IN ('OBJECT', 'NULL') THEN {_STRANGE}
            WHEN vector IS NULL OR {wrong_length} OR {gaps} THEN 'no vector of the expected length'
        END"""
    if spec.schema is None:
        return f"CASE WHEN answer IS NULL THEN {_NOTHING} END"
    return f"""CASE
        WHEN coalesce(answer, '') = '' THEN {_NOTHING}
        WHEN NOT json_valid(answer) THEN 'the answer is not JSON: ' || left(answer, 80)
        ELSE {breach_sql("answer", spec.schema)}
    END"""
