"""What is too little for a batch is asked at once, by the same look; and what failed there is asked again by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import summarize_asset
from dagster_batch_llm.assets.convergence import Convergence
from dagster_batch_llm.assets.look import look, unfinished
from dagster_batch_llm.assets.run import Waiting
from dagster_batch_llm.resources import BatchResource
from dagster_batch_llm.resources.errors import InputError, ProviderError
from dagster_batch_llm.resources.ledger import Ledger, Plan, Tier
from dagster_batch_llm.resources.local.emulator import Fault
from dagster_batch_llm.resources.providers.protocol import BatchProvider

from ..resources.emulated import PATIENT, EmulatedWorld, rules
from ..resources.fake_clock import FakeClock
from .conftest import House, rows_asset

ROWS = [f"row {n}" for n in range(7)]
MakeEmulated = Callable[..., EmulatedWorld]


@pytest.fixture
def emulated(tmp_path: Path) -> MakeEmulated:
    def make(*faults: Fault, min_rows: int, max_rows: int = 50, at_once: bool = True) -> EmulatedWorld:
        home = tmp_path / "home"
        Ledger(home, FakeClock())
        world = EmulatedWorld(home, faults=rules(*faults))
        known = PATIENT.at_once if at_once else dict[str, str]()
        world.profile = replace(PATIENT, min_rows=min_rows, max_rows=max_rows, at_once=known)
        return world

    return make


def tiers(world: EmulatedWorld, plan: Plan) -> list[tuple[Tier, int]]:
    return [(attempt.tier, attempt.rows) for attempt in world.ledger.attempts.open_of_plan(plan.id)]


def bring(world: EmulatedWorld, prompts: Sequence[str]) -> int:
    """Look and ask until all is answered or given up; gives how many attempts that took."""
    plan, machine = world.plan(prompts), world.machine()
    for _ in range(100):
        look(world.ledger, world.provider(), plan, "run")
        for attempt in world.ledger.attempts.open_of_plan(plan.id):
            try:
                machine.step(attempt)
                machine.poll("llm")
            except ProviderError as error:
                world.said.append(error)
        if unfinished(world.ledger, plan) == 0:
            return len(world.ledger.attempts.find())
        world.clock.sleep(30.0)
    raise AssertionError("it doesn't end")


def test_below_the_minimum_rows_are_asked_at_once_and_from_there_on_in_a_batch(emulated: MakeEmulated) -> None:
    world = emulated(min_rows=4)
    few, enough = world.plan(ROWS[:3], name="few"), world.plan(ROWS[3:7], name="enough")
    for plan in (few, enough):
        look(world.ledger, world.provider(), plan, "run")
    assert tiers(world, few) == [(Tier.REALTIME, 3)]
    assert tiers(world, enough) == [(Tier.BATCH, 4)]


def test_what_is_left_of_whole_batches_is_asked_at_once(emulated: MakeEmulated) -> None:
    world = emulated(min_rows=2, max_rows=3)
    plan = world.plan(ROWS)
    look(world.ledger, world.provider(), plan, "run")
    assert tiers(world, plan) == [(Tier.BATCH, 3), (Tier.BATCH, 3), (Tier.REALTIME, 1)]


def test_many_rows_below_a_minimum_are_several_sends(emulated: MakeEmulated) -> None:
    world = emulated(min_rows=500, max_rows=1000)
    plan = world.plan([f"row {n}" for n in range(230)])
    look(world.ledger, world.provider(), plan, "run")
    assert sorted(tiers(world, plan)) == [(Tier.REALTIME, 30), (Tier.REALTIME, 100), (Tier.REALTIME, 100)]


def test_without_a_realtime_side_too_few_rows_are_refused_in_words_and_nothing_is_paid(emulated: MakeEmulated) -> None:
    world = emulated(min_rows=100, at_once=False)
    plan = world.plan(ROWS)
    with pytest.raises(InputError, match=r"openai takes batches of at least 100 requests .* 7 are left to ask"):
        look(world.ledger, world.provider(), plan, "run")
    assert (tiers(world, plan), world.emulator.seen) == ([], [])


def test_both_tiers_share_answers_and_each_row_is_paid_once(emulated: MakeEmulated) -> None:
    world = emulated(min_rows=2, max_rows=3)
    assert bring(world, ROWS) == 3
    assert world.emulator.bill == dict.fromkeys(ROWS, 1)
    assert world.emulator.store.count_batches() == 2
    again = world.plan(ROWS, name="again")
    assert look(world.ledger, world.provider(), again, "run") == 0


def test_a_lost_reply_is_asked_again_and_counted_and_the_others_are_not(emulated: MakeEmulated) -> None:
    world = emulated(Fault("ask", "lost_reply", times=1), min_rows=100)
    assert bring(world, ROWS) == 2
    assert sorted(world.emulator.bill.values()) == [1] * 6 + [2]
    assert world.kinds() == {"ok": 7, "errored": 1}


def test_a_row_whose_replies_are_lost_is_given_up_after_three_tries(emulated: MakeEmulated) -> None:
    world = emulated(Fault("ask", "lost_reply"), min_rows=100)
    assert bring(world, ROWS[:1]) == 3
    assert world.emulator.bill == {ROWS[0]: 3}
    assert world.kinds() == {"errored": 3}


def test_an_outage_is_waited_for_longer_each_time(emulated: MakeEmulated) -> None:
    world = emulated(Fault("ask", "server_error", times=16), min_rows=100)
    prompts = [f"row {n}" for n in range(60)]
    bring(world, prompts)
    assert world.kinds()["ok"] == 60
    assert world.emulator.bill == dict.fromkeys(prompts, 1)
    assert any("left alone" in error.message for error in world.said)


class Spoken(BatchResource):
    """A resource for the world of a test."""

    def provider(self) -> BatchProvider:
        return WORLDS[0].provider()


WORLDS: list[EmulatedWorld] = []


def test_a_run_that_asks_at_once_ends_with_its_table_and_waits_for_nobody(
    emulated: MakeEmulated, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = emulated(min_rows=100)
    WORLDS[:] = [world]

    def detach(_: Convergence) -> Waiting:
        return Waiting.DETACH

    monkeypatch.setattr(Convergence, "_how_to_wait", detach)
    reviews = rows_asset("reviews", pa.table({"id": range(3), "text": ROWS[:3]}))
    table: dg.AssetsDefinition = summarize_asset(
        name="summaries", source="reviews", row_key="id", prompt="{text}", llm="llm", model="m"
    )
    house.done(reviews, table, resources={"llm": Spoken()})
    assert [row[2] for row in house.rows("summaries")] == ["ok"] * 3
    assert world.emulator.store.count_batches() == 0
    assert sum(world.emulator.bill.values()) == 3
