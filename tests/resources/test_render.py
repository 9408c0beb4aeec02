from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.providers.compatible import COMPATIBLE
from dagster_batch_llm.resources.providers.local import LOCAL
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.providers.wires.openai import OPENAI_WIRE
from dagster_batch_llm.resources.render import cut, write_request_file
from dagster_batch_llm.resources.request import Operation, RequestSpec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from .world import write_columns

MARKER = "the prompt goes here"
HOSTILE = [
    "",
    " ",
    'say "x"',
    "it's",
    "a\nb\r\n\tc",
    "{text} {{x}} $1 %s",
    "\\",
    "\\n",
    "üñ — 漢字 👩‍👩‍👧",
    "\u2028\u2029\ufeff\u202e",
    "\x01\x1f\x7f",
    "NUL \x00 NUL",
    MARKER,
    f'"{MARKER}"',
    "'; DROP TABLE plan; --",
    '"}]}}\n{"custom_id": "x"',
]
PROMPTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(HOSTILE)
SPECS = [
    RequestSpec(operation=Operation.CHAT, model="m"),
    RequestSpec(operation=Operation.CHAT, model='m"', instruction=f"It's\n{MARKER}", parameters={"stop": [MARKER]}),
    RequestSpec(operation=Operation.CHAT, model=MARKER, instruction=MARKER, schema={"title": MARKER, MARKER: "'"}),
    RequestSpec(operation=Operation.CHAT, model="m", parameters={"input": "x", "temperature": 0.5, "n": None}),
    RequestSpec(operation=Operation.EMBEDDING, model="m", dimensions=3, parameters={"user": MARKER}),
    RequestSpec(operation=Operation.EMBEDDING, model=MARKER),
]
TOKEN = "0123456789abcdef01234567"


def written(folder: Path, spec: RequestSpec, prompts: list[str], profile: Profile = COMPATIBLE) -> bytes:
    keys = [str(number) for number in range(len(prompts))]
    path = folder / "new" / "sends.jsonl"
    write_request_file(
        path,
        profile=profile,
        spec=spec,
        manifest=write_columns(folder / "manifest.parquet", row=range(len(keys)), key=keys),
        requests=write_columns(folder / "requests.parquet", key=keys, prompt=prompts),
        token=TOKEN,
    )
    return path.read_bytes()


@settings(max_examples=40)
@given(spec=st.sampled_from(SPECS), prompts=st.lists(PROMPTS, min_size=1, max_size=5))
@example(spec=SPECS[0], prompts=HOSTILE)
@example(spec=SPECS[1], prompts=HOSTILE)
@example(spec=SPECS[4], prompts=HOSTILE)
def test_each_line_is_the_request_it_should_be(
    tmp_path_factory: pytest.TempPathFactory, spec: RequestSpec, prompts: list[str]
) -> None:
    raw = written(tmp_path_factory.mktemp("render"), spec, prompts)
    assert raw.endswith(b"\n")
    lines = raw.decode().removesuffix("\n").split("\n")
    assert len(lines) == len(prompts)
    found = [json.loads(line) for line in lines]
    assert {line["custom_id"] for line in found} == {f"{TOKEN}-{row}" for row in range(len(prompts))}
    for line in found:
        assert set(line) == {"custom_id", "method", "url", "body"}
        assert len(line["custom_id"]) <= 64
        assert (line["method"], line["url"]) == ("POST", OPENAI.endpoints[spec.operation])
        assert line["body"] == OPENAI_WIRE.body(spec, prompts[int(line["custom_id"].split("-")[1])])


def test_ids_stay_short_in_the_longest_file(tmp_path: Path) -> None:
    longest = f"{TOKEN}-{LOCAL.max_rows * OPENAI.max_rows}"
    assert len(longest) <= 64


def test_many_rows_keep_their_ids(tmp_path: Path) -> None:
    prompts = [f"prompt {number}" for number in range(120_000)]
    lines = written(tmp_path, SPECS[0], prompts).splitlines()
    pairs = {line["custom_id"]: line["body"]["messages"][-1]["content"] for line in map(json.loads, lines[::997])}
    assert len(lines) == len(prompts)
    assert pairs
    assert all(prompts[int(name.split("-")[1])] == prompt for name, prompt in pairs.items())


def test_a_file_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a file where a folder is needed")
    with pytest.raises(StorageError, match="can't be written"):
        written(tmp_path, SPECS[0], ["x"])


def test_a_plan_file_that_is_gone_says_so(tmp_path: Path) -> None:
    manifest = write_columns(tmp_path / "manifest.parquet", row=[0], key=["k"])
    with pytest.raises(StorageError, match=r"requests\.parquet"):
        write_request_file(
            tmp_path / "x.jsonl",
            profile=OPENAI,
            spec=SPECS[0],
            manifest=manifest,
            requests=tmp_path / "requests.parquet",
            token=TOKEN,
        )


def test_a_request_that_the_plan_lacks_is_noticed_before_it_is_sent(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"1 of 2"):
        write_request_file(
            tmp_path / "x.jsonl",
            profile=OPENAI,
            spec=SPECS[0],
            manifest=write_columns(tmp_path / "manifest.parquet", row=[0, 1], key=["k", "gone"]),
            requests=write_columns(tmp_path / "requests.parquet", key=["k"], prompt=["p"]),
            token=TOKEN,
        )


@given(
    sizes=st.lists(st.integers(1, 120), max_size=60),
    max_rows=st.integers(1, 20),
    max_bytes=st.integers(100, 300),
)
def test_shards_keep_both_limits_and_lose_no_row(sizes: list[int], max_rows: int, max_bytes: int) -> None:
    profile = replace(OPENAI, max_rows=max_rows, max_bytes=max_bytes)
    shards = cut(np.asarray(sizes, dtype=np.int64), profile)
    assert [row for start, end in shards for row in range(start, end)] == list(range(len(sizes)))
    for start, end in shards:
        assert 1 <= end - start <= max_rows
        assert sum(sizes[start:end]) <= max_bytes or end - start == 1
    for (start, end), (_, after) in itertools.pairwise(shards):
        full = end - start == max_rows or sum(sizes[start : end + 1]) > max_bytes
        assert full, f"{(start, end)} could have taken a row of {(end, after)}"


def test_what_is_left_over_is_enough_for_a_batch_too() -> None:
    def shards(rows: int, least: int) -> list[tuple[int, int]]:
        return cut(np.full(rows, 10, dtype=np.int64), replace(OPENAI, max_rows=10, min_rows=least))

    assert shards(23, 1) == [(0, 10), (10, 20), (20, 23)]
    assert shards(23, 5) == [(0, 10), (10, 18), (18, 23)]
    assert shards(3, 5) == [(0, 3)]  # too few altogether: the provider says so
    assert shards(12, 8) == [(0, 10), (10, 12)]
