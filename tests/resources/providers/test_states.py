"""What a job's record says, where the obvious reading is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from dagster_batch_llm.assets import look
from dagster_batch_llm.resources.errors import BusyError, InputError, UserError
from dagster_batch_llm.resources.ledger import Tier
from dagster_batch_llm.resources.providers.bedrock import BEDROCK, BedrockBatch
from dagster_batch_llm.resources.providers.fireworks import FIREWORKS, FireworksJobs
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openrouter import OPENROUTER, OpenRouterBatches
from dagster_batch_llm.resources.providers.over_http import HttpProvider
from dagster_batch_llm.resources.providers.protocol import Phase
from dagster_batch_llm.resources.providers.together import TOGETHER, TogetherShape
from dagster_batch_llm.resources.providers.xai import XAI, XaiBatches


def parsed(provider: Callable[..., HttpProvider], profile: Any, record: dict[str, Any]) -> Any:
    http = HttpClient(name="x", base_url="https://fake.test", api_key="")
    return provider(profile, http, account="a/b").parse(record)


def xai(**fields: Any) -> dict[str, Any]:
    state = {"num_requests": 3, "num_pending": 0, "num_success": 2, "num_error": 1, "num_cancelled": 0}
    counts = {name: fields.pop(name) for name in list(fields) if name in state}
    return {"batch_id": "b", "name": "t", "create_time": "2026-11-25", "state": {**state, **counts}, **fields}


@pytest.mark.parametrize(
    ("record", "phase"),
    [
        (xai(), Phase.COMPLETED),
        (xai(num_pending=2), Phase.RUNNING),
        (xai(num_requests=0, num_success=0, num_error=0), Phase.QUEUED),
        (xai(num_pending=2, cancel_time="2026-11-25T10:00:00Z"), Phase.RUNNING),
        (xai(cancel_time="2026-11-25T10:00:00Z"), Phase.CANCELLED),
        (xai(num_pending=2, cancel_by_xai_message="no"), Phase.RUNNING),
        (xai(cancel_by_xai_message="no"), Phase.FAILED),
    ],
)
def test_xais_counts_are_its_state(record: dict[str, Any], phase: Phase) -> None:
    batch = parsed(XaiBatches, XAI, record)
    assert batch.phase is phase
    assert batch.created_at is None  # a day alone says too little


def test_a_failed_job_at_fireworks_keeps_what_it_had_answered() -> None:
    record: dict[str, Any] = {
        "name": "accounts/b/batchInferenceJobs/batch-t",
        "state": "JOB_STATE_FAILED",
        "status": {"code": "INTERNAL", "message": "oops"},
        "outputDatasetId": "accounts/b/datasets/out-t",
    }
    assert parsed(FireworksJobs, FIREWORKS, record).result_files == ()
    record["jobProgress"] = {"totalInputRequests": 3, "successfullyProcessedRequests": 2}
    batch = parsed(FireworksJobs, FIREWORKS, record)
    assert (batch.phase, batch.completed, batch.result_files) == (Phase.FAILED, 2, ("out-t",))


def test_a_failed_batch_at_openrouter_without_results_says_why() -> None:
    failed = {"id": "b", "status": "failed", "error": {"message": "no such model"}}
    batch = parsed(OpenRouterBatches, OPENROUTER, failed)
    assert (batch.result_files, batch.problems[0].message) == ((), "no such model")
    assert parsed(OpenRouterBatches, OPENROUTER, {"id": "b", "status": "completed"}).result_files == ("b",)


def test_requests_are_not_asked_at_once_because_a_limit_makes_batches_small() -> None:
    sizes = np.full(300, 8_000, dtype=np.int64)
    factors = np.ones(300, dtype=np.int64)
    shards = look._shards  # pyright: ignore[reportPrivateUsage]
    small = replace(BEDROCK, max_bytes=100_000)
    with pytest.raises(InputError, match=r"make batches of \d+ of these 300"):
        list(shards(sizes, factors, small, None))
    assert {tier for *_, tier in shards(sizes, factors, BEDROCK, None)} == {Tier.BATCH}


def test_a_limit_below_bedrocks_least_is_a_mistake() -> None:
    llm = BedrockBatch(
        region="us-east-1",
        role_arn="arn:aws:iam::123456789012:role/r",
        s3_folder="s3://bucket/folder",
        access_key_id="a",
        secret_access_key="s",
        max_rows_per_batch=50,
    )
    with pytest.raises(UserError, match="max_rows_per_batch is 50, and a job has at least 100"):
        llm.provider()


def test_amazons_full_quota_is_not_the_rows_mistake() -> None:
    headers = {"x-amzn-errortype": "ThrottlingException"}
    reply = httpx.Response(400, json={"message": "Too many tokens"}, headers=headers)
    http = HttpClient(
        name="bedrock", base_url="https://fake.test", api_key="", transport=httpx.MockTransport(lambda _: reply)
    )
    with pytest.raises(BusyError):
        http.ask_once("/model/m/converse", {}, lambda: None, seconds=5.0, accepted=(400,))


class Shelf:
    """Together's files: one is known by what is in it from the moment that its address is named."""

    def __init__(self) -> None:
        self.named: dict[str, bytes] = {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.url.path.rpartition("/")[2]
        if request.method == "PUT":
            self.named[key] = request.read()
        elif request.method == "DELETE":
            del self.named[key]
        elif request.method == "GET":
            return httpx.Response(200, json={"id": key, "bytes": len(self.named[key])})
        elif request.url.path == "/files" and "f" in self.named:
            return httpx.Response(409, json={"file_id": "f"})
        elif request.url.path == "/files":
            self.named["f"] = b""
            headers = {"location": "https://shelf.test/f", "x-together-file-id": "f"}
            return httpx.Response(302, headers=headers)
        return httpx.Response(200, json={})


@pytest.mark.parametrize("there", [None, b"", b"lines\n"])
def test_a_file_that_together_knows_is_used_only_if_its_lines_came(tmp_path: Path, there: bytes | None) -> None:
    shelf = Shelf()
    if there is not None:
        shelf.named["f"] = there
    http = HttpClient(name="together", base_url="https://fake.test", api_key="", transport=httpx.MockTransport(shelf))
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"lines\n")
    assert TogetherShape(TOGETHER, http, account="a").upload(path, path.name) == "f"
    assert shelf.named == {"f": b"lines\n"}


def test_a_reply_that_is_looked_at_as_a_whole_tells_the_time_too() -> None:
    reply = httpx.Response(200, headers={"date": "Wed, 25 Nov 2026 12:00:00 GMT"})
    http = HttpClient(
        name="gemini", base_url="https://fake.test", api_key="", transport=httpx.MockTransport(lambda _: reply)
    )
    assert http.clock_offset is None
    http.answered("POST", "/upload")
    assert http.clock_offset is not None
