"""What a user does in Dagster, done in Dagster: webserver, daemon, queue, sensor and local batch servers are real."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster_batch_llm.resources.ledger import AttemptState, PlanState

from .real_dagster import RealDagster, real_dagster

pytestmark = [pytest.mark.real, pytest.mark.long]

RELOAD = """mutation($name: String!) { reloadRepositoryLocation(repositoryLocationName: $name) { __typename
    ... on PythonError { message } } }"""
STALE = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    staleStatus staleCauses { category reason } } } }"""
CANCEL_BACKFILL = """mutation($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"""
START_SCHEDULE = """mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
    __typename } }"""


def reload(dagster: RealDagster) -> None:
    assert dagster.graphql.ask(RELOAD, {"name": "location.py"})["reloadRepositoryLocation"]["__typename"] == (
        "WorkspaceLocationEntry"
    )
    dagster.wait("the reload", dagster.graphql.is_up)


def let_go(dagster: RealDagster, run_id: str) -> None:
    run = dagster.wait_for_run(run_id)
    assert run.is_success, dagster.log()[-4000:]
    assert run.tags["batch_llm/state"] == "waiting"


@pytest.mark.parametrize(("fast", "slow"), [("1", "12"), ("12", "1")], ids=["vectors last", "topics last"])
def test_whichever_table_arrives_last_takes_the_report_along_once(tmp_path: Path, fast: str, slow: str) -> None:
    with real_dagster(tmp_path, environment={"TEST_FAST_SECONDS": fast, "TEST_SLOW_SECONDS": slow}) as dagster:
        origin = dagster.graphql.materialize(["reviews", "topics", "vectors", "report"])
        let_go(dagster, origin)
        assert dagster.materializations("report") == []
        dagster.wait("the report", lambda: bool(dagster.materializations("report")))
        last = "vectors" if float(slow) > float(fast) else "topics"
        [written] = dagster.materializations("report")
        dagster.wait_for_run(written.run_id)
        runs = dagster.collect_runs(origin)
        assert [run.is_success for run in runs] == [True, True]
        assert {key.to_user_string() for key in runs[-1].asset_selection or ()} == {last, "report"}
        assert written.run_id == runs[-1].run_id
        assert dagster.tables.query("SELECT rows FROM report").to_pylist() == [{"rows": 18}]
        assert dagster.paid("fast") == 1
        assert dagster.paid("slow") == 1
        assert dagster.ledger.attempts.incidents() == []


def test_a_scattered_backfill_succeeds_with_two_run_slots(tmp_path: Path) -> None:
    with real_dagster(tmp_path, slots=2, environment={"TEST_FAST_SECONDS": "4"}) as dagster:
        dagster.wait_for_run(dagster.graphql.materialize(["reviews"]))
        asked = ["a", "c", "d", "f", "h"]
        backfill = dagster.graphql.backfill("by_group", asked)
        dagster.wait(
            "the backfill's end",
            lambda: dagster.graphql.backfill_status(backfill).startswith(("COMPLETED", "FAILED")),
            150.0,
        )
        assert dagster.graphql.backfill_status(backfill) == "COMPLETED_SUCCESS", dagster.log()[-6000:]
        written = dagster.tables.query("SELECT partition_key, count(*) AS n FROM by_group GROUP BY ALL ORDER BY ALL")
        assert written.to_pylist() == [{"partition_key": key, "n": 2} for key in asked]
        plans = dagster.ledger.plans.find()
        assert {plan.state for plan in plans} == {PlanState.DONE}
        assert sum(plan.asked for plan in plans) == 10
        # One run kept the backfill alive and the others let go, or two slots would not have sufficed.
        waited = [dagster.run(plan.run).tags.get("batch_llm/state") for plan in plans]
        assert waited.count("waiting") >= 1


def test_an_edited_prompt_neither_mixes_with_a_batch_that_is_out_nor_looks_fresh(tmp_path: Path) -> None:
    with real_dagster(tmp_path, environment={"TEST_FAST_SECONDS": "10"}) as dagster:
        origin = dagster.graphql.materialize(["reviews", "topics"])
        let_go(dagster, origin)
        [plan] = dagster.ledger.plans.find()
        (tmp_path / "prompt.txt").write_text("Somebody wrote: {text}")
        reload(dagster)
        dagster.wait("the table", lambda: bool(dagster.materializations("topics")))
        [written] = dagster.materializations("topics")
        assert written.tags is not None
        assert written.tags["dagster/code_version"] == plan.code_version
        assert dagster.paid("fast") == 1
        stale = dagster.graphql.ask(STALE, {"key": {"path": ["topics"]}})["assetNodeOrError"]
        assert stale["staleStatus"] == "STALE"
        assert "CODE" in [cause["category"] for cause in stale["staleCauses"]]

        again = dagster.graphql.materialize(["topics"])
        let_go(dagster, again)
        dagster.wait("the new table", lambda: len(dagster.materializations("topics")) == 2)
        fresh = dagster.graphql.ask(STALE, {"key": {"path": ["topics"]}})["assetNodeOrError"]
        assert fresh["staleStatus"] == "FRESH"
        assert dagster.paid("fast") == 2


def test_cancelling_a_backfill_keeps_what_is_paid_and_writes_nothing(tmp_path: Path) -> None:
    with real_dagster(tmp_path, environment={"TEST_FAST_SECONDS": "12"}) as dagster:
        dagster.wait_for_run(dagster.graphql.materialize(["reviews"]))
        backfill = dagster.graphql.backfill("by_group", ["a", "b", "c"])
        ledger = dagster.ledger
        dagster.wait("the submit", lambda: any(a.state is AttemptState.SUBMITTED for a in ledger.attempts.find()))
        dagster.graphql.ask(CANCEL_BACKFILL, {"id": backfill})
        dagster.wait("the end of the plan", lambda: ledger.plans.find()[0].state is PlanState.CANCELLED)
        dagster.wait("the answers", lambda: ledger.attempts.find()[0].state is AttemptState.ANSWERED)
        assert dagster.graphql.backfill_status(backfill) in {"CANCELED", "CANCELING"}
        assert dagster.materializations("by_group") == []

        again = dagster.graphql.backfill("by_group", ["a", "b", "c"])
        dagster.wait("the second backfill", lambda: dagster.graphql.backfill_status(again).startswith("COMPLETED"))
        assert dagster.graphql.backfill_status(again) == "COMPLETED_SUCCESS"
        assert dagster.paid("fast") == 1


def test_a_plan_of_a_renamed_asset_stops_nobody(tmp_path: Path) -> None:
    with real_dagster(tmp_path, environment={"TEST_FAST_SECONDS": "6", "TEST_SLOW_SECONDS": "9"}) as dagster:
        let_go(dagster, dagster.graphql.materialize(["reviews", "topics"]))
        let_go(dagster, dagster.graphql.materialize(["vectors"]))
        (tmp_path / "renamed.txt").write_text("moods")
        reload(dagster)
        dagster.wait("the other table", lambda: bool(dagster.materializations("vectors")))
        dagster.wait("the incident", lambda: bool(dagster.ledger.attempts.incidents()))
        [(kind, _, message)] = dagster.ledger.attempts.incidents()
        assert kind == "unreachable plan"
        assert "topics" in message
        # Under its new name the table costs nothing: answers belong to the task, not to the asset.
        renamed = dagster.graphql.materialize(["moods"])
        dagster.wait("the renamed table", lambda: bool(dagster.materializations("moods")))
        assert dagster.wait_for_run(renamed).is_success
        assert dagster.paid("fast") == 1


def test_a_process_killed_right_after_the_create_is_continued_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    with real_dagster(tmp_path, environment={"TEST_FAST_SECONDS": "2", "TEST_STEP_PROCESSES": "1"}) as dagster:
        (tmp_path / "kill.txt").touch()
        killed = dagster.wait_for_run(dagster.graphql.materialize(["reviews", "topics"]))
        assert not killed.is_success
        ledger = dagster.ledger
        [attempt] = ledger.attempts.find()
        assert attempt.state is AttemptState.CREATING
        assert attempt.batch_id is None
        assert dagster.paid("fast") == 1
        dagster.let_leases_run_out()
        dagster.wait("the table", lambda: bool(dagster.materializations("topics")))
        [adopted] = ledger.attempts.find()
        assert adopted.id == attempt.id
        assert adopted.send_no == 1
        assert dagster.paid("fast") == 1


def test_two_runs_that_ask_the_same_pay_once(tmp_path: Path) -> None:
    with real_dagster(tmp_path, environment={"TEST_FAST_SECONDS": "6"}) as dagster:
        dagster.wait_for_run(dagster.graphql.materialize(["reviews"]))
        both = [dagster.graphql.materialize(["topics"]) for _ in range(2)]
        for run_id in both:
            let_go(dagster, run_id)
        dagster.wait("both tables", lambda: all(p.state is not PlanState.OPEN for p in dagster.ledger.plans.find()))
        assert dagster.paid("fast") == 1
        assert sum(plan.asked for plan in dagster.ledger.plans.find()) == 18


def test_a_scheduled_run_is_brought_home_by_the_sensor(tmp_path: Path) -> None:
    with real_dagster(tmp_path, environment={"TEST_FAST_SECONDS": "2"}) as dagster:
        location = dagster.graphql.location()
        assert location is not None
        selector = {
            "repositoryName": location.repository,
            "repositoryLocationName": location.name,
            "scheduleName": "every_minute",
        }
        dagster.graphql.ask(START_SCHEDULE, {"selector": selector})
        dagster.wait("the scheduled table", lambda: bool(dagster.materializations("topics")), 150.0)
        plan = dagster.ledger.plans.find()[0]
        origin = dagster.run(plan.run)
        assert origin.tags["dagster/schedule_name"] == "every_minute"
        assert origin.tags["batch_llm/state"] == "waiting"
        assert dagster.run(dagster.materializations("topics")[0].run_id).tags["batch_llm/origin"] == origin.run_id


def test_a_keeper_hands_over_before_dagster_ends_it_for_its_length(tmp_path: Path) -> None:
    monitoring = "run_monitoring:\n  enabled: true\n  max_runtime_seconds: 40\n  poll_interval_seconds: 5\n"
    with real_dagster(tmp_path, more=monitoring, environment={"TEST_FAST_SECONDS": "60"}) as dagster:
        dagster.wait_for_run(dagster.graphql.materialize(["reviews"]))
        backfill = dagster.graphql.backfill("by_group", ["a"])
        dagster.wait(
            "the backfill's end",
            lambda: dagster.graphql.backfill_status(backfill).startswith(("COMPLETED", "FAILED")),
            180.0,
        )
        assert dagster.graphql.backfill_status(backfill) == "COMPLETED_SUCCESS", dagster.log()[-6000:]
        [plan] = dagster.ledger.plans.find()
        # The batch takes longer than two keepers may, so the successor is succeeded too.
        runs = [dagster.run(plan.run), *dagster.collect_runs(plan.origin)]
        assert len(runs) >= 3
        assert [run.run_id for run in runs if not run.is_success] == []
        assert dagster.materializations("by_group")[0].run_id != plan.run
        assert dagster.paid("fast") == 1
