"""A task survives the ledger, and its version changes with the table and with nothing else."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from dagster_batch_llm.assets import Labels, Text, Vector, classify_asset
from dagster_batch_llm.assets.outputs import Output
from dagster_batch_llm.assets.task import TaskSpec
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.request import Operation, RequestSpec
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NAME = TEXT.filter(lambda name: bool(name) and not name.startswith("__"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
LABELS = st.lists(TEXT.filter(lambda label: bool(label.strip())), min_size=2, max_size=4, unique=True)
OUTPUTS = st.one_of(
    LABELS.map(lambda labels: Labels(labels, column="o")),
    st.one_of(st.none(), st.integers(1, 4096)).map(lambda dimensions: Vector(dimensions, column="o")),
    TEXT.map(lambda instruction: Text("o", instruction)),
)


def declare(**changed: Any) -> TaskSpec:
    given_: dict[str, Any] = {
        "row_key": "id",
        "keep": ("title",),
        "prompt": "{title}",
        "output": Labels(["a", "b"]),
        "model": "m",
        "instruction": None,
        "parameters": {},
        "partition_expr": "",
    }
    return TaskSpec.declare(**{**given_, **changed})


@given(
    keep=st.lists(NAME, max_size=3, unique_by=lambda name: name.lower()),
    words=TEXT.map(lambda text: text.replace("{", "{{").replace("}", "}}")),
    output=OUTPUTS,
    model=TEXT,
    instruction=st.none() | TEXT,
    parameters=st.dictionaries(TEXT, JSON, max_size=3),
)
def test_a_task_comes_back_from_the_ledger_as_it_was(
    keep: list[str],
    words: str,
    output: Output,
    model: str,
    instruction: str | None,
    parameters: dict[str, Any],
) -> None:
    ours = {"id", "o", "status", "error"}
    kept = tuple(name for name in keep if name.lower() not in ours)
    spec = declare(
        keep=kept,
        prompt=words + "{id}",
        output=output,
        model=model,
        instruction=instruction,
        parameters=parameters,
    )
    again = TaskSpec.from_json(spec.to_json())
    assert again == spec
    assert (again.version, again.request.task) == (spec.version, spec.request.task)


@given(st.dictionaries(TEXT, JSON, max_size=5), st.randoms(use_true_random=False))
def test_equal_requests_share_a_task_whatever_the_order_they_were_written_in(
    parameters: dict[str, Any], random: Any
) -> None:
    shuffled = list(parameters.items())
    random.shuffle(shuffled)
    one = RequestSpec(Operation.CHAT, "m", parameters=parameters)
    other = RequestSpec(Operation.CHAT, "m", parameters=dict(shuffled))
    assert one.task == other.task
    assert RequestSpec.from_json(one.to_json()) == other


@pytest.mark.parametrize(
    "changed",
    [
        {"operation": Operation.EMBEDDING},
        {"model": "n"},
        {"instruction": "i"},
        {"schema": {"type": "object"}},
        {"parameters": {"temperature": 0}},
        {"dimensions": 3},
    ],
)
def test_whatever_the_provider_is_asked_is_part_of_the_task(changed: dict[str, Any]) -> None:
    spec = RequestSpec(Operation.CHAT, "m")
    assert dataclasses.replace(spec, **changed).task != spec.task


def code_version(**changed: Any) -> str:
    given_: dict[str, Any] = {
        "name": "moods",
        "source": "reviews",
        "row_key": "id",
        "prompt": "{text}",
        "labels": {"a": "good", "b": "bad"},
        "llm": "llm",
        "model": "m",
    }
    asset = classify_asset(**{**given_, **changed})
    version = asset.code_versions_by_key[asset.key]
    assert version
    return version


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "{text}!"},
        {"labels": {"a": "good", "c": "bad"}},
        {"labels": {"a": "good", "b": "very bad"}},
        {"model": "n"},
        {"label_column": "mood"},
        {"keep": ["title"]},
        {"row_key": "number"},
        {"instruction": "Guess."},
        {"parameters": {"temperature": 0}},
        {"code_version": "2"},
    ],
)
def test_the_code_version_changes_with_the_table(changed: dict[str, Any]) -> None:
    assert code_version(**changed) != code_version()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"name": "other"},
        {"llm": "another"},
        {"group_name": "g"},
        {"description": "d"},
        {"tags": {"t": "1"}},
        {"tables": "elsewhere"},
        {"parameters": {}},
        {"keep": ["id"]},
    ],
)
def test_the_code_version_changes_with_nothing_else(changed: dict[str, Any]) -> None:
    assert code_version(**changed) == code_version()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"keep": ("label",)}, "two columns named \\['label'\\]"),
        ({"keep": ("Label",)}, "two columns named \\['Label', 'label'\\]"),
        ({"keep": ("status",)}, "two columns named \\['status'\\]"),
        ({"row_key": "error"}, "two columns named \\['error'\\]"),
        ({"keep": ("title", "title")}, "two columns named \\['title'\\]"),
        ({"output": Labels(["a", "b"], column="id")}, "two columns named \\['id'\\]"),
        ({"output": Text("status")}, "two columns named \\['status'\\].*are ours"),
        ({"keep": ("partition_key",), "partition_expr": "day"}, "two columns named \\['partition_key'\\]"),
        ({"output": Text("")}, "Columns can't be called \\[''\\]"),
        ({"output": Text("__key")}, "Columns can't be called \\['__key'\\]"),
        ({"parameters": {"stop": {1, 2}}}, "parameters have to be JSON"),
        ({"parameters": {"temperature": float("nan")}}, "parameters have to be JSON"),
    ],
)
def test_a_table_that_cannot_be_is_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        declare(**changed)


def test_a_row_key_that_is_kept_as_well_is_one_column() -> None:
    assert declare(keep=("id", "title")).keep == ("id", "title")


def test_a_partition_key_of_the_source_may_be_kept_where_the_table_has_no_partitions() -> None:
    assert declare(keep=("partition_key",)).keep == ("id", "partition_key")


def test_parameters_are_stored_as_they_will_be_sent() -> None:
    spec = declare(parameters={"stop": ("a", "b")})
    assert spec.request.parameters == {"stop": ["a", "b"]}
    assert json.loads(spec.to_json())["row_key"] == "id"
