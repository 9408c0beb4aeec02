"""A provider's result files as lines: one that can't be read is counted, and saved if it still names its row."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import duckdb
import pyarrow as pa

from .duck import literal, rows

_MAX_LINE_BYTES = 256 * 1024 * 1024
_DAMAGED = "the provider's line has characters that are no text; its answer can't be trusted"


def read_results(
    engine: duckdb.DuckDBPyConnection, results: Sequence[Path], query: str, *, row_id: str = "custom_id"
) -> int:
    """Fill a table ``result`` with what a query makes of ``lines(line JSON)``, numbered by ``n`` in their order.

    Args:
        engine: Where the table is made.
        results: Files of a JSON object per line.
        query: A row per line, with custom_id, outcome, reason and vector among its columns.
        row_id: The field of a line that names its row.

    Returns:
        The number of lines in which no id could be read. Those of them that could be mended are in the table twice:
        without an id in their place, and mended at the end.
    """
    filled = [path for path in results if path.stat().st_size > 0]
    with tempfile.TemporaryDirectory(prefix="batch_llm_") as scratch:
        try:
            _fill(engine, filled, query)
        except duckdb.InvalidInputException:  # a line beyond the limit ends the reading, whatever is ignored
            filled = [_shortened(path, Path(scratch) / str(number)) for number, path in enumerate(filled)]
            _fill(engine, filled, query)
        unread = [n for (n,) in rows(engine, "SELECT n FROM result WHERE custom_id IS NULL")]
        if unread:
            _add_mended(engine, query, _mended(filled, set(unread), row_id))
    return len(unread)


def _fill(engine: duckdb.DuckDBPyConnection, files: Sequence[Path], query: str) -> None:
    listed = ", ".join(literal(str(path)) for path in files)
    read = (
        f"SELECT json AS line FROM read_ndjson_objects([{listed}], ignore_errors=true, "
        f"maximum_object_size={_MAX_LINE_BYTES})"
    )
    engine.execute(f"CREATE OR REPLACE TEMP VIEW lines AS {read if files else 'SELECT NULL::JSON AS line WHERE false'}")
    engine.execute(f"CREATE TEMP TABLE result AS SELECT *, row_number() OVER () AS n FROM ({query})")


def _add_mended(engine: duckdb.DuckDBPyConnection, query: str, mended: Sequence[tuple[str, bool]]) -> None:
    for whole in (True, False):
        texts = [text for text, is_whole in mended if is_whole is whole]
        engine.register("mended", pa.table({"line": pa.array(texts, pa.string())}))
        engine.execute("CREATE OR REPLACE TEMP VIEW lines AS SELECT TRY_CAST(line AS JSON) AS line FROM mended")
        # What an answer with a damaged character said, nobody knows; how a row failed is still known.
        doubted = f"""REPLACE (
            CASE outcome WHEN 'ok' THEN 'invalid' ELSE outcome END AS outcome,
            CASE outcome WHEN 'ok' THEN {literal(_DAMAGED)} ELSE reason END AS reason,
            NULL::FLOAT[] AS vector)"""
        engine.execute(f"""
            INSERT INTO result
            SELECT * {"" if whole else doubted}, row_number() OVER () + (SELECT count(*) FROM result) AS n
            FROM ({query}) WHERE custom_id IS NOT NULL
        """)


def _mended(files: Sequence[Path], numbers: set[int], row_id: str) -> list[tuple[str, bool]]:
    """Those of the lines with these numbers that are objects in spite of a few bytes, and whether nothing was lost."""
    lines = (raw for path in files for raw in lines_of(path))
    found = (_mend(raw, row_id) for n, raw in enumerate(lines, 1) if n in numbers)
    return [line for line in found if line is not None]


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines that DuckDB counts: those that aren't blank."""
    with path.open("rb") as stream:
        yield from (raw for raw in stream if raw.strip())


def _mend(raw: bytes, row_id: str) -> tuple[str, bool] | None:
    """A line in valid JSON, if it is an object but for control characters, bytes that are no UTF-8, half surrogates."""
    said = raw.decode(errors="replace")
    try:
        found: object = json.loads(said, strict=False)
        if not isinstance(found, dict) or not isinstance(cast("dict[str, object]", found).get(row_id), str):
            return None
        escaped = json.dumps(found, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    text = escaped.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text, text == escaped and said.encode() == raw


def _shortened(path: Path, copy: Path) -> Path:
    """A copy of a file in which a line beyond the limit is a short one that can't be read either."""
    with path.open("rb") as stream, copy.open("wb") as out:
        while piece := stream.readline(_MAX_LINE_BYTES):
            if len(piece) < _MAX_LINE_BYTES:
                out.write(piece)
                continue
            while piece and not piece.endswith(b"\n"):
                piece = stream.readline(_MAX_LINE_BYTES)
            out.write(b"?\n")
    return copy
