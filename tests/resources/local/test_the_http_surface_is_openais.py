"""The routes, called in this process; what a batch does is tested where it is worked off."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.local.answer import CHAT
from dagster_batch_llm.resources.local.server import Activity, Parts, make_app
from dagster_batch_llm.resources.local.store import Store
from dagster_batch_llm.resources.local.wire import Answer
from dagster_batch_llm.resources.local.worker import Worker
from starlette.testclient import TestClient


class Engine:
    endpoints = frozenset({CHAT})
    models = ("one", "two")

    def answer(self, bodies: Sequence[Mapping[str, object]], endpoint: str) -> list[Answer]:
        return [Answer(200, {"asked": body}) for body in bodies]


class Surface:
    def __init__(self, home: Path) -> None:
        clock = SystemClock()
        self.store = Store(home, clock)
        self.worker = Worker(self.store, Engine(), clock)
        self.activity = Activity(clock)
        app = make_app(Parts(self.store, Engine(), self.worker, self.activity, clock, "secret", {"pid": 1}))
        self.client = TestClient(app, headers={"Authorization": "Bearer secret"}, raise_server_exceptions=False)

    def upload(self, content: bytes = b"{}\n", **form: str) -> str:
        reply = self.client.post("/v1/files", data={"purpose": "batch", **form}, files={"file": ("in.jsonl", content)})
        assert reply.status_code == 200, reply.text
        return str(reply.json()["id"])

    def create(self, file_id: str, **more: object) -> Any:
        body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **more}
        return self.client.post("/v1/batches", json=body)


@pytest.fixture
def surface(tmp_path: Path) -> Iterator[Surface]:
    made = Surface(tmp_path)
    with made.client:
        yield made
    made.store.close()


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Bearer secret ", "secret", "Bearer s\xe9cret"])
@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/healthz", "/nowhere"])
def test_nothing_is_said_without_the_token(surface: Surface, header: str, path: str) -> None:
    reply = surface.client.get(path, headers={"Authorization": header.encode("latin-1")})  # pyright: ignore[reportArgumentType]
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files/file-none"),
        ("GET", "/v1/files/file-none/content"),
        ("DELETE", "/v1/files/file-none"),
        ("GET", "/v1/files?after=file-none"),
        ("GET", "/v1/files/..%2Fstate.sqlite/content"),
        ("GET", "/v1/batches/batch_none"),
        ("GET", "/v1/batches?after=batch_none"),
        ("POST", "/v1/batches/batch_none/cancel"),
        ("GET", "/v1/nowhere"),
    ],
)
def test_an_unknown_id_is_a_404_in_openais_shape(surface: Surface, method: str, path: str) -> None:
    reply = surface.client.request(method, path)
    assert reply.status_code == 404
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}


def test_a_file_is_kept_listed_and_deleted(surface: Surface) -> None:
    ids = [surface.upload(b"line %d\n" % n) for n in range(3)]
    shown = surface.client.get(f"/v1/files/{ids[0]}").json()
    assert (shown["bytes"], shown["purpose"], shown["filename"]) == (7, "batch", "in.jsonl")
    assert shown["expires_at"] - shown["created_at"] == 30 * 86400
    assert surface.client.get(f"/v1/files/{ids[1]}/content").content == b"line 1\n"

    first = surface.client.get("/v1/files", params={"limit": 2}).json()
    assert ([item["id"] for item in first["data"]], first["has_more"]) == ([ids[2], ids[1]], True)
    rest = surface.client.get("/v1/files", params={"after": first["last_id"]}).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == ([ids[0]], False)
    oldest = surface.client.get("/v1/files", params={"order": "asc", "limit": 1}).json()
    assert oldest["first_id"] == ids[0]
    assert surface.client.get("/v1/files", params={"purpose": "batch_output"}).json()["data"] == []

    assert surface.client.delete(f"/v1/files/{ids[0]}").json() == {"id": ids[0], "object": "file", "deleted": True}
    assert surface.client.get(f"/v1/files/{ids[0]}").status_code == 404
    assert surface.create(ids[0]).status_code == 400


def test_an_upload_can_say_how_long_it_is_kept(surface: Surface) -> None:
    form = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    file_id = surface.upload(b"x", **form)
    shown = surface.client.get(f"/v1/files/{file_id}").json()
    assert shown["expires_at"] - shown["created_at"] == 3600


@pytest.mark.parametrize(
    ("form", "files"),
    [
        ({"purpose": "vision"}, {"file": ("a.jsonl", b"x")}),
        ({}, {"file": ("a.jsonl", b"x")}),
        ({"purpose": "batch"}, {"other": ("a.jsonl", b"x")}),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, {"file": ("a.jsonl", b"x")}),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, {"file": ("a.jsonl", b"x")}),
    ],
)
def test_a_malformed_upload_is_refused(surface: Surface, form: dict[str, str], files: dict[str, Any]) -> None:
    assert surface.client.post("/v1/files", data=form, files=files).status_code == 400
    assert surface.client.get("/v1/files").json()["data"] == []


def test_an_upload_that_announces_too_much_is_refused(surface: Surface) -> None:
    reply = surface.client.post("/v1/files", content=b"x", headers={"Content-Length": "900000000"})
    assert reply.status_code == 413


@pytest.mark.parametrize(
    "more",
    [
        {"endpoint": "/v1/videos"},
        {"endpoint": None},
        {"completion_window": "soon"},
        {"completion_window": None},
        {"input_file_id": "file-none"},
        {"input_file_id": None},
        {"input_file_id": ["x"]},
        {"metadata": []},
        {"metadata": {"a": 1}},
        {"metadata": {"a": "x" * 513}},
        {"metadata": {"a" * 65: "x"}},
        {"metadata": {str(n): "x" for n in range(17)}},
        {"metadata": {"a": "\ud800"}},
        {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
        {"output_expires_after": 3600},
    ],
)
def test_a_malformed_batch_is_refused(surface: Surface, more: dict[str, object]) -> None:
    body = {"input_file_id": surface.upload(), "endpoint": CHAT, "completion_window": "24h", **more}
    reply = surface.client.post("/v1/batches", content=dump(body))
    assert reply.status_code == 400
    assert reply.json()["error"]["type"] == "invalid_request_error"
    assert surface.client.get("/v1/batches").json()["data"] == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff", b'{"a": NaN}'])
def test_a_body_that_is_no_json_object_is_refused(surface: Surface, content: bytes) -> None:
    assert surface.client.post("/v1/batches", content=content).status_code == 400


def test_a_body_without_end_is_refused(surface: Surface) -> None:
    assert surface.client.post(CHAT, content=b" " * 5_000_000).status_code == 413


def test_metadata_comes_back_as_it_was_given(surface: Surface) -> None:
    metadata = {f"key {n}": "\u00e9" * 512 for n in range(16)}
    created = surface.create(surface.upload(), metadata=metadata).json()
    assert created["metadata"] == metadata
    assert created["status"] == "validating"
    assert surface.client.get(f"/v1/batches/{created['id']}").json() == created


def test_batches_are_listed_newest_first_in_pages(surface: Surface) -> None:
    file_id = surface.upload()
    ids = [surface.create(file_id).json()["id"] for _ in range(5)]
    first = surface.client.get("/v1/batches", params={"limit": 2}).json()
    assert ([item["id"] for item in first["data"]], first["has_more"]) == ([ids[4], ids[3]], True)
    assert (first["first_id"], first["last_id"]) == (ids[4], ids[3])
    rest = surface.client.get("/v1/batches", params={"limit": 100, "after": ids[3]}).json()
    assert ([item["id"] for item in rest["data"]], rest["has_more"]) == ([ids[2], ids[1], ids[0]], False)


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "\u0663", "9" * 5000])
def test_a_limit_out_of_bounds_is_refused(surface: Surface, limit: str) -> None:
    assert surface.client.get("/v1/batches", params={"limit": limit}).status_code == 400


def test_cancelling_twice_is_once_and_a_finished_batch_can_not_be_cancelled(surface: Surface) -> None:
    path = f"/v1/batches/{surface.create(surface.upload()).json()['id']}/cancel"
    assert surface.client.post(path).json()["status"] == "cancelling"
    assert surface.client.post(path).json()["status"] == "cancelling"
    while surface.worker.run_once():
        pass
    reply = surface.client.post(path)
    assert reply.status_code == 409
    assert "cancelled" in reply.json()["error"]["message"]


def test_models_health_and_realtime_answer(surface: Surface) -> None:
    assert [item["id"] for item in surface.client.get("/v1/models").json()["data"]] == ["one", "two"]
    assert surface.client.get("/healthz").json() == {"status": "ok", "pid": 1}
    assert surface.client.post(CHAT, json={"a": 1}).json() == {"asked": {"a": 1}}
    assert surface.client.get(CHAT).status_code == 405


def test_a_full_disk_is_said_in_openais_shape(surface: Surface, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(surface.store, "add_file", fail)
    reply = surface.client.post("/v1/files", data={"purpose": "batch"}, files={"file": ("a.jsonl", b"x")})
    assert reply.status_code == 500
    assert "No space left" in reply.json()["error"]["message"]


def dump(body: Mapping[str, object]) -> bytes:
    return json.dumps(body).encode()
