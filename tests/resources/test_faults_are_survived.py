"""Each fault that the emulator knows, by itself, through the real client and machine, and what is paid for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dagster_batch_llm.resources.ledger import AttemptState
from dagster_batch_llm.resources.local.emulator import KNOWN, Fault

from .emulated import EmulatedWorld, rules
from .world import PROMPTS, copy_home

MakeEmulated = Callable[..., EmulatedWorld]

ONE_EACH = dict.fromkeys(PROMPTS, 1)
ALL_OK = [(prompt, "ok") for prompt in sorted(PROMPTS)]

REFUSALS = ("refused", "not_found", "no_quota")
LOST = ("lost_reply", "bad_gateway", "time_out", "not_json", "empty_reply")
ODD = ("slow", "no_date", "clock_off", "times_off")
WRONG_BATCHES = ("bad_line", "mixed_models", "duplicate_ids")
NO_ANSWER = {
    "missing": ("missing", "nothing for this row"),
    "renamed": ("missing", "nothing for this row"),
    "error_row": ("errored", "emulated_error"),
    "error_in_output": ("errored", "emulated_error"),
    "expired": ("expired", "batch_expired"),
    "status_0": ("errored", "status 0"),
    "no_response": ("errored", "neither an answer nor a reason"),
    "empty_body": ("invalid", "sent {}"),
    "body_not_json": ("invalid", "instead of an answer the provider sent <html>"),
    "broken_line": ("missing", "nothing for this row"),
    "no_choices": ("invalid", "empty"),
    "refusal": ("refused", "I can't help"),
    "content_filter": ("refused", "content filter"),
    "truncated": ("truncated", "cut off"),
    "empty_answer": ("invalid", "empty"),
    "invalid_utf8": ("invalid", "characters that are no text"),
    "lone_surrogate": ("invalid", "characters that are no text"),
}
"""Row fault → outcome and a part of its reason; a row with any other fault has its answer."""
UNKNOWN_IDS = ("unknown_id", "renamed")
UNREADABLE = ("broken_line", "invalid_utf8", "nul_bytes", "lone_surrogate")


@pytest.fixture
def emulated(tmp_path: Path, migrated_home: Path, no_waiting: None) -> MakeEmulated:
    def make(*faults: Fault) -> EmulatedWorld:
        return EmulatedWorld(copy_home(migrated_home, tmp_path / "home"), faults=rules(*faults))

    return make


def survives(world: EmulatedWorld, *, within: float = 4 * 3600.0, step: float = 15.0) -> None:
    """Every row has its answer, and each was paid once."""
    assert world.converge(within=within, step=step) is AttemptState.ANSWERED
    assert [(key, outcome) for key, outcome, _ in world.outcomes()] == ALL_OK
    assert world.emulator.bill == ONE_EACH


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault("create", name, times=1, seconds=0) for name in (*LOST, *ODD, "lost_request", "busy", "server_error")),
        Fault("create", "busy", times=3, status=503, seconds=60),
        *(Fault("upload", name, times=1, seconds=0) for name in (*LOST, "lost_request", "busy", "server_error")),
        *(Fault("get", name, times=6, seconds=0) for name in (*REFUSALS, *LOST, *ODD, "busy")),
        *(Fault("content", name, times=3, seconds=0) for name in (*REFUSALS, *LOST, "busy")),
        *(Fault("content", name, times=1) for name in KNOWN["content"] if name not in KNOWN["call"]),
    ],
    ids=str,
)
def test_a_call_that_goes_wrong_costs_nothing(emulated: MakeEmulated, fault: Fault) -> None:
    survives(emulated(fault))


@pytest.mark.parametrize("name", ["lag", "unordered", *LOST, *ODD, "busy", "not_found"])
def test_a_lost_create_is_found_in_a_list_that_goes_wrong(emulated: MakeEmulated, name: str) -> None:
    survives(emulated(Fault("create", "lost_reply", times=1), Fault("list", name, times=3, seconds=0)))


def test_a_lost_create_is_found_when_it_is_listed_ten_minutes_later(emulated: MakeEmulated) -> None:
    survives(emulated(Fault("create", "lost_reply", times=1), Fault("list", "lag", seconds=600)))


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("clock_off", -30_000),
        ("clock_off", 30_000),
        ("times_off", 30_000),
        ("times_off", -30_000),
    ],
)
def test_a_lost_create_is_found_at_a_provider_whose_clock_is_hours_off(
    emulated: MakeEmulated, name: str, seconds: int
) -> None:
    survives(emulated(Fault("create", "lost_reply", times=1), Fault("call", name, seconds=seconds)))


@pytest.mark.parametrize("call", ["create", "upload"])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
def test_a_refusal_is_final_and_costs_nothing(emulated: MakeEmulated, call: str, status: int) -> None:
    world = emulated(Fault(call, "refused", status=status))
    assert world.converge(within=600.0) is AttemptState.REFUSED
    assert [error.status for error in world.said] == [status]
    assert (world.emulator.bill, world.emulator.store.count_batches()) == ({}, 0)


@pytest.mark.parametrize("call", ["create", "upload"])
def test_a_used_up_quota_is_final_and_costs_nothing(emulated: MakeEmulated, call: str) -> None:
    world = emulated(Fault(call, "no_quota"))
    assert world.converge(within=600.0) is AttemptState.REFUSED
    assert (world.emulator.bill, world.emulator.store.count_batches()) == ({}, 0)


@pytest.mark.parametrize(
    "name",
    ["unknown_status", "backwards", "lying_counts", "zero_counts", "late_files", "failed_with_output", "sparse"],
)
def test_what_is_said_of_a_batch_is_less_than_what_is_in_its_files(emulated: MakeEmulated, name: str) -> None:
    survives(emulated(Fault("batch", name)))


@pytest.mark.parametrize("name", ["no_metadata", "sparse"])
def test_a_lost_create_is_found_by_its_input_file(emulated: MakeEmulated, name: str) -> None:
    survives(emulated(Fault("create", "lost_reply", times=1), Fault("batch", name)))


@pytest.mark.parametrize("name", WRONG_BATCHES)
def test_a_batch_that_is_rejected_as_a_whole_says_why_and_costs_nothing(emulated: MakeEmulated, name: str) -> None:
    world = emulated(Fault("batch", name))
    assert world.converge(within=600.0) is AttemptState.REFUSED
    assert "(line " in world.said[-1].message
    assert world.emulator.bill == {}


def test_a_full_queue_is_tried_again_later(emulated: MakeEmulated) -> None:
    world = emulated(Fault("batch", "queue_full", times=2))
    survives(world)
    assert world.emulator.store.count_batches() == 3


@pytest.mark.parametrize(("name", "reason"), [("expires", "batch_expired"), ("cancelled", "batch_cancelled")])
def test_a_batch_that_is_cut_off_keeps_what_it_answered(emulated: MakeEmulated, name: str, reason: str) -> None:
    world = emulated(Fault("batch", name, part=0.5))
    assert world.converge() is AttemptState.ANSWERED
    assert [(key, outcome) for key, outcome, _ in world.outcomes()] == [
        ("one", "ok"), ("three", "expired"), ("two", "expired"),
    ]  # fmt: skip
    assert world.emulator.bill == {"one": 1}
    assert reason in str(world.outcomes()[1][2])


def test_a_stuck_batch_is_waited_for_and_not_sent_again(emulated: MakeEmulated) -> None:
    world = emulated(Fault("batch", "stuck", seconds=80_000))
    survives(world, within=100_000.0, step=2000.0)
    assert world.emulator.store.count_batches() == 1


def test_a_batch_that_is_stuck_past_its_window_is_still_asked_about(emulated: MakeEmulated) -> None:
    world = emulated(Fault("batch", "stuck", seconds=90_000))
    assert world.converge(within=100_000.0, step=2000.0) is AttemptState.ANSWERED
    assert [outcome for _, outcome, _ in world.outcomes()] == ["expired"] * 3
    assert world.emulator.bill == {}


def test_a_create_that_a_proxy_repeats_is_paid_twice_as_the_readme_says(emulated: MakeEmulated) -> None:
    world = emulated(Fault("create", "repeated", times=1))
    assert world.converge() is AttemptState.ANSWERED
    assert [(key, outcome) for key, outcome, _ in world.outcomes()] == ALL_OK
    assert max(world.emulator.bill.values()) <= 2


def test_a_create_that_a_proxy_repeats_and_whose_reply_is_lost_is_seen_and_told(emulated: MakeEmulated) -> None:
    world = emulated(Fault("create", "repeated", times=1), Fault("create", "lost_reply", times=1))
    assert world.converge() is AttemptState.ANSWERED
    assert [(key, outcome) for key, outcome, _ in world.outcomes()] == ALL_OK
    assert [kind for _, kind, _, _ in world.ledger.attempts.dated_incidents()] == ["duplicate"]


def test_an_output_file_that_is_never_named_makes_missing_rows(emulated: MakeEmulated) -> None:
    world = emulated(Fault("batch", "no_output_file"), Fault("row", "error_row", only="two"))
    assert world.converge() is AttemptState.ANSWERED
    assert [outcome for _, outcome, _ in world.outcomes()] == ["missing", "missing", "errored"]


@pytest.mark.parametrize("name", list(KNOWN["row"]))
def test_a_row_that_goes_wrong_has_its_own_outcome_and_the_others_have_theirs(
    emulated: MakeEmulated, name: str
) -> None:
    world = emulated(Fault("row", name, only="two"))
    assert world.converge() is AttemptState.ANSWERED
    *others, (_, outcome, reason) = world.outcomes()
    assert [(key, kind) for key, kind, _ in others] == ALL_OK[:2]
    expected, said = NO_ANSWER.get(name, ("ok", "None"))
    assert outcome == expected
    assert said in str(reason)
    assert world.emulator.bill == ONE_EACH
    kinds = [kind for _, kind, _, _ in world.ledger.attempts.dated_incidents()]
    assert kinds == ["unknown rows"] * (name in UNKNOWN_IDS) + ["unreadable lines"] * (name in UNREADABLE)


def test_every_fault_is_tried_here() -> None:
    source = Path(__file__).read_text()
    tables = {*KNOWN["row"], *KNOWN["content"], *LOST, *ODD, *REFUSALS, *WRONG_BATCHES}
    names = {name for place in ("call", "batch", "list") for name in KNOWN[place]}
    untried = {name for name in names if name not in tables and f'"{name}"' not in source}
    assert untried == set()
