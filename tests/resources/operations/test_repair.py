"""`doctor --repair` where one attempt has answers files of several batches, whatever has become of which."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.operations import Level, examine, repair

from ..effects import Died, Effects
from ..test_late_arrivals import asked_anew, given_up_and_cancelled, sweep
from ..world import PROMPTS, World


def damaged_answers(world: World) -> list[str]:
    found = (one.subject for one in examine(world.folder, world.clock) if one.level is Level.ERROR)
    return [name for name in found if name.startswith("answers/")]


def answers_files(world: World) -> list[Path]:
    return [Home(world.folder).answers(file.file) for _, file in world.ledger.upkeep.answers_files()]


@pytest.fixture
def late(world: World) -> World:
    """A closed attempt, and a batch of it that turned up afterwards: two answers files."""
    attempt = asked_anew(world)
    world.server.listing_lag = 9 * 3600.0
    world.finish(attempt, within=8 * 3600.0)
    world.server.listing_lag = 0.0
    assert sweep(world) == 1
    assert len(answers_files(world)) == 2
    return world


@pytest.mark.parametrize("raw", ["here", "at the provider"])
@pytest.mark.parametrize("which", [(0,), (1,), (0, 1)], ids=["the first", "the late one", "both"])
def test_each_of_several_answers_files_is_rebuilt_from_its_own_batch(
    late: World, which: tuple[int, ...], raw: str
) -> None:
    before, outcomes = late.answers(), late.outcomes()
    for number in which:
        path = answers_files(late)[number]
        path.write_bytes(path.read_bytes()[:-20])
    if raw == "at the provider":
        shutil.rmtree(late.folder / "results")
        assert not any(one.done for one in repair(late.ledger))
    assert len(damaged_answers(late)) == len(which)
    done = repair(late.ledger, {"llm": late.provider()})
    assert [(one.done, "nothing was paid" in one.said) for one in done] == [(True, True)] * len(which)
    assert damaged_answers(late) == []
    assert (late.answers(), late.outcomes()) == (before, outcomes)
    assert sweep(late) == 0
    assert len(answers_files(late)) == 2
    assert late.server.bill == dict.fromkeys(PROMPTS, 2)
    assert repair(late.ledger) == []


def test_answers_of_a_batch_that_came_after_its_attempt_was_ended_are_rebuilt(world: World) -> None:
    given_up_and_cancelled(world)
    sweep(world)
    [path] = answers_files(world)
    path.write_bytes(b"")
    assert [one.done for one in repair(world.ledger)] == [True]
    world.paid_once()


def test_a_repair_of_several_may_be_cut_off_anywhere(late: World) -> None:
    before = late.outcomes()
    for last in itertools.count():
        for path in answers_files(late):
            path.unlink()
        effects = Effects(last)
        try:
            with effects.watched():
                repair(late.ledger)
        except Died:
            repair(late.ledger)
        assert damaged_answers(late) == []
        assert late.outcomes() == before
        if not effects.died:
            break
