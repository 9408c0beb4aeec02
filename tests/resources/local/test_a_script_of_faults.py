"""The script of faults, and what the emulator remembers: pure values and one database, no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.local.emulator import KNOWN, Fault, Faults
from dagster_batch_llm.resources.local.emulator.memory import Billed, Memory


def billed(number: int, text: str = "") -> Billed:
    return Billed(f"row-{number}", f"{number:016x}", text or f"prompt {number}")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("row", "nonsense"), "it has answer_in_errors"),
        (Fault("nowhere", "missing"), "there is no 'nowhere'"),
        (Fault("create", "gzip"), "'create' has no fault 'gzip'"),
        (Fault("row", "missing", share=1.5), "from 0 to 1"),
        (Fault("row", "missing", times=-1), "0 or more"),
        (Fault("create", "refused", status=200), "from 400 to 599"),
        (Fault("batch", "stuck", only="soup"), "only rows"),
    ],
    ids=str,
)
def test_a_fault_that_makes_no_sense_is_refused_with_the_known_ones(fault: Fault, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Faults([fault])


@pytest.mark.parametrize("text", ["", "[]", '{"rules": [{"place": "row"}]}', '{"rules": [{"place": 1}]}', '{"sed": 1}'])
def test_a_text_that_is_no_script_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no script of faults"):
        Faults.from_json(text)


def test_a_script_survives_json_and_leaves_out_what_is_usual() -> None:
    script = Faults([Fault("content", "cut", part=0.25), Fault("row", "missing", share=0.1, times=1)], seed=7)
    assert Faults.from_json(script.to_json()) == script
    assert json.loads(script.to_json())["rules"][0] == {"place": "content", "name": "cut", "part": 0.25}


def test_every_fault_says_what_it_does_in_a_sentence() -> None:
    said = [(place, name, says) for place, faults in KNOWN.items() for name, says in faults.items()]
    assert len(said) > 150
    assert [(place, name) for place, name, says in said if not says.endswith(".") or len(says) < 15] == []


def test_the_same_seed_strikes_the_same_rows_and_another_one_others(tmp_path: Path) -> None:
    def struck(seed: int) -> list[int]:
        folder = tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        memory = Memory(folder, Faults([Fault("row", "missing", share=0.1)], seed=seed))
        found = [n for n in range(500) if memory.of_row("batch", billed(n))]
        memory.close()
        return found

    assert struck(1) == struck(1) != struck(2)
    assert 25 <= len(struck(1)) <= 75


def test_calls_are_struck_as_often_as_said_also_across_a_restart(tmp_path: Path) -> None:
    script = Faults([Fault("create", "lost_reply", times=2, skip=1), Fault("call", "slow", times=1)])
    seen: list[list[str]] = []
    for place in ("create", "create", "get", "create", "create"):
        memory = Memory(tmp_path, script)  # as after a kill
        seen.append([rule.name for rule in memory.striking((place, "call"))])
        memory.close()
    assert seen == [["slow"], ["lost_reply"], [], ["lost_reply"], []]


def test_a_row_that_is_struck_once_is_left_alone_in_the_next_batch_but_not_after_a_crash(tmp_path: Path) -> None:
    memory = Memory(tmp_path, Faults([Fault("row", "missing", times=1, only="soup")]))
    asked = [("a", "soup"), ("a", "soup"), ("b", "soup"), ("a", "bread")]
    assert [memory.of_row(batch, billed(1, text)) is not None for batch, text in asked] == [True, True, False, False]
    memory.close()


def test_another_script_counts_anew_and_the_bill_goes_on(tmp_path: Path) -> None:
    memory = Memory(tmp_path, Faults([Fault("create", "busy", times=1)]))
    memory.pay("batch", [billed(1), billed(2)])
    memory.pay("batch", [billed(2)])  # the same row, after a crash
    memory.pay("second", [billed(2)])
    assert [rule.name for rule in memory.striking(("create",))] == ["busy"]
    memory.script(Faults([Fault("create", "refused", times=1)]))
    memory.close()
    again = Memory(tmp_path, Faults([Fault("create", "busy", times=1)]))
    assert [rule.name for rule in again.striking(("create",))] == ["refused"]
    assert [(paid["prompt"], paid["times"]) for paid in again.bill()] == [("prompt 2", 2), ("prompt 1", 1)]
    again.close()
