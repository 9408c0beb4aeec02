"""What Doubleword's server does that OpenAI's doesn't, as its source has it, against our machine."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources import DoublewordBatch
from dagster_batch_llm.resources.errors import AmbiguousError, RefusedError, UserError
from dagster_batch_llm.resources.ledger import AttemptState
from dagster_batch_llm.resources.providers import resource
from dagster_batch_llm.resources.providers.doubleword import DOUBLEWORD
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.protocol import Batch, Phase
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..fake_openai import Fault, answers, changed, replies, reply_lost
from ..world import PROMPTS, MakeWorld, World

ALWAYS = 1000


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    made = make_world(profile=DOUBLEWORD)
    made.server.uuids = True
    return made


def shown(**fields: object) -> Fault:
    """A batch as Doubleword shows it: nulls left out, metadata of its own, and these fields."""

    def change(job: dict[str, Any]) -> dict[str, Any]:
        metadata = {**job["metadata"], "created_by_email": "a@b.test"}
        return {key: value for key, value in {**job, "metadata": metadata, **fields}.items() if value is not None}

    return changed(change, 201)


def looked_at(world: World, **fields: object) -> None:
    """Every look at a batch shows these fields once it has ended."""
    ended = changed(lambda job: job | fields if job["status"] == "completed" else job)
    world.server.on("GET /v1/batches/", ended, times=ALWAYS)


def failing(line: dict[str, Any]) -> dict[str, Any]:
    body = {"error": {"message": "the model is out", "code": "model_error"}}
    return {"id": "x", "custom_id": line["custom_id"], "response": {"status_code": 500, "body": body}}


@pytest.mark.parametrize("window", ["24h", "1h", "48h"])
def test_a_window_in_hours_is_passed_on_as_it_is(world: World, window: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def http(**_: object) -> HttpClient:
        return world.http()

    monkeypatch.setattr(resource, "HttpClient", http)
    provider = DoublewordBatch(api_key="k", completion_window=window).provider()
    provider.create(world.server.store(b"{}\n"), RequestSpec(Operation.CHAT, "m"), "token", lambda: None)
    assert [job["completion_window"] for job in world.server.batches.values()] == [window]


@pytest.mark.parametrize("window", ["", "h", "24", "1d", "24 h", "high", "24h\n", "٢٤h"])
def test_a_window_that_is_not_in_hours_is_told_before_anything_is_sent(window: str) -> None:
    with pytest.raises(UserError, match="doubleword: completion_window"):
        DoublewordBatch(api_key="k", completion_window=window).provider()


def test_the_whole_way_is_paid_once(world: World) -> None:
    world.server.on("POST /v1/files", changed(lambda file: file, 201))
    world.server.on("POST /v1/batches", shown())
    world.server.on("GET /v1/batches/", shown(), times=ALWAYS)
    attempt = world.ask()
    world.finish(attempt)
    world.paid_once()
    assert uuid.UUID(world.now(attempt).batch_id)


def test_a_lost_create_is_found_among_foreign_metadata(world: World) -> None:
    def listed(page: dict[str, Any]) -> dict[str, Any]:
        foreign = {"created_by_email": "a@b.test", "request_source": "api"}
        return page | {"data": [job | {"metadata": job["metadata"] | foreign} for job in page["data"]]}

    world.server.on("POST /v1/batches", reply_lost)
    world.server.on("GET /v1/batches", changed(listed))
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.clock.sleep(5.0)
    machine.reconcile(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_batch_past_its_deadline_goes_on(world: World) -> None:
    world.server.seconds = 3 * 3600.0
    world.server.on("GET /v1/batches/", shown(expired_at=1, expires_at=1), times=ALWAYS)
    attempt = world.ask()
    world.finish(attempt)
    world.paid_once()


def test_a_failed_batch_whose_rows_all_failed_is_no_rejection(world: World) -> None:
    world.server.answer = failing
    looked_at(world, status="failed", failed_at=1, request_counts={"total": 3, "completed": 0, "failed": 3})
    attempt = world.ask()
    world.finish(attempt)
    assert world.state(attempt) is AttemptState.ANSWERED
    assert world.outcomes() == [(p, "errored", "model_error: the model is out") for p in sorted(PROMPTS)]


def test_a_failed_batch_with_good_rows_keeps_them(world: World) -> None:
    looked_at(world, status="failed", errors={"data": [{"code": "x", "message": "one row failed"}]})
    attempt = world.ask()
    world.finish(attempt)
    world.paid_once()


def test_a_failed_batch_without_files_was_rejected_unpaid(world: World) -> None:
    world.server.problem = {"code": "population_error", "message": "line 2 names no model", "line": 2}
    attempt = world.ask()
    world.finish(attempt)
    assert world.state(attempt) is AttemptState.REFUSED
    assert "doubleword rejected batch" in (world.now(attempt).message or "")
    assert "line 2 names no model" in (world.now(attempt).message or "")
    assert world.server.bill == {}


def test_a_file_that_is_still_being_written_is_fetched_again(world: World, tmp_path: Path) -> None:
    file_id = world.server.store(b'{"row": 1}\n{"row": 2}\n')
    half = httpx.Response(200, content=b'{"row": 1}\n', headers={"X-Incomplete": "true", "X-Last-Line": "1"})
    whole = httpx.Response(200, content=world.server.files[file_id], headers={"X-Incomplete": "false"})
    batch = Batch("b", Phase.COMPLETED, "completed", result_files=(file_id,))

    world.server.on("GET /v1/files", replies(half), times=5)
    with pytest.raises(AmbiguousError, match="isn't whole yet"):
        world.provider().fetch(batch, tmp_path)
    assert list(tmp_path.glob("*.jsonl")) == []

    world.server.on("GET /v1/files", replies(half), times=2)
    world.server.on("GET /v1/files", replies(whole))
    (path,) = world.provider().fetch(batch, tmp_path)
    assert [json.loads(line)["row"] for line in path.read_text().splitlines()] == [1, 2]


def test_an_account_without_credit_is_told_so_and_nothing_is_paid(world: World) -> None:
    world.server.on("POST /v1/batches", answers(402, "Account balance too low."))
    attempt = world.ask()
    with pytest.raises(RefusedError, match=r"Account balance too low.*credit is used up; add some") as caught:
        world.machine().send(attempt.id)
    assert caught.value.status == 402
    assert world.state(attempt) is AttemptState.REFUSED
    assert world.server.batches == {}


def test_a_full_service_is_asked_again_later(world: World) -> None:
    world.server.on("POST /v1/batches", answers(429, "insufficient capacity"))
    attempt = world.ask()
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 2
