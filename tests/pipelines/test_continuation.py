"""Which descendants a collect run takes along."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import pytest
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.pipelines.continuation import AssetGraph, _failures, selection  # pyright: ignore[reportPrivateUsage]
from dagster_batch_llm.resources import DuckDBTables, Ledger, LocalBatch
from dagster_batch_llm.resources.ledger import Origin, Plan, PlanState

from ..resources.world import SPEC, a_plan


def llm(name: str, *above: str) -> dg.AssetsDefinition:
    source = "SELECT * FROM " + " JOIN ".join(above)
    return classify_asset(
        name=name, source=source, row_key="id", prompt="{text}", labels=["a", "b"], llm="llm", model="m"
    )


def plain(name: str, *above: str) -> dg.AssetsDefinition:
    @dg.asset(name=name, deps=list(above))
    def asset() -> None:
        """Made by hand."""

    return asset


ASSETS = [
    plain("reviews"),
    llm("topics", "reviews"),
    llm("moods", "reviews"),
    llm("refined", "topics"),
    plain("report", "topics", "moods"),
    plain("topics_page", "topics"),
    plain("refined_page", "refined"),
]
RESOURCES = {"llm": LocalBatch(), "tables": DuckDBTables(path="unused.duckdb")}
GRAPH = AssetGraph.of(dg.Definitions(assets=ASSETS, resources=RESOURCES).get_repository_def())
EVERYTHING = tuple(sorted(asset.key.to_user_string() for asset in ASSETS))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path)
    ledger.looks.declare(SPEC)
    return ledger


def taken(
    ledger: Ledger, plans: Mapping[str, PlanState], movable: str, selected: tuple[str, ...] = EVERYTHING
) -> set[str]:
    """The assets of the next collect run of one origin, whose plans stand as given."""
    origin = Origin("origin", selected, {})
    opened: dict[str, Plan] = {}
    for asset, state in plans.items():
        plan = ledger.plans.open(a_plan(asset, SPEC.task, asset=asset, origin="origin"), origin)
        if state is not PlanState.OPEN:
            ledger.plans.close(plan.id, state)
        opened[asset] = plan
    return set(selection(ledger, GRAPH, origin, [ledger.plans.get(opened[movable].id)]))


def test_a_table_that_arrives_last_takes_everything_below_it_along(ledger: Ledger) -> None:
    plans = {"moods": PlanState.DONE, "topics": PlanState.OPEN}
    assert taken(ledger, plans, "topics") == {"topics", "refined", "report", "topics_page", "refined_page"}


def test_what_stands_below_a_waiting_table_is_left_to_it(ledger: Ledger) -> None:
    plans = {"moods": PlanState.OPEN, "topics": PlanState.OPEN}
    assert taken(ledger, plans, "topics") == {"topics", "refined", "topics_page", "refined_page"}


def test_a_table_that_the_origin_has_not_planned_yet_waits_as_well(ledger: Ledger) -> None:
    assert taken(ledger, {"topics": PlanState.OPEN}, "topics") == {"topics", "refined", "topics_page", "refined_page"}


def test_a_table_that_could_not_be_planned_or_was_cancelled_holds_back_what_stands_below_it(ledger: Ledger) -> None:
    plans = {"moods": PlanState.FAILED, "topics": PlanState.OPEN}
    assert "report" not in taken(ledger, plans, "topics")


def test_a_table_that_was_not_selected_is_not_waited_for(ledger: Ledger) -> None:
    selected = ("report", "topics")
    assert taken(ledger, {"topics": PlanState.OPEN}, "topics", selected) == {"topics", "report"}


def test_a_plan_that_was_cancelled_is_fetched_without_what_stands_below_it(ledger: Ledger) -> None:
    assert taken(ledger, {"moods": PlanState.DONE, "topics": PlanState.CANCELLED}, "topics") == {"topics"}


def test_a_collect_run_that_was_requested_by_a_clock_that_was_ahead_is_requested_again(ledger: Ledger) -> None:
    now = ledger.clock.now()
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        for due, failures in ((now + 30.0, None), (now + 3 * 86400.0, 1)):
            assert _failures(instance, ledger, Origin("origin", (), {}, generation=1, due=due), []) == failures
