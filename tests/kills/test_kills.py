"""A sample of `make kills`: what is most dangerous, in real processes; and how its strikes share worlds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .agenda import Agenda
from .campaign import Result
from .points import Point, Strike

ROOT = Path(__file__).parents[2]
A, B, C = (Point("run", step) for step in ("before a", "before b", "before c"))


@pytest.mark.real
def test_a_run_a_server_and_a_collect_run_that_are_killed_or_stopped_at_the_create_pay_once() -> None:
    create = "before POST /v1/batches (1)"
    strikes = [f"kill run: {create}", f"kill server: {create}", f"stop collect: {create}"]
    chosen = ["--scenario", "run", *(word for strike in strikes for word in ("--strike", strike))]
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", *chosen], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"struck: {strikes}" in done.stdout


def _played(agenda: Agenda, struck: tuple[Strike, ...], *, passed: tuple[Point, ...] = (A, B)) -> tuple[Strike, ...]:
    """The agenda's next world, in which only these are struck; gives what was ordered."""
    world = agenda.next()
    assert world is not None
    found = tuple(strike for strike in world[1] if strike in struck)
    agenda.note(Result(*world, struck=found, passed=frozenset(passed), violations=[], seconds=1.0, log=""))
    return world[1]


def _agenda() -> Agenda:
    agenda = Agenda(["run"], ["kill"], most=1, match="", seed=1)
    assert _played(agenda, ()) == ()
    return agenda


def test_a_strike_that_is_not_reached_in_company_gets_a_world_of_its_own_before_it_is_given_up() -> None:
    agenda, a, b = _agenda(), Strike("kill", A), Strike("kill", B)
    assert set(_played(agenda, (a,))) == {a, b}
    assert [_played(agenda, ()) for _ in range(2)] == [(b,), (b,)]
    assert agenda.next() is None
    assert [target.strike for target in agenda.missed] == [b]


def test_a_point_that_is_first_seen_after_a_strike_is_struck_at_last_in_a_world_that_has_the_same_strike() -> None:
    agenda, a, b, c = _agenda(), Strike("kill", A), Strike("kill", B), Strike("kill", C)
    _played(agenda, (a, b), passed=(A, B, C))
    assert [_played(agenda, ()) for _ in range(2)] == [(c,), (c,)]
    last = _played(agenda, (a, b, c))
    assert last[0] == c
    assert set(last[1:]) == {a, b}
    assert (agenda.targets, agenda.missed) == ([], [])
