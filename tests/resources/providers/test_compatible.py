"""Servers that are OpenAI's but for something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources import OpenAICompatibleBatch
from dagster_batch_llm.resources.errors import RefusedError, UserError
from dagster_batch_llm.resources.ledger import AttemptState
from dagster_batch_llm.resources.providers.compatible import COMPATIBLE
from dagster_batch_llm.resources.providers.http import HttpClient

from ..fake_openai import Serve, accepts_and_answers, answers, changed, replies
from ..world import MakeWorld, World
from .test_openai_shape import make_batches

ADDRESS = "http://h/v1"
ALWAYS = 1000


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(profile=COMPATIBLE)


def test_a_server_without_keys_is_sent_none() -> None:
    seen: list[httpx.Headers] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers)
        return httpx.Response(200, json={})

    for key in ("", "k"):
        http = HttpClient(name="x", base_url=ADDRESS, api_key=key, transport=httpx.MockTransport(handle))
        http.get("/batches")
        http.close()
    assert [headers.get("authorization") for headers in seen] == [None, "Bearer k"]


def test_a_server_that_wants_a_key_after_all_says_so() -> None:
    refusing = httpx.MockTransport(lambda _: httpx.Response(401, json={"error": "who are you?"}))
    http = HttpClient(name="x", base_url=ADDRESS, api_key="", transport=refusing)
    with pytest.raises(RefusedError, match=r"'who are you\?'. It wants an API key: set api_key"):
        http.get("/batches")
    http.close()


def test_its_limits_are_the_users() -> None:
    profile = OpenAICompatibleBatch(base_url=ADDRESS, max_rows_per_batch=7, max_file_bytes=5_000).provider().profile
    assert (profile.max_rows, profile.max_bytes, profile.max_line_bytes) == (7, 5_000, 5_000)
    larger = OpenAICompatibleBatch(base_url=ADDRESS, max_file_bytes=10**9, settle_seconds=7_200).provider().profile
    assert (profile.settle, larger.settle) == (1_800.0, 7_200.0)
    assert (larger.max_bytes, larger.max_line_bytes) == (10**9, COMPATIBLE.max_line_bytes)


@pytest.mark.parametrize("wanted", [0, -1])
def test_a_file_has_at_least_one_byte(wanted: int) -> None:
    with pytest.raises(UserError, match="max_file_bytes"):
        OpenAICompatibleBatch(base_url=ADDRESS, max_file_bytes=wanted).provider()


@pytest.mark.parametrize("wanted", [-1.0, 0.0, 119.0, 86_401.0, float("nan")])
def test_a_lost_create_is_waited_for_as_long_as_a_listing_may_trail_and_a_day_at_most(wanted: float) -> None:
    with pytest.raises(UserError, match="settle_seconds"):
        OpenAICompatibleBatch(base_url=ADDRESS, settle_seconds=wanted).provider()


@pytest.mark.parametrize("first", ["scheduling", "created", "in queue", ""])
def test_an_unknown_status_is_waited_out(world: World, first: str) -> None:
    unknown = changed(lambda job: job | {"status": first}, 202)
    world.server.on("POST /v1/batches", unknown)
    world.server.on("GET /v1/batches/", unknown, times=3)
    attempt = world.ask()
    world.finish(attempt)
    world.paid_once()


@pytest.mark.parametrize("status", [408, 409, 500, 502, 504])
def test_a_create_that_may_have_been_carried_out_is_looked_for(world: World, status: int) -> None:
    world.server.on("POST /v1/batches", accepts_and_answers(status))
    attempt = world.ask()
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_without_batches_refuses_them(world: World, status: int) -> None:
    world.server.on("POST /v1/batches", answers(status, "there are no batches here"))
    attempt = world.ask()
    with pytest.raises(RefusedError, match="there are no batches here"):
        world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.REFUSED


@pytest.mark.parametrize(
    ("detail", "said"),
    [
        ("Not Found", "'Not Found'"),
        ({"error": {"message": "no such batch", "type": "invalid_request_error"}}, "'no such batch'"),
        ([{"loc": ["body", "endpoint"], "msg": "Field required"}], "'body.endpoint: Field required'"),
        ([{"loc": ["body", 0], "msg": "a"}, {"loc": None, "msg": "b"}], "'body.0: a; b'"),
        (["no", {"loc": 5}], "no"),
    ],
)
def test_fastapis_wrapper_is_taken_off(world: World, detail: object, said: str) -> None:
    world.server.on("GET /v1/batches/", replies(httpx.Response(404, json={"detail": detail})))
    with pytest.raises(RefusedError) as caught:
        world.provider().check("x")
    assert said in caught.value.message
    assert "detail" not in caught.value.message


def test_cancelling_what_has_ended_may_be_a_conflict(world: World) -> None:
    (name,) = make_batches(world, 1)
    world.clock.sleep(61.0)
    ended = httpx.Response(409, json={"detail": {"error": {"message": "Cannot cancel a batch that is finalized."}}})
    world.server.on("POST", replies(ended))
    world.provider().cancel(name)
    assert world.server.batches[name]["status"] == "completed"


# ---- listings that are cut or sorted in other ways ----

Edit = Callable[[list[dict[str, Any]], httpx.QueryParams], dict[str, Any]]


def listed(world: World, edit: Edit) -> None:
    """Every listing is what `edit` makes of all batches, newest first, and of the query."""

    def fault(request: httpx.Request, serve: Serve) -> httpx.Response:
        jobs = [{key: job[key] for key in job if key[0] != "_"} for job in reversed(world.server.batches.values())]
        return httpx.Response(200, json=edit(jobs, request.url.params))

    world.server.on("GET /v1/batches", fault, times=ALWAYS)


def after(jobs: list[dict[str, Any]], params: httpx.QueryParams) -> list[dict[str, Any]]:
    names = [job["id"] for job in jobs]
    return jobs[names.index(params["after"]) + 1 :] if "after" in params else jobs


def test_short_pages_without_a_word_about_more_are_read_to_their_end(world: World) -> None:
    since = world.clock.now()
    made = make_batches(world, 45)
    listed(world, lambda jobs, params: {"data": after(jobs, params)[:20]})
    listing = world.provider().list(since)
    assert [batch.id for batch in listing.batches] == made
    assert listing.complete


def test_a_server_that_pages_neither_way_proves_nothing(world: World) -> None:
    since = world.clock.now()
    made = make_batches(world, 45)
    listed(world, lambda jobs, _: {"data": jobs[:20]})
    listing = world.provider().list(since)
    assert [batch.id for batch in listing.batches] == made[:20]
    assert not listing.complete


def test_a_listing_that_begins_with_the_oldest_is_read_to_its_end(world: World) -> None:
    make_batches(world, 250)
    since = world.clock.now() - 90.0
    listed(
        world,
        lambda jobs, params: {
            "data": after(jobs[::-1], params)[:100],
            "has_more": len(after(jobs[::-1], params)) > 100,
        },
    )
    listing = world.provider().list(since)
    assert list(world.server.batches)[-1] in {batch.id for batch in listing.batches}
    assert listing.complete
