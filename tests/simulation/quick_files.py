"""What the package does with small files, without DuckDB: the same rows under the same names, as JSON.

tests/simulation/test_quick.py compares each function with the SQL that it stands in for.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import duckdb
import numpy as np
from dagster_batch_llm.assets import look as look_module
from dagster_batch_llm.resources import answers as answers_module
from dagster_batch_llm.resources.answers import MAX_UNRUN, Absent, Parsed
from dagster_batch_llm.resources.duck import make_durable
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import AnswersFile, Attempt, AttemptId, AttemptState, Ledger, Plan, Snapshot
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.providers.protocol import BatchProvider
from dagster_batch_llm.resources.providers.wires.openai import OPENAI_WIRE
from dagster_batch_llm.resources.providers.wires.wire import Wire
from dagster_batch_llm.resources.request import RequestSpec

Row = dict[str, Any]
_FINAL = (400, 413, 422)
_shards = look_module._shards  # pyright: ignore[reportPrivateUsage]


def read(path: Path) -> list[Row]:
    """A file's rows."""
    try:
        return _parsed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise duckdb.IOException(f"{path}: {error}") from error


@lru_cache(maxsize=2000)
def _parsed(content: bytes) -> list[Row]:
    """The same list each time; nobody changes it."""
    return json.loads(content)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write a file as `write_parquet` does."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(rows))
        make_durable(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def missing(
    ledger: Ledger, home: Home, provider: BatchProvider, plan: Plan, snapshot: Snapshot
) -> tuple[list[Attempt], list[str]]:
    """Stands in for `assets.look._missing`."""
    asked = read(home.requests(plan.id))
    manifests = {
        attempt: [row["key"] for row in read(home.manifest(name))] for attempt, name in snapshot.open_manifests
    }
    doublings = ledger.looks.room(plan.task).doublings
    outcomes = _outcomes(home, snapshot)
    taken = {key for keys in manifests.values() for key in keys} | _final(outcomes, doublings)
    factors = {row["key"]: 1 for row in asked}
    if doublings:
        factors |= {key: 1 << min(got.cut_off, doublings) for key, got in outcomes.items()}
    left = sorted((row for row in asked if row["key"] not in taken), key=lambda row: (factors[row["key"]], row["key"]))
    sizes = np.array([row["bytes"] for row in left], dtype=np.int64)
    attempts: list[Attempt] = []
    factor_of = np.array([factors[row["key"]] for row in left])
    for start, end, factor, _ in _shards(sizes, factor_of, provider.profile, None):
        attempt = AttemptId(ledger.clock.token())
        name = f"{attempt}.parquet"
        write([{"row": n, "key": row["key"]} for n, row in enumerate(left[start:end])], home.manifest(name))
        attempts.append(
            Attempt(
                id=attempt,
                state=AttemptState.PLANNED,
                task=plan.task,
                plan=plan.id,
                llm=plan.llm,
                account=provider.account,
                manifest=name,
                rows=end - start,
                created_at=ledger.clock.now(),
                limit_factor=factor,
            )
        )
    mine = {row["key"] for row in asked}
    return attempts, [attempt for attempt, keys in manifests.items() if not mine.isdisjoint(keys)]


def unfinished(ledger: Ledger, plan: Plan) -> int:
    """Stands in for `assets.look.unfinished`."""
    home = Home(ledger.home)
    outcomes = _outcomes(home, ledger.looks.snapshot(plan.task))
    final = _final(outcomes, ledger.looks.room(plan.task).doublings)
    return sum(row["key"] not in final for row in read(home.requests(plan.id)))


@dataclass
class _Outcomes:
    """What a key's asking came to; `cut_off` counts what is forgiven too."""

    counted: Counter[str] = field(default_factory=Counter[str])
    cut_off: int = 0


def _outcomes(home: Home, snapshot: Snapshot) -> dict[str, _Outcomes]:
    outcomes = defaultdict[str, _Outcomes](_Outcomes)
    for name in snapshot.answers_files:
        for row in read(home.answers(name)):
            got = outcomes[row["key"]]
            got.cut_off += row["outcome"] == "truncated"
            if name not in snapshot.forgiven or row["outcome"] == "ok":
                got.counted[row["outcome"]] += 1
    return outcomes


def _final(outcomes: dict[str, _Outcomes], doublings: int) -> set[str]:
    """Keys that aren't asked again."""
    return {
        key
        for key, got in ((key, outcome.counted) for key, outcome in outcomes.items())
        if got["ok"]
        or got["refused"]
        or got["gone"]
        or got["truncated"] > doublings
        or got.total() - got["expired"] >= answers_module.MAX_TRIES
        or got.total() >= MAX_UNRUN
    }


def write_request_file(
    path: Path, *, profile: Profile, spec: RequestSpec, manifest: Path, requests: Path, token: str
) -> None:
    """Stands in for `resources.render.write_request_file`."""
    head, middle, tail = profile.line_parts(spec)
    prompts = {row["key"]: json.dumps(row["prompt"], ensure_ascii=False) for row in read(requests)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as out:
        for row in read(manifest):
            out.write(f"{head}{token}-{row['row']}{middle}{prompts[row['key']]}{tail}".encode())
        os.fsync(out.fileno())


def parse_results(
    spec: RequestSpec,
    results: Sequence[Path],
    *,
    manifest: Path,
    tokens: Sequence[str],
    name: str,
    target: Path,
    absent: Absent | None = "missing",
    wire: Wire = OPENAI_WIRE,
) -> Parsed:
    """Stands in for `resources.answers.parse_results`; the simulation's provider writes as OpenAI does."""
    assert wire is OPENAI_WIRE
    pattern = re.compile(f"(?:{'|'.join(tokens)})-(0|[1-9][0-9]{{0,17}})")
    texts = [text for path in results for text in path.read_bytes().split(b"\n") if text.strip()]
    sent = {row["row"]: row["key"] for row in read(manifest)}
    best: dict[int, Row] = {}
    named = unknown = unmetered = paid_in = paid_out = 0
    for line in map(_line, texts):
        said, is_unmetered = _judged(line)
        paid_in, paid_out = paid_in + (said["input_tokens"] or 0), paid_out + (said["output_tokens"] or 0)
        if line.get("custom_id") is None:
            continue
        ours = pattern.fullmatch(str(line["custom_id"]))
        row = int(ours[1]) if ours else -1
        named += 1
        unknown += row not in sent
        unmetered += is_unmetered and row in sent
        if row not in best or (best[row]["outcome"] != "ok" and said["outcome"] == "ok"):
            best[row] = said
    nothing = {"outcome": absent, "answer": None}
    kept = [{"key": key, **best.get(row, nothing)} for row, key in sent.items() if absent or row in best]
    write(kept, target)
    outcomes = Counter(row["outcome"] for row in kept)
    file = AnswersFile(name, dict(outcomes), paid_in, paid_out, unmetered)
    return Parsed(file, named, unknown, len(texts) - named)


def _line(text: bytes) -> Row:
    try:
        found: object = json.loads(text)
    except ValueError:
        return {}
    return cast("Row", found) if isinstance(found, dict) else {}


def _judged(line: Row) -> tuple[Row, bool]:
    """What a result line says and whether it is unmetered, as `wire.result_sql` has it for chat without a schema."""
    response: Row = line.get("response") or {}
    body: Row = response.get("body") or {}
    error, status = _error(line) or _error(body), _number(response.get("status_code"))
    choice: Row = (body.get("choices") or [{}])[0]
    message: Row = choice.get("message") or {}
    answer = message.get("content")
    usage: Row = body.get("usage") or {}
    answered = not error and status is not None and 200 <= status <= 299
    code = error.get("type") if error.get("code") is None else error["code"]
    if code in {"batch_expired", "batch_cancelled"}:
        outcome = "expired"
    elif status in _FINAL:
        outcome = "refused"
    elif not answered:
        outcome = "errored"
    elif message.get("refusal") or choice.get("finish_reason") == "content_filter":
        outcome = "refused"
    elif choice.get("finish_reason") == "length":
        outcome = "truncated"
    else:
        outcome = "invalid" if answer is None else "ok"
    tokens = {
        "input_tokens": _count(usage, "prompt_tokens", "input_tokens"),
        "output_tokens": _count(usage, "completion_tokens", "output_tokens"),
    }
    return {"outcome": outcome, "answer": answer, **tokens}, answered and None in tokens.values()


def _error(said: Row) -> Row:
    """An error that says something; an object in any case."""
    error = said.get("error") or {}
    if not isinstance(error, dict):
        return {"message": error}
    fields = cast("Row", error)
    return {} if all(value in {None, ""} for value in fields.values()) else fields


def _number(said: object) -> int | None:
    try:
        return int(str(said))
    except ValueError:
        return None


def _count(usage: Row, *names: str) -> int | None:
    count = _number(next((usage[name] for name in names if usage.get(name) is not None), None))
    return count if count is not None and count >= 0 else None
