"""With --module a command speaks to the providers that a code location declares."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import dagster as dg
import pytest
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import Attempt, PlanId, schema
from sqlalchemy import delete

from ...resources.fake_openai import answers
from ...resources.world import World, write_columns
from ..test_sensor import WORLDS, FakeBatch
from .conftest import ran

MODULE = "definitions_of_a_shop"


@pytest.fixture(autouse=True)
def shop(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module whose resource `llm` is the world's provider, on the world's clock."""

    def now(clock: SystemClock) -> float:
        return world.clock.now()

    monkeypatch.setattr(SystemClock, "now", now)
    module = ModuleType(MODULE)
    setattr(module, "defs", dg.Definitions(resources={"llm": FakeBatch(world="world")}))  # noqa: B010
    monkeypatch.setitem(sys.modules, MODULE, module)
    WORLDS["world"] = world
    yield
    del WORLDS["world"]


@pytest.fixture
def out(world: World) -> Attempt:
    """A batch that is out for long."""
    world.server.seconds = 7200.0
    attempt = world.ask()
    write_columns(Home(world.folder).rows(PlanId("plan")), id=[1])
    world.machine().send(attempt.id)
    return world.now(attempt)


def test_doctor_finds_nothing_wrong_where_provider_and_ledger_agree(
    out: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, _ = ran(capsys, "doctor", "--module", MODULE)
    assert (code, said) == (0, "Nothing is wrong.\n")


def test_doctor_names_a_batch_that_the_provider_does_not_have(
    world: World, out: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    world.server.batches.clear()
    code, said, _ = ran(capsys, "doctor", "-m", MODULE)
    assert code == 1
    assert "batch batch-1" in said
    assert "isn't shown by the provider" in said


def test_doctor_names_a_batch_that_a_restored_ledger_has_forgotten(
    world: World, out: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    with world.database.write() as c:
        for table in (schema.link, schema.send):
            c.execute(delete(table))
    code, said, _ = ran(capsys, "doctor", "--module", MODULE)
    assert code == 1
    assert "was sent with this ledger, which has forgotten it" in said
    assert "is older than what was asked" in said


def test_doctor_names_a_batch_that_is_not_linked_yet(
    world: World, out: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    with world.database.write() as c:
        c.execute(delete(schema.link))
    code, said, _ = ran(capsys, "doctor", "--module", MODULE)
    assert code == 0
    assert "is ours and not linked yet" in said


def test_doctor_fetches_lost_results_from_the_provider_again(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.finish(world.ask())
    write_columns(Home(world.folder).rows(PlanId("plan")), id=[1])
    [(attempt, file)] = world.ledger.upkeep.answers_files()
    Home(world.folder).answers(file.file).unlink()
    for path in Home(world.folder).all_results(attempt).rglob("*.jsonl"):
        path.unlink()
    assert ran(capsys, "doctor", "--repair")[0] == 1
    code, said, _ = ran(capsys, "doctor", "--repair", "--module", MODULE)
    assert code == 0
    assert "fetched again; nothing was paid" in said
    world.paid_once()


def test_doctor_says_that_a_provider_can_not_be_asked(
    world: World, out: Attempt, capsys: pytest.CaptureFixture[str]
) -> None:
    world.server.on("GET /v1/batches?", answers(403, "no access"))
    world.server.on("GET /v1/batches", answers(403, "no access"), times=9)
    said = ran(capsys, "doctor", "--module", MODULE)[1]
    assert "no access" in said


def test_cancel_asks_the_provider_at_once(world: World, out: Attempt, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(capsys, "cancel", "table", "--batches", "--yes", "--module", MODULE)[0] == 0
    assert world.server.batches["batch-1"]["status"] == "cancelled"


@pytest.mark.parametrize(("module", "wrong"), [("no.such.module", "can't be imported"), ("json", "has no Definitions")])
def test_a_module_without_definitions_is_told(
    out: Attempt, capsys: pytest.CaptureFixture[str], module: str, wrong: str
) -> None:
    code, _, said = ran(capsys, "doctor", "--module", module)
    assert code == 1
    assert wrong in said
    assert "Traceback" not in said
