"""OpenAI's own package as the referee: what it sends and reads, our client sends and reads."""

from __future__ import annotations

import json
import mimetypes
import re
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import openai
import pytest
from dagster_batch_llm.resources.local import LocalServer, ensure_server, stop_server
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape, parse_batch
from dagster_batch_llm.resources.providers.protocol import TOKEN_KEY, Batch, Phase
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..served import serving
from .aibrix import running_model

CHAT = "/v1/chat/completions"
ASKED = RequestSpec(Operation.CHAT, "m")


@pytest.fixture(autouse=True)
def no_table_of_media_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package asks this machine what a ``.jsonl`` is, and a machine may have an answer."""

    def guess_type(*_: object, **__: object) -> tuple[None, None]:
        return None, None

    monkeypatch.setattr(mimetypes, "guess_type", guess_type)


MAY_DIFFER = re.compile(
    "user-agent|x-stainless-.*"  # who asks
    "|host"  # each has a recorder of its own
    "|accept|accept-encoding"  # what the one who asks can read; these routes have one thing to give
)
"""Headers. A boundary is replaced, and a content type without content means nothing."""


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@contextmanager
def recorder(reply: bytes) -> Generator[tuple[str, list[Asked]]]:
    """A server that says the same to everyone and keeps what it was asked."""
    asked: list[Asked] = []

    def respond(method: str, target: str, given: Mapping[str, str], body: bytes) -> httpx.Response:
        headers = dict(given)
        boundary = re.search("boundary=(.+)", headers.get("content-type", ""))
        if boundary:  # made up anew for each request
            headers["content-type"] = headers["content-type"].replace(boundary[1], "BOUNDARY")
            body = body.replace(boundary[1].encode(), b"BOUNDARY")
            headers["content-length"] = str(len(body))
        asked.append(Asked(method, target, headers, body))
        return httpx.Response(200, content=reply, headers={"content-type": "application/json"})

    with serving(respond) as address:
        yield f"{address}/v1", asked


@contextmanager
def ours_at(address: str, key: str = "sk-test") -> Generator[OpenAIShape]:
    client = OpenAIShape(OPENAI, HttpClient(name="openai", base_url=address, api_key=key), account="acme")
    yield client
    client.close()


@contextmanager
def theirs_at(address: str, key: str = "sk-test") -> Generator[openai.OpenAI]:
    with openai.OpenAI(base_url=address, api_key=key, max_retries=0) as client:
        yield client


BATCH = {
    "id": "batch_1",
    "object": "batch",
    "status": "completed",
    "endpoint": CHAT,
    "input_file_id": "file-1",
    "completion_window": "24h",
    "created_at": 1,
}
PAGE = {"object": "list", "data": [BATCH], "has_more": False}
FILE = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "f", "purpose": "batch"}
ROWS = '{"custom_id": "é \\u2028", "n": 1}\n{"custom_id": "b\\r\\n"}\r\n\n{"last": "has no end"}'.encode()


def fetch(client: OpenAIShape, folder: Path) -> None:
    client.fetch(Batch("batch_1", Phase.COMPLETED, "completed", result_files=("file-1",)), folder / "results")


CALLS: dict[str, tuple[object, Callable[[OpenAIShape, Path], object], Callable[[openai.OpenAI, Path], object]]] = {
    "upload": (
        FILE,
        lambda ours, path: ours.upload(path, path.name),
        lambda theirs, path: theirs.files.create(file=path, purpose="batch"),
    ),
    "create": (
        BATCH,
        lambda ours, _: ours.create("file-1", ASKED, "abc", lambda: None),
        lambda theirs, _: theirs.batches.create(
            input_file_id="file-1", endpoint=CHAT, completion_window="24h", metadata={TOKEN_KEY: "abc"}
        ),
    ),
    "retrieve": (BATCH, lambda ours, _: ours.check("batch_1"), lambda theirs, _: theirs.batches.retrieve("batch_1")),
    "list": (PAGE, lambda ours, _: ours.list(0.0), lambda theirs, _: theirs.batches.list(limit=100)),
    "cancel": (BATCH, lambda ours, _: ours.cancel("batch_1"), lambda theirs, _: theirs.batches.cancel("batch_1")),
    "content": (
        {"a": 1},
        lambda ours, path: fetch(ours, path.parent),
        lambda theirs, _: theirs.files.content("file-1").content,
    ),
    "file": (FILE, lambda ours, _: ours.has_file("file-1"), lambda theirs, _: theirs.files.retrieve("file-1")),
    "delete": (FILE, lambda ours, _: ours.delete_file("file-1"), lambda theirs, _: theirs.files.delete("file-1")),
}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "0123abc.jsonl"
    path.write_bytes(ROWS)
    return path


def compared(asked: Asked) -> tuple[str, str, dict[str, str], object]:
    """What has to be the same in both."""
    headers = {name: value for name, value in asked.headers.items() if not MAY_DIFFER.fullmatch(name)}
    if asked.body and headers["content-type"] != "application/json":
        return asked.method, asked.target, headers, asked.body
    # JSON is what it says: the order of fields and the spaces between them are free.
    free = {"content-length", "content-type"} if not asked.body else {"content-length"}
    kept = {name: value for name, value in headers.items() if name not in free}
    return asked.method, asked.target, kept, json.loads(asked.body) if asked.body else None


@pytest.mark.parametrize("call", CALLS)
def test_the_same_request_leaves(rows: Path, call: str) -> None:
    reply, we_do, they_do = CALLS[call]
    with recorder(json.dumps(reply).encode()) as (address, we_asked), ours_at(address) as ours:
        we_do(ours, rows)
    with recorder(json.dumps(reply).encode()) as (address, they_asked), theirs_at(address) as theirs:
        they_do(theirs, rows)
    assert [compared(asked) for asked in we_asked] == [compared(asked) for asked in they_asked]
    assert len(we_asked) == 1
    assert {asked.headers["authorization"] for asked in (*we_asked, *they_asked)} == {"Bearer sk-test"}


def test_the_next_page_is_asked_for_in_the_same_way() -> None:
    page = {**PAGE, "data": [{**BATCH, "id": f"batch_{number}", "created_at": None} for number in range(3)]}
    reply = json.dumps({**page, "has_more": True}).encode()
    with recorder(reply) as (address, we_asked), ours_at(address) as ours:
        assert not ours.list(0.0).complete
    with recorder(reply) as (address, they_asked), theirs_at(address) as theirs:
        theirs.batches.list(limit=100).get_next_page()
    assert [asked.target for asked in we_asked] == ["/v1/batches?limit=100", "/v1/batches?limit=100&after=batch_2"]
    assert [parse_qs(urlsplit(asked.target).query) for asked in we_asked] == [
        parse_qs(urlsplit(asked.target).query) for asked in they_asked
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalServer, Path]]:
    """The local server, with a model behind it that refuses some rows."""
    home = tmp_path_factory.mktemp("local")
    with running_model() as (_, behind):
        yield ensure_server(home, upstream=f"{behind}/v1"), home
        stop_server(home)


@pytest.fixture
def ours(server: tuple[LocalServer, Path]) -> Iterator[OpenAIShape]:
    with ours_at(server[0].base_url, server[0].token) as client:
        yield client


@pytest.fixture
def theirs(server: tuple[LocalServer, Path]) -> Iterator[openai.OpenAI]:
    with theirs_at(server[0].base_url, server[0].token) as client:
        yield client


def asking(path: Path, *texts: str) -> Path:
    """A request file."""
    bodies = [{"model": "m", "messages": [{"role": "user", "content": text}]} for text in texts]
    lines = [
        {"custom_id": f"row-{number}", "method": "POST", "url": CHAT, "body": body}
        for number, body in enumerate(bodies)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def ended(ours: OpenAIShape, batch_id: str) -> Batch:
    for _ in range(1000):
        batch = ours.check(batch_id)
        if batch.phase.ended:
            return batch
        threading.Event().wait(0.02)
    pytest.fail(f"never got there: {batch_id}")


@pytest.mark.real
def test_what_is_stored_of_an_upload_is_the_file(
    rows: Path, server: tuple[LocalServer, Path], ours: OpenAIShape, theirs: openai.OpenAI
) -> None:
    names = [ours.upload(rows, rows.name), theirs.files.create(file=rows, purpose="batch").id]
    for name in names:
        (stored,) = server[1].rglob(name)
        assert stored.read_bytes() == ROWS
        assert theirs.files.content(name).content == ROWS
    we_sent, they_sent = (theirs.files.retrieve(name).model_dump(exclude={"id", "created_at"}) for name in names)
    assert {**we_sent, "expires_at": 0} == {**they_sent, "expires_at": 0}
    assert (we_sent["bytes"], we_sent["filename"]) == (len(ROWS), rows.name)


@pytest.mark.real
def test_a_batch_that_one_created_is_the_same_to_the_other(
    tmp_path: Path, ours: OpenAIShape, theirs: openai.OpenAI
) -> None:
    path = asking(tmp_path / "in.jsonl", "one", "bad two", "three")
    file_id = ours.upload(path, path.name)
    we_made = ours.create(file_id, ASKED, "abc", lambda: None)
    they_made = theirs.batches.create(
        input_file_id=file_id, endpoint=CHAT, completion_window="24h", metadata={TOKEN_KEY: "abc"}
    )
    for batch_id in (we_made.id, they_made.id):
        seen = ended(ours, batch_id)
        assert seen == parse_batch(theirs.batches.retrieve(batch_id).model_dump())
        assert (seen.phase, seen.completed, seen.failed) == (Phase.COMPLETED, 2, 1)
        assert (seen.input_file_id, seen.metadata) == (file_id, {TOKEN_KEY: "abc"})
    listed = ours.list(0.0).batches
    assert list(listed) == [parse_batch(batch.model_dump()) for batch in theirs.batches.list(limit=1)]
    assert {we_made.id, they_made.id} <= {batch.id for batch in listed}


@pytest.mark.real
def test_both_read_the_same_bytes_of_the_results(tmp_path: Path, ours: OpenAIShape, theirs: openai.OpenAI) -> None:
    path = asking(tmp_path / "in.jsonl", "é ☃", "bad", *map(str, range(200)))
    batch = ended(ours, ours.create(ours.upload(path, path.name), ASKED, "abc", lambda: None).id)
    answers, errors = ours.fetch(batch, tmp_path / "results")
    for fetched, file_id in zip((answers, errors), batch.result_files, strict=True):
        assert fetched.read_bytes() == theirs.files.content(file_id).content
    assert len(answers.read_bytes().splitlines()) == 201
    assert [json.loads(line)["custom_id"] for line in errors.read_text().splitlines()] == ["row-1"]


@pytest.mark.real
def test_what_one_cancels_or_deletes_is_so_to_the_other(
    tmp_path: Path, ours: OpenAIShape, theirs: openai.OpenAI
) -> None:
    path = asking(tmp_path / "in.jsonl", *("text" for _ in range(2000)))
    for cancel in (ours.cancel, theirs.batches.cancel):
        file_id = ours.upload(path, path.name)
        batch = ours.create(file_id, ASKED, "abc", lambda: None)
        cancel(batch.id)
        assert ended(ours, batch.id) == parse_batch(theirs.batches.retrieve(batch.id).model_dump())
        assert theirs.batches.retrieve(batch.id).status == "cancelled"
    for delete in (ours.delete_file, theirs.files.delete):
        file_id = ours.upload(path, path.name)
        assert ours.has_file(file_id)
        delete(file_id)
        ours.delete_file(file_id)
        assert not ours.has_file(file_id)
        with pytest.raises(openai.NotFoundError):
            theirs.files.retrieve(file_id)
