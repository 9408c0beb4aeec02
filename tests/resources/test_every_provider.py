"""Each provider's protocol, spoken by the emulator: what goes wrong there goes wrong for each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dagster_batch_llm.resources.ledger import AttemptState, schema
from dagster_batch_llm.resources.local.emulator import Fault
from dagster_batch_llm.resources.local.emulator.dialects import DIALECTS
from dagster_batch_llm.resources.request import Operation

from .emulated import SPOKEN, EmulatedWorld, rules
from .world import PROMPTS, copy_home

ONE_EACH = dict.fromkeys(PROMPTS, 1)
ALL_OK = [(prompt, "ok") for prompt in sorted(PROMPTS)]

MakeEmulated = Callable[..., EmulatedWorld]

ROWS = {
    "missing": ("missing", "nothing for this row"),
    "renamed": ("missing", "nothing for this row"),
    "error_row": ("errored", "failed on this request"),
    "expired": ("expired", ""),
    "refusal": ("refused", "I can't help"),
    "truncated": ("truncated", "cut off"),
    "empty_answer": ("invalid", "empty"),
    "body_not_json": ("invalid", "instead of an answer the provider sent"),
    "broken_line": ("missing", "nothing for this row"),
    "duplicated": ("ok", "None"),
    "contradicted": ("ok", "None"),
    "no_usage": ("ok", "None"),
    "odd_usage": ("ok", "None"),
    "unknown_id": ("ok", "None"),
    "long_line": ("ok", "None"),
}
"""Row fault → outcome and a part of its reason."""
VECTORS = {
    "body_not_json": ("invalid", "instead of an answer the provider sent"),
    **dict.fromkeys(("refusal", "truncated", "empty_answer"), ("ok", "None")),
}
"""What is another matter for a vector."""


NOT_HERE = {
    ("bedrock", "expired"): "a row that it never came to has no line; only its job's status says so",
    ("cohere", "broken_line"): "results are Avro records, in which nothing can be broken but all",
    ("cohere", "refusal"): "it has no word for it: an answer that declines is an answer like others",
    ("cohere", "expired"): "a row that it never came to has no record; only its batch's status says so",
    ("openrouter", "broken_line"): "results are one JSON object, in which nothing can be broken but all",
    ("xai", "broken_line"): "results are pages of JSON, in which nothing can be broken but all",
    ("xai", "zero_counts"): "its counts are its state",
}
"""Faults that a protocol has no place for."""


def places(*names: str, only: str = "") -> list[tuple[str, str]]:
    """Each protocol, or one, with each of these faults that it has a place for."""
    all_of_them = [(speaks, name) for speaks in sorted(DIALECTS) for name in names]
    return [(speaks, name) for speaks, name in all_of_them if only in ("", speaks) and (speaks, name) not in NOT_HERE]


@pytest.fixture(params=sorted(DIALECTS))
def speaks(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def emulated(speaks: str, tmp_path: Path, migrated_home: Path, no_waiting: None) -> MakeEmulated:
    def make(*faults: Fault) -> EmulatedWorld:
        return EmulatedWorld(copy_home(migrated_home, tmp_path / "home"), faults=rules(*faults, speaks=speaks))

    return make


def survives(world: EmulatedWorld) -> None:
    """Every row has its answer, and each was paid once."""
    assert world.converge(within=72 * 3600.0, step=60.0) is AttemptState.ANSWERED
    assert [(key, outcome) for key, outcome, _ in world.outcomes()] == ALL_OK
    assert world.emulator.bill == ONE_EACH


def test_every_dialect_has_its_client() -> None:
    assert set(SPOKEN) == {"openai", *DIALECTS}


def test_a_batch_is_asked_and_answered(emulated: MakeEmulated) -> None:
    world = emulated()
    survives(world)
    (attempt,) = world.ledger.attempts.find(schema.attempt.c.rows == 3)
    (file,) = world.ledger.attempts.answers([attempt.id])
    written = 0 if world.spec.operation is Operation.EMBEDDING else 3
    assert (file.input_tokens, file.output_tokens, file.unmetered) == (3, written, 0)
    assert world.said == []


@pytest.mark.parametrize("name", ["lost_reply", "bad_gateway", "not_json", "lost_request", "busy", "server_error"])
def test_a_create_that_goes_wrong_is_paid_once(emulated: MakeEmulated, name: str) -> None:
    survives(emulated(Fault("create", name, times=1, seconds=0)))


def test_a_lost_create_is_found_where_all_calls_go_wrong_at_times(emulated: MakeEmulated) -> None:
    lost = Fault("create", "lost_reply", times=1)
    odd = [Fault("call", name, times=2, seconds=0, share=0.5, skip=2) for name in ("server_error", "busy", "no_date")]
    survives(emulated(lost, *odd, Fault("list", "lost_reply", times=1), Fault("get", "not_json", times=1)))


@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_refusal_is_final_and_costs_nothing(emulated: MakeEmulated, status: int) -> None:
    world = emulated(Fault("create", "refused", status=status))
    assert world.converge(within=600.0) is AttemptState.REFUSED
    assert [error.status for error in world.said] == [status]
    assert (world.emulator.bill, world.emulator.store.count_batches()) == ({}, 0)


@pytest.mark.parametrize("name", ["cut", "cut_at_a_line", "cut_short", "broken_gzip", "no_last_newline", "not_found"])
def test_results_that_come_badly_are_fetched_again(emulated: MakeEmulated, name: str) -> None:
    survives(emulated(Fault("content", name, times=2)))


@pytest.mark.parametrize(("speaks", "name"), places("unknown_status", "zero_counts", "late_files"))
def test_what_is_said_of_a_batch_is_less_than_what_is_in_its_results(emulated: MakeEmulated, name: str) -> None:
    survives(emulated(Fault("batch", name)))


@pytest.mark.parametrize("name", ["expires", "cancelled"])
def test_a_batch_that_is_cut_off_keeps_what_it_answered(emulated: MakeEmulated, name: str) -> None:
    world = emulated(Fault("batch", name, part=0.5))
    assert world.converge(within=72 * 3600.0, step=60.0) is AttemptState.ANSWERED
    assert [(key, outcome) for key, outcome, _ in world.outcomes()] == [
        ("one", "ok"), ("three", "expired"), ("two", "expired"),
    ]  # fmt: skip
    assert world.emulator.bill == {"one": 1}


def test_a_full_queue_is_tried_again_later(emulated: MakeEmulated) -> None:
    survives(emulated(Fault("create", "busy", times=3, status=429, seconds=60)))


def test_each_row_that_goes_wrong_has_its_own_outcome_and_the_others_have_theirs(
    emulated: MakeEmulated, speaks: str
) -> None:
    struck = [name for _, name in places(*ROWS, only=speaks)]
    world = emulated(*(Fault("row", name, only=f"<{name}>") for name in struck))
    prompts = [f"<{name}> text" for name in struck]
    assert world.converge(["plain", *prompts], within=72 * 3600.0, step=60.0) is AttemptState.ANSWERED
    found = {key: (outcome, str(reason)) for key, outcome, reason in world.outcomes()}
    embeds = world.spec.operation is Operation.EMBEDDING
    expected = {**ROWS, **(VECTORS if embeds else {})}
    assert {key: outcome for key, (outcome, _) in found.items()} == {
        "plain": "ok", **{f"<{name}> text": expected[name][0] for name in struck},
    }  # fmt: skip
    for name in struck:
        assert expected[name][1] in found[f"<{name}> text"][1], name
    assert world.emulator.bill == dict.fromkeys(["plain", *prompts], 1)
