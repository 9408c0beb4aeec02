"""The stand-ins of the simulation do what they stand in for: the same seed tells the same story with and without."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from dagster_batch_llm.resources.answers import Absent, parse_results
from hypothesis import given, settings
from hypothesis import strategies as st

from . import quick_files
from .campaign import replayed
from .faults import Setting
from .seams import Seams
from .world import SPEC


@pytest.mark.parametrize("seed", [5, 7, 13])
def test_a_seed_tells_the_same_story_with_duckdb_sqlalchemy_and_httpx(seed: int) -> None:
    quick, real = replayed(Setting.of(seed)), replayed(Setting.of(seed), quick=False)
    assert quick.trace == real.trace
    assert quick.effects == real.effects
    assert quick.violations == real.violations


# ---- what result lines say ----

_TOKENS = ("aa01", "aa02")
_IDS: tuple[Any, ...] = (
    "aa01-0",
    "aa02-0",
    "aa01-1",
    "aa01-2",
    "aa01-3",
    "aa01-00",
    "aa01-9",
    "aa01-",
    "xaa01-1",
    "bb-1",
    "",
    7,
    None,
)
_ERRORS: tuple[Any, ...] = (
    None,
    "",
    False,
    [],
    {},
    {"code": None, "message": ""},
    {"code": "batch_expired"},
    {"code": "batch_cancelled", "message": "not run"},
    {"type": "batch_expired"},
    {"code": "", "type": "batch_expired"},
    {"code": "server_error", "message": "sorry"},
    "sorry",
)
_COUNTS: tuple[Any, ...] = (None, 0, 3, -1, "5", "many")


def _some(**fields: Sequence[Any] | st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects of which any field may be lacking."""
    drawn = {k: v if isinstance(v, st.SearchStrategy) else st.sampled_from(v) for k, v in fields.items()}
    return st.fixed_dictionaries({}, optional=drawn)


_MESSAGE = _some(content=("fine", "", "ü", None), refusal=(None, "", "I won't"))
_CHOICE = _some(message=_MESSAGE | st.none(), finish_reason=("stop", "length", "content_filter", None))
_USAGE = _some(prompt_tokens=_COUNTS, input_tokens=_COUNTS, completion_tokens=_COUNTS, output_tokens=_COUNTS)
_BODY = _some(choices=st.lists(_CHOICE, max_size=2) | st.none(), usage=_USAGE | st.none(), error=_ERRORS)
_RESPONSE = _some(status_code=(200, 201, "200", 302, 400, 413, 422, 429, 500, None), body=_BODY | st.none())
_LINE = _some(custom_id=_IDS, response=_RESPONSE | st.none(), error=_ERRORS)
_OTHERS = st.sampled_from(["", "  ", "not json", "[]", "7", '{"custom_id": "aa01-1"'])


def _read(folder: Path, raw: bytes, absent: Absent | None, *, quick: bool) -> object:
    """All that parsing a file gives: the rows, and the sums."""
    folder.mkdir()
    seams = Seams(quick=quick)
    manifest, results, target = (folder / name for name in ("manifest.parquet", "results.jsonl", "answers.parquet"))
    seams.write([{"row": n, "key": f"k{n}"} for n in range(4)], manifest)
    results.write_bytes(raw)
    parse = quick_files.parse_results if quick else parse_results
    parsed = parse(
        SPEC, [results], manifest=manifest, tokens=_TOKENS, name="answers.parquet", target=target, absent=absent
    )
    columns = ("outcome", "answer", "input_tokens", "output_tokens")
    return {row["key"]: [row.get(column) for column in columns] for row in seams.read(target)}, parsed


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(_LINE.map(json.dumps) | _OTHERS, min_size=1, max_size=8),
    cut=st.integers(0, 40),
    absent=st.sampled_from(["missing", "expired", None]),
)
def test_a_result_line_says_the_same_without_duckdb(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], cut: int, absent: Absent | None
) -> None:
    raw = "\n".join(lines).encode()
    folder, raw = tmp_path_factory.mktemp("lines"), raw[: max(len(raw) - cut, 0)]
    assert _read(folder / "quick", raw, absent, quick=True) == _read(folder / "real", raw, absent, quick=False)
