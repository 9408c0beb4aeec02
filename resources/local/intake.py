"""The input file of a batch: JSON lines in, requests or problems out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .batch import Problem
from .wire import RefusalError, clean_text, is_object, parse_object

MAX_ROWS = 50_000
MAX_FILE_BYTES = 200_000_000
MAX_LINE_BYTES = 4_000_000
"""A line is held in memory as a whole, so it is bounded; OpenAI's own bound is the file's."""

_MAX_PROBLEMS = 100
_CHUNK_BYTES = 8_000_000


@dataclass(frozen=True)
class Row:
    """One request of a batch; a row is known by its ``custom_id``."""

    custom_id: str
    model: str
    body: Mapping[str, object]


@dataclass(frozen=True)
class Checked:
    """What validation found: the number of rows and their model, or what is wrong."""

    rows: int
    model: str | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Chunk:
    """Some rows, and the position in the file after them."""

    rows: tuple[Row, ...]
    end: int


def check_input(path: Path, endpoint: str) -> Checked:
    """Validate a whole input file without keeping it in memory.

    Args:
        path: JSON lines.
        endpoint: The path that each line's ``url`` has to be.

    Returns:
        At most 100 problems; none means that the file is good.
    """
    seen: set[bytes] = set()
    problems: list[Problem] = []
    count, model = 0, None
    with path.open("rb") as stream:
        while line := stream.readline(MAX_LINE_BYTES + 1):
            count += 1
            try:
                row = _check_line(line, endpoint, model)
                _check_new(row, seen)
                model = model or row.model
            except RefusalError as refusal:
                problems.append(Problem(refusal.code, refusal.message, count, refusal.param))
            # A line that is too long was read in part only, so nothing after it has a line number.
            if len(problems) >= _MAX_PROBLEMS or count > MAX_ROWS or len(line) > MAX_LINE_BYTES:
                break
    if count == 0:
        problems.append(Problem("empty_file", "The input file is empty; a batch has at least one request."))
    if count > MAX_ROWS:
        problems.append(Problem("too_many_requests", f"The input file has more than {MAX_ROWS} requests."))
    return Checked(count, model, tuple(problems))


def read_chunk(path: Path, start: int, limit: int) -> Chunk:
    """Read up to ``limit`` rows of a validated file from byte ``start`` on."""
    rows: list[Row] = []
    with path.open("rb") as stream:
        stream.seek(start)
        # The rows of a chunk are in memory together, so it ends early when they are large.
        while len(rows) < limit and stream.tell() - start < _CHUNK_BYTES and (line := stream.readline()):
            rows.append(_read_line(line))
        return Chunk(tuple(rows), stream.tell())


def _check_line(line: bytes, endpoint: str, model: str | None) -> Row:
    if len(line) > MAX_LINE_BYTES:
        raise RefusalError(f"This line is longer than {MAX_LINE_BYTES} bytes.", code="request_too_large")
    try:
        request = parse_object(line)
    except ValueError as error:
        raise RefusalError(
            f"This line is not parseable as a JSON object: {error}.", code="invalid_json_line"
        ) from error
    if not isinstance(custom_id := request.get("custom_id"), str) or not custom_id:
        raise _missing("custom_id", "a text")
    if request.get("method") != "POST":
        raise RefusalError("The method has to be POST.", code="invalid_method", param="method")
    if request.get("url") != endpoint:
        raise RefusalError(
            f"The url of this request is not the batch's endpoint, {endpoint}.", code="mismatched_endpoint", param="url"
        )
    if not is_object(body := request.get("body")):
        raise _missing("body", "an object")
    if not isinstance(found := body.get("model"), str):
        raise _missing("body.model", "a text")
    if model is not None and clean_text(found) != model:
        raise RefusalError(
            "All requests of a batch have to name the same model.", code="mismatched_model", param="model"
        )
    return Row(custom_id, clean_text(found), body)


def _check_new(row: Row, seen: set[bytes]) -> None:
    # A digest, so that 50,000 long ids do not fill the memory.
    key = hashlib.sha256(row.custom_id.encode("utf-8", "surrogatepass")).digest()
    if key in seen:
        raise RefusalError(
            f"The custom_id {row.custom_id[:80]!r} was used by an earlier line.",
            code="duplicate_custom_id",
            param="custom_id",
        )
    seen.add(key)


def _read_line(line: bytes) -> Row:
    request = parse_object(line)
    body = request["body"]
    fields: Mapping[str, object] = body if is_object(body) else {}
    return Row(str(request["custom_id"]), str(fields.get("model")), fields)


def _missing(name: str, kind: str) -> RefusalError:
    return RefusalError(f"{name} is missing or not {kind}.", code="missing_required_parameter", param=name)
