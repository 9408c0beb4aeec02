"""Retrying, forgetting and repairing, as the next materialization sees it."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.assets.stuck import STUCK_CHECK
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import Ledger, PlanState
from dagster_batch_llm.resources.operations import (
    Kind,
    Level,
    ask_again,
    cancel,
    examine,
    forget,
    given_up,
    plans_named,
    repair,
)

from ..resources.effects import Died, Effects
from .conftest import House, failure, rows_asset
from .fake_provider import answered, by_first_label

MOODS = "moods"


def reviews(*texts: str) -> dg.AssetsDefinition:
    return rows_asset("reviews", pa.table({"id": range(len(texts)), "text": texts}))


def moods(name: str = MOODS) -> dg.AssetsDefinition:
    return classify_asset(
        name=name, source="reviews", row_key="id", prompt="{text}", labels=["good", "bad"], llm="llm", model="m"
    )


def stubborn(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Two rows never get a usable answer."""
    if prompt == "refused":
        return answered(None, refusal="I'd rather not.")
    return answered("neither") if prompt == "invalid" else by_first_label(prompt, body)


def statuses(house: House) -> dict[str, str]:
    return dict(house.rows(MOODS, "id::VARCHAR, status"))


@pytest.fixture
def given(house: House) -> House:
    """A table of three rows, two of which were given up."""
    house.server.rule = stubborn
    house.done(reviews("ok", "refused", "invalid"), moods())
    assert Counter(house.server.prompts) == {"ok": 1, "refused": 1, "invalid": 3}
    house.server.forget()
    house.server.rule = by_first_label
    return house


# ---- retry ---------------------------------------------------------------------------------------------------------


def test_what_was_given_up_is_asked_and_paid_once_after_a_retry(given: House) -> None:
    given.done(reviews("ok", "refused", "invalid"), moods())
    assert given.server.prompts == []
    [found] = given_up(given.ledger, MOODS)
    assert (found.keys, found.model, found.tables) == (2, "m", (MOODS,))
    ask_again(given.ledger, found)
    metadata = given.done(reviews("ok", "refused", "invalid"), moods())
    assert Counter(given.server.prompts) == {"refused": 1, "invalid": 1}
    assert (metadata["batch_llm/rows_asked"], metadata["batch_llm/rows_failed"]) == (2, 0)
    assert set(statuses(given).values()) == {"ok"}
    given.server.forget()
    given.done(reviews("ok", "refused", "invalid"), moods())
    assert given.server.prompts == []
    assert given_up(given.ledger, MOODS)[0].keys == 0


def test_a_retry_in_vain_is_given_up_again(given: House) -> None:
    given.server.rule = stubborn
    ask_again(given.ledger, given_up(given.ledger, MOODS)[0])
    given.done(reviews("ok", "refused", "invalid"), moods())
    assert Counter(given.server.prompts) == {"refused": 1, "invalid": 3}
    assert given_up(given.ledger, MOODS)[0].keys == 2
    given.server.forget()
    given.done(reviews("ok", "refused", "invalid"), moods())
    assert given.server.prompts == []


def test_only_rows_that_are_still_there_are_asked_again(given: House) -> None:
    ask_again(given.ledger, given_up(given.ledger, MOODS)[0])
    given.done(reviews("ok", "refused"), moods())
    assert given.server.prompts == ["refused"]


def test_a_retry_counts_for_every_table_that_asks_the_same(given: House) -> None:
    given.done(reviews("ok", "refused", "invalid"), moods(), moods("others"), select=[moods("others")])
    [found] = given_up(given.ledger, "others")
    assert found.tables == (MOODS, "others")
    ask_again(given.ledger, found)
    given.done(reviews("ok", "refused", "invalid"), moods())
    assert Counter(given.server.prompts) == {"refused": 1, "invalid": 1}


# ---- doctor --------------------------------------------------------------------------------------------------------


def _delete(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _overwrite(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def answers_files(ledger: Ledger) -> list[Path]:
    return [Home(ledger.home).answers(file.file) for _, file in ledger.upkeep.answers_files()]


@pytest.mark.parametrize("damage", [_delete, _truncate, _overwrite, _empty])
def test_a_damaged_answers_file_is_rebuilt_and_nothing_is_paid_again(
    given: House, damage: Callable[[Path], None]
) -> None:
    before, count = statuses(given), len(answers_files(given.ledger))
    for path in answers_files(given.ledger):
        damage(path)
    found = [one for one in examine(given.ledger.home) if one.level is Level.ERROR]
    assert len(found) == count
    assert all(one.repairable and "--repair" in one.advice for one in found)
    assert "can't be read" in failure(given.run(reviews("ok", "refused", "invalid"), moods()))
    done = repair(given.ledger)
    assert [one.done for one in done] == [True] * count
    assert [one for one in examine(given.ledger.home) if one.level is Level.ERROR] == []
    given.done(reviews("ok", "refused", "invalid"), moods())
    assert given.server.prompts == []
    assert statuses(given) == before
    assert repair(given.ledger) == []


def test_a_repair_may_be_cut_off_anywhere(house: House) -> None:
    house.done(reviews("a", "b"), moods())
    house.server.forget()
    ledger, last = house.ledger, 0
    while True:
        for path in answers_files(ledger):
            path.unlink()
        effects = Effects(last)
        try:
            with effects.watched():
                repair(house.ledger)
        except Died:
            last += 1
            repair(house.ledger)
            assert [one for one in examine(ledger.home) if one.level is Level.ERROR] == []
            continue
        break
    assert last >= 4
    house.done(reviews("a", "b"), moods())
    assert house.server.prompts == []


def test_without_raw_results_a_repair_names_what_is_lost_and_invents_nothing(house: House) -> None:
    house.done(reviews("a", "b"), moods())
    house.server.forget()
    [path] = answers_files(house.ledger)
    path.unlink()
    shutil.rmtree(house.ledger.home / "results")
    [said] = repair(house.ledger)
    assert not said.done
    assert "2 rows of batch" in said.said
    assert "table moods" in said.said
    assert not path.exists()
    assert "can't be read" in failure(house.run(reviews("a", "b"), moods()))
    assert house.server.prompts == []
    [again] = repair(house.ledger, {"llm": house.server.client()})
    assert again.done, again.said
    house.done(reviews("a", "b"), moods())
    assert house.server.prompts == []


def test_half_of_the_raw_results_is_not_taken_for_all(house: House) -> None:
    house.done(reviews("a", "b"), moods())
    house.server.forget()
    [path] = answers_files(house.ledger)
    path.unlink()
    [raw] = [one for one in (house.ledger.home / "results").rglob("*") if one.is_file()]
    raw.write_text(raw.read_text().splitlines()[0] + "\n")
    [said] = repair(house.ledger)
    assert not said.done
    assert answers_files(house.ledger) == [path]
    assert list(path.parent.glob("*.parquet")) == []
    house.run(reviews("a", "b"), moods())
    assert house.server.prompts == []


# ---- forget --------------------------------------------------------------------------------------------------------


def test_forgetting_keeps_answers_tables_and_what_was_paid(given: House) -> None:
    before, answers = statuses(given), [path.read_bytes() for path in answers_files(given.ledger)]
    done = forget(given.ledger, -1.0)
    assert {one.kind for one in done} == {Kind.PLAN, Kind.RESULTS}
    assert all(one.bytes > 0 and not one.path.exists() for one in done)
    assert [path.read_bytes() for path in answers_files(given.ledger)] == answers
    given.done(reviews("ok", "refused", "invalid"), moods())
    assert given.server.prompts == []
    assert statuses(given) == before


def test_results_are_kept_where_the_answers_have_to_be_rebuilt_from_them(house: House) -> None:
    house.done(reviews("a"), moods())
    answers_files(house.ledger)[0].unlink()
    assert Kind.RESULTS not in {one.kind for one in forget(house.ledger, -1.0)}
    assert [one.done for one in repair(house.ledger)] == [True]


def test_a_planning_run_that_stood_still_for_a_day_is_told_that_its_files_are_gone(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster_batch_llm.assets import body  # noqa: PLC0415 - only here

    write_plan = body.write_plan

    def slow(*args: Any, **kwargs: Any) -> Any:
        sizes = write_plan(*args, **kwargs)
        for path in [*(house.ledger.home / "plans").rglob("*"), *(house.ledger.home / "plans").iterdir()]:
            os.utime(path, (0, 0))
        assert [one.kind for one in forget(house.ledger, 0.0)] == [Kind.KILLED_PLAN]
        return sizes

    monkeypatch.setattr(body, "write_plan", slow)
    said = failure(house.run(reviews("a"), moods()))
    assert "were removed as those of a killed run" in said
    assert house.server.prompts == []
    monkeypatch.setattr(body, "write_plan", write_plan)
    house.done(reviews("a"), moods())


# ---- cancel --------------------------------------------------------------------------------------------------------


def test_a_run_that_waits_ends_when_its_plan_is_ended_by_hand(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.server.checks_before_end = 10**9
    slept: list[float] = []

    def sleep(clock: object, seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            cancel(house.ledger, plans_named(house.ledger, MOODS))

    monkeypatch.setattr("dagster_batch_llm.resources.clock.SystemClock.sleep", sleep)
    result = house.run(reviews("a"), moods())
    assert result.success
    assert result.asset_materializations_for_node(MOODS) == []
    [plan] = house.ledger.plans.find()
    assert (plan.state, plan.message) == (PlanState.CANCELLED, "ended by hand (dagster-batch-llm cancel)")
    house.server.checks_before_end = 0
    house.done(reviews("a"), moods())  # what was paid is fetched and used
    assert house.server.prompts == ["a"]


# ---- the check -----------------------------------------------------------------------------------------------------


def test_a_table_that_comes_passes_its_check(house: House) -> None:
    result = house.run(reviews("a"), moods())
    [check] = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == (STUCK_CHECK, True)
