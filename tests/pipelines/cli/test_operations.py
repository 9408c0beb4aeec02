"""The commands that change something say what it costs, ask, and then do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from dagster_batch_llm.pipelines.cli.operations import age
from dagster_batch_llm.pipelines.cli.screens import lines
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import AttemptState, Ledger, Origin, PlanId, PlanState

from ...resources.world import SPEC, World, a_plan, write_columns
from .conftest import HOSTILE, SHOWN, ran

Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """What a command prints, with its exit code in front."""

    def run(*arguments: str) -> str:
        code, out, err = ran(capsys, *arguments)
        return f"{code} {out}{err}"

    return run


def answer(monkeypatch: pytest.MonkeyPatch, *, yes: bool) -> list[str]:
    """A person answers every question so; gives what was asked."""
    asked: list[str] = []

    def confirm(question: str) -> bool:
        asked.append(question)
        return yes

    monkeypatch.setattr(typer, "confirm", confirm)
    return asked


def kept(world: World) -> list[str]:
    """All files but the ledger's own."""
    return sorted(str(path) for path in world.folder.rglob("*.*") if "ledger" not in path.name)


def test_cancel_says_what_it_costs_and_asks(world: World, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = [world.ask(), world.ask(["four"], name="second")]
    world.machine().send(attempts[0].id)
    asked = answer(monkeypatch, yes=False)
    out = say("cancel", "table")
    assert asked == ["End it?"]
    assert out.startswith("1 ")
    assert "1 request(s) not sent yet: given up" in out
    assert "3 request(s) out in 1 batch(es): they go on and are paid" in out
    assert "Nothing was changed." in out
    assert world.state(attempts[1]) is AttemptState.PLANNED
    answer(monkeypatch, yes=True)
    out = say("cancel", "table", "--batches")
    assert "the provider is asked to cancel" in out
    assert "Ended. 1 request(s) were given up unsent." in out
    assert world.state(attempts[1]) is AttemptState.VOID
    assert world.now(attempts[0]).unwanted_at is not None


def test_cancel_ends_a_plan_that_status_would_show_for_ever(world: World, say: Say) -> None:
    world.ledger.looks.declare(SPEC)
    world.ledger.plans.open(a_plan("dead", SPEC.task, location=None), Origin("run", (), {}))
    world.ledger.plans.let_go(PlanId("dead"), "run")
    [line] = lines(Ledger(world.folder, read_only=True))
    assert line.state == "waits for run run, which no sensor follows; run it again, or cancel dead"
    assert say("cancel", "dead", "--yes").startswith("0 ")
    assert "No table waits." in say("status")


def test_retry_says_how_many_requests_that_will_be(world: World, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    world.server.answer = lambda line: {"custom_id": line["custom_id"], "response": {"status_code": 400, "body": {}}}
    world.finish(world.ask())
    asked = answer(monkeypatch, yes=False)
    out = say("retry", "table")
    assert "3 request(s) to m of table were given up" in out
    assert asked == ["Let them be asked again?"]
    assert world.ledger.looks.snapshot(SPEC.task).forgiven == frozenset()
    assert "Noted." in say("retry", "table", "--yes")
    assert len(world.ledger.looks.snapshot(SPEC.task).forgiven) == 1
    assert "nothing to ask again" in say("retry", "table")
    assert "These were: table" in say("retry", "other")


def test_a_dry_run_of_forget_deletes_nothing(world: World, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    world.finish(world.ask())
    world.ledger.plans.close(PlanId("plan"), PlanState.DONE)

    def later(clock: SystemClock) -> float:
        return world.clock.now() + 90 * 86400

    monkeypatch.setattr(SystemClock, "now", later)
    before = kept(world)
    out = say("forget", "--dry-run")
    assert "rows and requests of ended plans" in out
    assert "together" in out
    assert kept(world) == before
    asked = answer(monkeypatch, yes=False)
    assert "can't be rebuilt" in say("forget", "--older-than", "12w")
    assert asked == ["Delete these?"]
    assert kept(world) == before
    assert "Deleted 2," in say("forget", "--yes")
    assert not Home(world.folder).requests(PlanId("plan")).exists()


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "30 d", "30days", "9999999d", HOSTILE])
def test_an_age_that_is_none_is_refused(world: World, say: Say, text: str) -> None:
    with pytest.raises(InputError, match="such as 30d"):
        age(text)
    assert say("forget", f"--older-than={text}").startswith("1 ")


def test_doctor_names_a_loss_and_repairs_it(world: World, say: Say) -> None:
    world.finish(world.ask())
    write_columns(Home(world.folder).rows(PlanId("plan")), id=[1])
    assert say("doctor") == "0 Nothing is wrong.\n"
    [(_, file)] = world.ledger.upkeep.answers_files()
    Home(world.folder).answers(file.file).unlink()
    out = say("doctor")
    assert out.startswith("1 ")
    assert "is missing" in out
    out = say("doctor", "--repair")
    assert out.startswith("0 ")
    assert "mended" in out
    world.paid_once()


def test_incidents_say_what_to_do(world: World, say: Say) -> None:
    world.ledger.attempts.incident("stuck batch", "batch-1", "It is late.")
    assert "cancel TABLE --batches" in say("incidents")


def test_hostile_names_are_shown_and_not_obeyed(world: World, say: Say) -> None:
    world.ledger.looks.declare(SPEC)
    plan = a_plan("p", SPEC.task, asset=HOSTILE, partitions=(HOSTILE,), location=HOSTILE, origin=HOSTILE)
    world.ledger.plans.open(plan, Origin(HOSTILE, (), {}))
    world.ledger.plans.let_go(plan.id, "run")
    world.ledger.attempts.incident(HOSTILE, HOSTILE, HOSTILE)
    said = [
        say("status"),
        say("doctor"),
        say("cancel", "nothing"),
        say("retry", "nothing"),
        say("cancel", HOSTILE, "--yes"),
    ]
    for out in said:
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert all(SHOWN in out for out in (said[0], *said[2:]))
    assert world.ledger.plans.get(plan.id).state is PlanState.CANCELLED


@pytest.mark.parametrize("command", [["cancel", "t"], ["retry", "t"], ["forget"], ["doctor", "--repair"], ["doctor"]])
def test_a_command_makes_no_ledger(home: Path, say: Say, command: list[str]) -> None:
    out = say(*command)
    assert out.startswith("1 ")
    assert "There is no ledger in" in out
    assert not home.exists()
