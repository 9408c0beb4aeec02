"""What a job's record says, where the obvious reading is wrong."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from dagster_batch_llm.assets import look
from dagster_batch_llm.resources import lost_creates
from dagster_batch_llm.resources.errors import AmbiguousError, BusyError, InputError, UserError
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
    mixed = np.concatenate([np.full(100, 100, dtype=np.int64), sizes])  # enough small ones for a batch, and then these
    with pytest.raises(InputError, match=r"make batches of \d+ of these 400"):
        list(shards(mixed, np.ones(400, dtype=np.int64), small, None))
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

    def __init__(self, refused: str = "") -> None:
        self.named: dict[str, bytes] = {}
        self.refused = refused

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = request.url.path.rpartition("/")[2]
        if request.method == self.refused:
            return httpx.Response(404 if key == "f" and self.refused == "GET" else 403, json={})
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


@pytest.mark.parametrize(("refused", "wanted"), [("GET", b"lines\n"), ("DELETE", b"")])
def test_a_file_of_which_together_knows_the_name_only_is_not_the_end(
    tmp_path: Path, refused: str, wanted: bytes, no_waiting: None
) -> None:
    shelf = Shelf(refused)
    shelf.named["f"] = b""
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"lines\n")
    http = HttpClient(name="together", base_url="https://fake.test", api_key="", transport=httpx.MockTransport(shelf))
    with nullcontext() if wanted else pytest.raises(AmbiguousError):  # which is tried anew, with another file
        TogetherShape(TOGETHER, http, account="a").upload(path, path.name)
    assert shelf.named == {"f": wanted}


@pytest.mark.parametrize("results", [{}, {"results": None}, {"results": []}])
@pytest.mark.parametrize("status", ["completed", "failed"])
def test_openrouters_batch_is_known_by_its_rows_though_a_listing_leaves_them_out(
    results: dict[str, Any], status: str
) -> None:
    counts = {"total": 2, "completed": 2, "failed": 0}
    job = {"id": "b", "status": status, "created_at": 1000, "request_counts": counts}

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/b"):
            return httpx.Response(200, json={**job, "results": [{"custom_id": "token-0"}, {"custom_id": "token-1"}]})
        return httpx.Response(200, json={"data": [{**job, **results}], "has_more": False})

    http = HttpClient(
        name="openrouter", base_url="https://fake.test", api_key="", transport=httpx.MockTransport(answer)
    )
    provider = OpenRouterBatches(OPENROUTER, http, account="a")
    (batch,) = provider.list(0.0).batches
    told = lost_creates._token_in_results  # pyright: ignore[reportPrivateUsage]
    assert told(provider, batch) == "token"


def test_an_empty_page_that_names_itself_as_the_next_one_is_the_end() -> None:
    pages: list[dict[str, Any]] = [
        {"batches": [xai()], "pagination_token": "t"},
        {"batches": [], "pagination_token": "t"},
    ]

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=pages["pagination_token" in request.url.params])

    http = HttpClient(name="xai", base_url="https://fake.test", api_key="", transport=httpx.MockTransport(answer))
    listing = XaiBatches(XAI, http, account="a").list(0.0)
    assert ([batch.id for batch in listing.batches], listing.complete) == (["b"], True)


def test_a_reply_that_is_looked_at_as_a_whole_tells_the_time_too() -> None:
    reply = httpx.Response(200, headers={"date": "Wed, 25 Nov 2026 12:00:00 GMT"})
    http = HttpClient(
        name="gemini", base_url="https://fake.test", api_key="", transport=httpx.MockTransport(lambda _: reply)
    )
    assert http.clock_offset is None
    http.answered("POST", "/upload")
    assert http.clock_offset is not None
