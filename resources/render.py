"""Request files: cut by the provider's limits, rendered by DuckDB, written as whole Arrow buffers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .answers import MANIFEST_COLUMNS, readable
from .duck import connect, literal, parquet, rows
from .errors import StorageError
from .providers.profile import Profile
from .providers.wires.wire import line_sql
from .request import RequestSpec

_ROWS_AT_ONCE = 50_000


def cut(sizes: npt.NDArray[np.int64], profile: Profile) -> list[tuple[int, int]]:
    """Cut consecutive rows into shards [start, end) that keep the provider's limits on rows and bytes.

    Args:
        sizes: Bytes of each request line.
        profile: Whose limits.
    """
    ends = np.cumsum(sizes)
    shards: list[tuple[int, int]] = []
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        by_bytes = int(np.searchsorted(ends, before + profile.max_bytes, side="right"))
        end = min(start + profile.max_rows, max(by_bytes, start + 1))
        end = min(end, len(sizes))
        if 0 < (left := len(sizes) - end) < profile.min_rows <= end - start + left - profile.min_rows:
            end -= profile.min_rows - left  # what is left over has to be enough for a batch, too
        shards.append((start, end))
        start = end
    return shards


def write_request_file(
    path: Path, *, profile: Profile, spec: RequestSpec, manifest: Path, requests: Path, token: str
) -> None:
    """Write an attempt's JSONL; each line's custom_id is ``<token>-<row of the manifest>``.

    Raises:
        StorageError: The disk is full, the folder can't be written, or a plan's file is damaged; nothing was sent.
    """
    line = line_sql(profile.line_parts(spec), f"{literal(token + '-')} || manifest.row", "request.prompt")
    query = f"""
        SELECT {line} AS line
        FROM {parquet([manifest], MANIFEST_COLUMNS)} AS manifest
        JOIN {parquet([requests], "key VARCHAR, prompt VARCHAR")} AS request ON request.key = manifest.key
    """
    engine, lines = connect(), 0
    try:
        expected = rows(engine, f"SELECT count(*) FROM {parquet([manifest], MANIFEST_COLUMNS)}")[0][0]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            for batch in engine.sql(query).to_arrow_reader(_ROWS_AT_ONCE):
                _write_strings(out.fileno(), batch.column(0))
                lines += batch.num_rows
            os.fsync(out.fileno())
    except OSError as error:
        raise StorageError(
            f"{path} can't be written ({error}). Nothing was sent; free some space, run again."
        ) from error
    except duckdb.Error as error:
        raise readable(error, manifest.parent.parent) from error
    if lines != expected:
        raise StorageError(
            f"{requests} holds {lines} of {expected} requests that {manifest} names. Nothing was sent; put the plan's "
            "files back from a backup."
        )


def _write_strings(descriptor: int, lines: pa.Array[Any]) -> None:
    """Write a string column as it lies in memory: its values follow each other without gaps."""
    wide = lines.cast(pa.large_string())
    _, offsets, data = wide.buffers()
    if offsets is None or data is None or len(wide) == 0:
        return
    ends = np.frombuffer(memoryview(offsets), dtype=np.int64)
    view = memoryview(data)[int(ends[wide.offset]) : int(ends[wide.offset + len(wide)])]
    while view:
        view = view[os.write(descriptor, view) :]
