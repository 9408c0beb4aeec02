"""How an API writes requests and results, as SQL over whole files: no row passes through Python."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ...duck import literal
from ...errors import InputError
from ...request import Operation, RequestSpec
from ..breaches import breach_sql

_HERE = "the prompt goes here"
WRONG_REQUEST = (400, 413, 422)
"""HTTP statuses that say that the request itself is wrong, not who asks or when: asking it again can't change that."""

BEGINNING = r"regexp_replace(left(body->>'$', 200), '\s+', ' ', 'g')"
STRANGE = f"'instead of an answer the provider sent ' || {BEGINNING}"

_OUTCOME = f"""CASE
    WHEN code IN ('batch_expired', 'batch_cancelled') THEN 'expired'
    WHEN status IN {WRONG_REQUEST} THEN 'refused'
    WHEN error IS NOT NULL OR status IS NULL OR status NOT BETWEEN 200 AND 299 THEN 'errored'
    WHEN refusal IS NOT NULL OR finish = 'content_filter' THEN 'refused'
    WHEN finish = 'length' THEN 'truncated'
    WHEN invalid IS NOT NULL THEN 'invalid'
    ELSE 'ok'
END"""
_REASON = f"""CASE
    WHEN outcome = 'ok' THEN NULL
    WHEN outcome = 'refused' AND status NOT IN {WRONG_REQUEST}
        THEN coalesce(refusal, 'stopped by the provider''s content filter')
    WHEN outcome = 'truncated' THEN cut_off
    WHEN outcome = 'invalid' THEN invalid
    ELSE coalesce(said, 'the provider gave neither an answer nor a reason')
END"""
_SAID = f"""CASE WHEN error IS NOT NULL OR status IS NULL OR status NOT BETWEEN 200 AND 299 THEN nullif(concat_ws(
    ': ', coalesce(code, 'status ' || status), coalesce(words, CASE WHEN body::VARCHAR <> '{{}}' THEN {BEGINNING} END)
), '') END"""
"""What was said of a row that failed: the provider's error, else the beginning of what it sent, such as a web page."""


@dataclass(frozen=True)
class Results:
    """SQL for what a result line says.

    Attributes:
        row_id: The field of a line that names its row.
        status: HTTP status of the row, over ``line JSON``.
        body: The endpoint's own reply, over ``line``.
        error: Why there is none, an object with code or type and message, over ``line``; NULL if there is one. The
            codes ``batch_expired`` and ``batch_cancelled`` say that the row's turn never came.
        answer: The answer's text, over ``body JSON``.
        vector: ``FLOAT[]``, over ``body``.
        verdict: A moderation's, as JSON with flagged, categories and category_scores, over ``body``.
        nothing: Why there is no answer, in words, over ``body``.
        refusal: The model's own words why it doesn't answer, over ``body``.
        stopped: Why the model broke off, so that what it said isn't an answer; NULL if it didn't; over ``body``.
        finish: ``length`` if the answer was cut off, ``content_filter`` if it was stopped, over ``body``.
        input_tokens: Those that were read from a cache are among them; over ``body``, as the next two.
        cached_tokens: Of these, those from a cache.
        output_tokens: Those that nobody sees, such as a model's reasoning, are among them.
    """

    status: str
    body: str
    error: str
    answer: str
    nothing: str
    refusal: str
    finish: str
    input_tokens: str
    cached_tokens: str
    output_tokens: str
    vector: str = "NULL::FLOAT[]"
    verdict: str = "NULL::VARCHAR"
    stopped: str = "NULL::VARCHAR"
    row_id: str = "custom_id"


def error_of(body: object) -> dict[str, Any]:
    """The error object in a reply; what came instead, as its message."""
    found = cast("dict[str, object]", body).get("error") if isinstance(body, dict) else None
    if isinstance(found, dict):
        return cast("dict[str, Any]", found)
    said = cast("dict[str, object]", body).get("message") if isinstance(body, dict) else None
    return {"message": str(cast("object", body) if said is None else said)[:300]}


def _answered(row: str, status: int, body: Any) -> dict[str, Any]:
    return {"custom_id": row, "response": {"status_code": status, "body": body}, "error": None}


def _failed(row: str, why: str) -> dict[str, Any]:
    return {"custom_id": row, "response": None, "error": {"code": "failed", "message": why}}


@dataclass(frozen=True)
class Wire:
    """One API's way to write requests and results.

    Attributes:
        name: In the ledger: what an attempt's results were written in, also when its table names another provider.
        body: A request's body, given the task and a prompt.
        holders: The field of the body that has the prompt as its last text.
        line: The line around a body, but for its id, given the endpoint.
        results: What a result line says.
        row_id: The field of a request line that names its row.
        inner: The field of a request line that has the body.
        answered: The result line that says what a request was answered that was asked at once, given its row's id, the
            HTTP status and the reply.
        failed: The result line of a request that failed, given its row's id and why.
    """

    name: str
    body: Callable[[RequestSpec, str], dict[str, Any]]
    holders: Mapping[Operation, str]
    line: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    results: Results
    row_id: str = "custom_id"
    inner: str = "body"
    answered: Callable[[str, int, Any], dict[str, Any]] = _answered
    failed: Callable[[str, str], dict[str, Any]] = _failed

    def line_parts(self, spec: RequestSpec, endpoint: str) -> tuple[str, str, str]:
        """A request line cut at its two variable places: … custom_id … prompt as JSON …; the last part ends the line.

        Raises:
            InputError: The task's parameters have a field of their own where the prompt goes.
        """
        # The marker stands in quotes, and JSON escapes quotes, so it can't occur in the user's own words by chance
        # unless they are the whole of another value; the prompt's place is the last such value in the line.
        holder = self.holders[spec.operation]
        if holder in spec.parameters:
            raise InputError(f"parameters may not have {holder!r}: the prompt goes there. Use prompt and instruction.")
        dumped = json.dumps(self.line(endpoint, _last(holder, self.body(spec, _HERE))), ensure_ascii=False)
        before, after = dumped.rsplit(json.dumps(_HERE), 1)
        return f'{{"{self.row_id}": "', '", ' + before[1:], after + "\n"

    def result_sql(self, spec: RequestSpec) -> str:
        """SQL that turns result lines, ``lines(line JSON)``, into one row each, in the order of the lines.

        Columns: custom_id, outcome, answer (text or JSON; NULL for a vector), vector, reason, input_tokens,
        cached_tokens and output_tokens (NULL if the provider doesn't say), and unmetered: answered, and it doesn't say.
        What a line says is decided by its content, never by the file it came in.
        """
        said, embedding = self.results, spec.operation is Operation.EMBEDDING
        answers = {Operation.EMBEDDING: "NULL::VARCHAR", Operation.MODERATION: said.verdict}
        unmetered = {
            Operation.CHAT: "input_tokens IS NULL OR output_tokens IS NULL",
            Operation.EMBEDDING: "input_tokens IS NULL",
            Operation.MODERATION: "false",  # nobody counts tokens that cost nothing
        }
        return f"""
            WITH parsed AS (
                SELECT line->>'$.{said.row_id}' AS custom_id, {said.status} AS status, {said.body} AS body,
                    {said.error} AS error,
                FROM lines
            ), read AS (
                SELECT *,
                    {answers.get(spec.operation, said.answer)} AS answer,
                    {said.vector if embedding else "NULL::FLOAT[]"} AS vector,
                    coalesce(error->>'$.code', error->>'$.type') AS code,
                    coalesce(error->>'$.message', error->>'$') AS words,
                    {said.refusal} AS refusal,
                    {said.finish} AS finish,
                    {said.input_tokens} AS input_tokens,
                    {said.cached_tokens} AS cached_tokens,
                    {said.output_tokens} AS output_tokens,
                FROM parsed
            ), judged AS (
                SELECT *,
                    {literal(_cut_off(spec))} AS cut_off,
                    {_SAID} AS said,
                    {_invalid_sql(spec, said)} AS invalid,
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
                error IS NULL AND status BETWEEN 200 AND 299 AND ({unmetered[spec.operation]}) AS unmetered,
            FROM judged
        """


def line_sql(parts: tuple[str, str, str], custom_id: str, prompt: str) -> str:
    """SQL for a whole request line, given SQL for its custom_id and prompt."""
    head, middle, tail = (literal(part) for part in parts)
    return f"{head} || {custom_id} || {middle} || to_json({prompt})::VARCHAR || {tail}"


def line_bytes_sql(parts: tuple[str, str, str], prompt: str) -> str:
    """SQL for the size of a request line in bytes, with the longest custom_id."""
    fixed = sum(len(part.encode()) for part in parts) + 64
    return f"strlen(to_json({prompt})::VARCHAR) + {fixed}"


def tokens_sql(*counts: str) -> str:
    """SQL for a number of tokens; NULL, which is unknown and not nothing, if there is none that can be true."""
    count = f"TRY_CAST(coalesce({', '.join(counts)}) AS INTEGER)"
    return f"CASE WHEN {count} >= 0 THEN {count}::BIGINT END"


def _last(holder: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The same body with the field that holds the prompt at its end."""
    return {**{k: v for k, v in body.items() if k != holder}, holder: body[holder]}


def _cut_off(spec: RequestSpec) -> str:
    limit = f"the output limit of {spec.limit} tokens" if spec.limit else "the model's own output limit"
    return f"the answer was cut off at {limit}"


def _invalid_sql(spec: RequestSpec, said: Results) -> str:
    """SQL for why an answer breaks the task's schema; NULL if it doesn't."""
    if spec.operation is Operation.EMBEDDING:
        wrong_length = f"len(vector) <> {int(spec.dimensions)}" if spec.dimensions else "len(vector) = 0"
        gaps = "list_count(vector) <> len(vector)"
        return f"""CASE
            WHEN vector IS NULL AND json_type(body) NOT IN ('OBJECT', 'NULL') THEN {STRANGE}
            WHEN vector IS NULL OR {wrong_length} OR {gaps} THEN 'no vector of the expected length'
        END"""
    broke_off = f"WHEN ({said.stopped}) IS NOT NULL THEN {said.stopped}"
    if spec.schema is None:
        return f"CASE {broke_off} WHEN answer IS NULL THEN {said.nothing} END"
    return f"""CASE
        {broke_off}
        WHEN coalesce(answer, '') = '' THEN {said.nothing}
        WHEN NOT json_valid(answer) THEN 'the answer is not JSON: ' || left(answer, 80)
        ELSE {breach_sql("answer", spec.schema)}
    END"""
