from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from dagster_batch_llm.resources.errors import AmbiguousError, ProviderError, RefusedError, StorageError
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape, parse_batch
from dagster_batch_llm.resources.providers.protocol import TOKEN_KEY, Batch, Phase, Problem
from dagster_batch_llm.resources.request import Operation, RequestSpec
from openai.types import Batch as TheirBatch

from ..fake_openai import answers, reply_lost
from ..world import World

WHOLE: dict[str, Any] = {
    "id": "batch_1",
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "status": "failed",
    "created_at": 1800000000,
    "expires_at": 1800086400,
    "input_file_id": "file-1",
    "output_file_id": "file-2",
    "error_file_id": "file-3",
    "request_counts": {"total": 5, "completed": 3, "failed": 2},
    "metadata": {TOKEN_KEY: "abc"},
    "errors": {
        "object": "list",
        "data": [{"code": "invalid_json_line", "message": "This line is not JSON.", "line": 3, "param": None}],
    },
}
SPARSE: dict[str, Any] = {
    **dict.fromkeys(WHOLE),
    **{key: WHOLE[key] for key in ("id", "object", "endpoint", "completion_window", "created_at", "input_file_id")},
    "status": "validating",
}


@pytest.mark.parametrize("body", [WHOLE, SPARSE], ids=["whole", "sparse"])
def test_a_batch_is_read_as_the_official_package_reads_it(body: dict[str, Any]) -> None:
    ours, theirs = parse_batch(body), TheirBatch.model_validate(body)
    counts, errors = theirs.request_counts, theirs.errors
    assert ours == Batch(
        id=theirs.id,
        phase=Phase.FAILED if theirs.status == "failed" else Phase.QUEUED,
        status=theirs.status,
        created_at=theirs.created_at,
        expires_at=theirs.expires_at,
        input_file_id=theirs.input_file_id,
        metadata=theirs.metadata or {},
        total=counts.total if counts else 0,
        completed=counts.completed if counts else 0,
        failed=counts.failed if counts else 0,
        result_files=tuple(name for name in (theirs.output_file_id, theirs.error_file_id) if name),
        problems=tuple(
            Problem(problem.code or "", problem.message or "", problem.line)
            for problem in (errors.data or [] if errors else [])
        ),
    )


@pytest.mark.parametrize("status", get_args(TheirBatch.model_fields["status"].annotation))
def test_every_status_of_the_official_package_is_known(status: str) -> None:
    batch = parse_batch({**WHOLE, "status": status})
    assert batch.phase is not Phase.UNKNOWN
    assert batch.phase.ended == (status in {"completed", "failed", "expired", "cancelled"})


@pytest.mark.parametrize("status", ["pondering", "", None, 5, "COMPLETED"])
def test_a_status_is_known_or_waited_out(status: object) -> None:
    batch = parse_batch({**WHOLE, "status": status})
    assert batch.phase is (Phase.COMPLETED if status == "COMPLETED" else Phase.UNKNOWN)


@pytest.mark.parametrize("key", sorted(set(WHOLE) - {"id"}))
@pytest.mark.parametrize("value", [None, "x", "", 5, -1, 1.5, True, [], [1], {}, {"data": "x"}, {"data": [None, 5]}])
def test_no_strange_field_hides_a_batch(key: str, value: object) -> None:
    assert parse_batch({**WHOLE, key: value}).id == "batch_1"
    assert parse_batch({name: field for name, field in WHOLE.items() if name != key}).id == "batch_1"


@pytest.mark.parametrize("counts", [{"total": "5"}, {"total": None}, {"completed": -3}, {"failed": [1]}])
def test_counts_are_only_shown(counts: dict[str, object]) -> None:
    assert parse_batch({**WHOLE, "request_counts": counts}).id == "batch_1"


@pytest.mark.parametrize("body", [None, [], "x", 5, {}, {"id": None}, {"id": ""}, {"id": ["x"]}])
def test_a_batch_without_an_id_is_none(body: object) -> None:
    with pytest.raises(AmbiguousError):
        parse_batch(body)


# ---- listing ----


def make_batches(world: World, number: int) -> list[str]:
    """Batches of another application, one a minute; gives their ids, newest first."""
    world.server.files["file-0"] = b""
    provider = world.provider()
    for _ in range(number):
        world.clock.sleep(60.0)
        provider.create("file-0", RequestSpec(Operation.CHAT, "m"), "t", lambda: None)
    return list(reversed(world.server.batches))


def test_a_listing_goes_through_all_pages(world: World) -> None:
    since = world.clock.now()
    made = make_batches(world, 250)
    listing = world.provider().list(since)
    assert [batch.id for batch in listing.batches] == made
    assert listing.complete
    assert world.server.seen.count("GET /v1/batches") == 3


def test_a_listing_goes_back_as_far_as_needed_and_no_further(world: World) -> None:
    make_batches(world, 250)
    since = world.clock.now() - 600.0
    listing = world.provider().list(since)
    times = [batch.created_at or 0.0 for batch in listing.batches]
    assert min(times) <= since - 240.0
    assert listing.complete
    assert world.server.seen.count("GET /v1/batches") == 1


@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_a_listing_asks_in_the_providers_time(world: World, skew: float) -> None:
    world.server.skew = skew
    since = world.clock.now()
    made = make_batches(world, 3)
    assert [batch.id for batch in world.provider().list(since).batches] == made


def scripted(world: World, reply: Callable[[httpx.Request], object]) -> OpenAIShape:
    provider = world.provider()
    world.server.on(
        "GET /v1/batches", lambda request, _: httpx.Response(200, json=reply(request)), times=20
    )  # fmt: skip
    return provider


def test_a_server_that_can_not_page_gives_no_complete_listing(world: World) -> None:
    page = {"data": [{**WHOLE, "id": "a"}, {**WHOLE, "id": "b"}], "has_more": True}
    listing = scripted(world, lambda _: page).list(0.0)
    assert not listing.complete
    assert [batch.id for batch in listing.batches] == ["a", "b"]


def test_a_batch_on_two_pages_is_one_batch(world: World) -> None:
    def page(request: httpx.Request) -> object:
        first = "after" not in request.url.params
        names = ["a", "b"] if first else ["b", "c"]
        return {"data": [{**WHOLE, "id": name} for name in names], "has_more": first}

    listing = scripted(world, page).list(0.0)
    assert [batch.id for batch in listing.batches] == ["a", "b", "c"]
    assert listing.complete


def test_a_server_that_does_not_say_whether_there_is_more_is_asked(world: World) -> None:
    def page(request: httpx.Request) -> object:
        first = 0 if "after" not in request.url.params else int(request.url.params["after"]) + 1
        return {"data": [{**WHOLE, "id": str(number)} for number in range(first, min(first + 100, 150))]}

    listing = scripted(world, page).list(0.0)
    assert len(listing.batches) == 150
    assert listing.complete


def test_an_empty_list_may_be_null(world: World) -> None:
    assert scripted(world, lambda _: {"object": "list", "data": None}).list(0.0).complete


@pytest.mark.parametrize("body", [[], "x", None])
def test_a_listing_that_is_none_is_no_empty_listing(world: World, body: object) -> None:
    with pytest.raises(ProviderError):
        scripted(world, lambda _: body).list(0.0)


@pytest.mark.parametrize("page", [{}, {"data": {}}, {"data": "x"}, {"error": "soon"}])
def test_a_listing_without_its_list_is_no_empty_listing(world: World, page: dict[str, object]) -> None:
    with pytest.raises(ProviderError):
        scripted(world, lambda _: page).list(0.0)


def test_a_listing_is_dated_before_its_first_page(world: World) -> None:
    started = world.clock.now()

    def slow(request: httpx.Request) -> object:
        world.clock.sleep(20.0)
        return {"data": [], "has_more": False}

    assert scripted(world, slow).list(0.0).started_at == started


# ---- files and cancelling ----


def fetched(world: World, folder: Path, **files: bytes) -> list[Path]:
    world.server.files.update(files)
    batch = Batch("batch_1", Phase.COMPLETED, "completed", result_files=tuple(files))
    return world.provider().fetch(batch, folder)


def test_all_result_files_are_fetched(world: World, tmp_path: Path) -> None:
    paths = fetched(world, tmp_path / "new", out=b"{}\n{}\n", err=b"")
    assert [path.read_bytes() for path in paths] == [b"{}\n{}\n", b""]
    assert len({path.name for path in paths}) == 2


def test_a_last_line_may_lack_its_end(world: World, tmp_path: Path) -> None:
    (path,) = fetched(world, tmp_path, out=b'{"a": 1}\n{"b": 2}')
    assert path.read_bytes() == b'{"a": 1}\n{"b": 2}'


@pytest.mark.parametrize("body", [b'{"a": 1}\n{"b": ', b'{"a": 1}\n"b"', b'{"a": 1}\n1', b"\xff", b"[" * 100_000])
def test_a_file_without_its_end_is_fetched_again(world: World, tmp_path: Path, body: bytes) -> None:
    with pytest.raises(AmbiguousError, match="without its end"):
        fetched(world, tmp_path, out=body)
    (path,) = fetched(world, tmp_path, out=b"{}\n")
    assert path.read_bytes() == b"{}\n"


def test_a_compressed_file_that_is_cut_is_noticed(world: World, tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(json.dumps({"row": n}).encode() + b"\n" for n in range(5000)))

    def cut(request: httpx.Request, serve: object) -> httpx.Response:
        return httpx.Response(200, content=packed[: len(packed) // 2], headers={"Content-Encoding": "gzip"})

    world.server.on("GET /v1/files", cut)
    with pytest.raises(AmbiguousError, match="without its end"):
        fetched(world, tmp_path, out=b"")


def test_a_file_id_can_not_lead_out_of_its_folder(world: World, tmp_path: Path) -> None:
    world.server.on("GET /", lambda request, _: httpx.Response(200, content=b"{}\n"))
    batch = Batch("b", Phase.COMPLETED, "completed", result_files=("../../../x/.././evil",))
    (path,) = world.provider().fetch(batch, tmp_path / "inner")
    assert path.parent == tmp_path / "inner"


def test_a_folder_that_can_not_be_made_says_so(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="can't be written"):
        fetched(world, tmp_path / "file" / "results", out=b"{}\n")


@pytest.mark.parametrize("status", [400, 404, 409, 500])
def test_cancelling_what_has_ended_is_fine(world: World, status: int) -> None:
    (name,) = make_batches(world, 1)
    world.clock.sleep(61.0)
    world.server.on("POST", answers(status, "it is completed"))
    world.provider().cancel(name)


@pytest.mark.parametrize("status", [400, 404, 409, 500])
def test_a_cancel_that_failed_is_told(world: World, status: int) -> None:
    (name,) = make_batches(world, 1)
    world.server.on("POST", answers(status, "we'd rather not"))
    with pytest.raises(ProviderError, match="we'd rather not"):
        world.provider().cancel(name)


def test_deleting_a_file_that_is_gone_is_fine(world: World) -> None:
    world.server.files["a"] = b""
    world.server.on("DELETE", reply_lost)
    world.provider().delete_file("a")
    assert "a" not in world.server.files
    world.server.on("DELETE", answers(403, "not yours"))
    with pytest.raises(RefusedError, match="not yours"):
        world.provider().delete_file("b")


@pytest.mark.parametrize(("status", "there"), [(200, True), (404, False), (410, False), (405, True), (501, True)])
def test_a_file_is_there_unless_the_server_says_that_it_is_not(world: World, status: int, there: bool) -> None:
    world.server.on("GET /v1/files/a", answers(status), times=10)
    assert world.provider().has_file("a") is there


def test_a_look_for_a_file_that_is_refused_says_nothing_about_it(world: World) -> None:
    world.server.on("GET /v1/files/a", answers(403, "not yours"))
    with pytest.raises(RefusedError, match="not yours"):
        world.provider().has_file("a")


def test_the_window_is_the_profiles_or_the_users(world: World) -> None:
    profile = replace(OPENAI, windows=("1h", "24h"))
    for window in (None, "24h"):
        shape = OpenAIShape(profile, world.http(), account="a", window=window, clock=world.clock)
        world.server.files["file-0"] = b""
        shape.create("file-0", RequestSpec(Operation.EMBEDDING, "m"), "t", lambda: None)
    assert [job["completion_window"] for job in world.server.batches.values()] == ["1h", "24h"]


def test_pages_that_only_bring_what_was_listed_end_a_listing(world: World) -> None:
    pages = [[{"id": "a"}, {"id": "b"}], [{"id": "a"}], [{"id": "b"}]] * 3

    def page(request: httpx.Request) -> object:
        return {"data": pages.pop(0), "has_more": True}

    listing = scripted(world, page).list(0.0)
    assert ([batch.id for batch in listing.batches], listing.complete) == (["a", "b"], False)


def test_a_result_file_that_another_worker_removes_is_fetched_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(client: HttpClient, path: str, into: Path) -> None:
        into.unlink(missing_ok=True)

    monkeypatch.setattr(HttpClient, "download", removed)
    with pytest.raises(AmbiguousError, match="will be fetched again"):
        fetched(world, tmp_path, output_file_id=b"{}\n")
