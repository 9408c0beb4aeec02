from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.duck import connect, literal, rows
from dagster_batch_llm.resources.errors import (
    InputError,
    MissingExtraError,
    MissingSecretError,
    UnreachableError,
    UserError,
)
from dagster_batch_llm.resources.providers.google_cloud import Bearer, CloudStorage
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.vertex import VERTEX, VertexBatch
from dagster_batch_llm.resources.request import Operation, RequestSpec
from google.auth.exceptions import RefreshError

GOOD: dict[str, Any] = {"project": "my-project-1", "location": "us-central1", "gcs_folder": "gs://bucket/folder"}
CHAT = RequestSpec(operation=Operation.CHAT, model="gemini-2.5-flash")


class Tokens:
    """Credentials that are renewed for each request."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    def before_request(self, renewing: object, method: str, url: str, headers: dict[str, str]) -> None:
        if self.error:
            raise self.error
        self.asked += 1
        headers["authorization"] = f"Bearer token-{self.asked}"


def storage(answer: Any, credentials: object) -> CloudStorage:
    http = HttpClient(
        name="vertex",
        base_url="https://storage.test",
        api_key="",
        headers={},
        auth=Bearer(credentials),
        transport=httpx.MockTransport(answer),
        attempts=1,
    )
    return CloudStorage(http)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"project": "My Project"}, UserError, "project is 'My Project'"),
        ({"location": "Iowa"}, UserError, "location is 'Iowa'"),
        ({"gcs_folder": "s3://bucket/folder"}, UserError, "write it as 'gs://bucket/folder'"),
        ({"service_account": "{}"}, MissingSecretError, "service_account isn't the JSON"),
        ({"service_account": "key"}, MissingSecretError, "service_account isn't the JSON"),
    ],
)
def test_what_can_not_work_is_said_before_anything_is_sent(
    change: dict[str, Any], error: type[UserError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        VertexBatch(**{**GOOD, **change}).provider()
    assert "Nothing was sent" in raised.value.message


def test_credentials_that_are_nowhere_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(MissingSecretError, match="there are no Google credentials"):
        VertexBatch(**GOOD).provider()


def test_credentials_of_a_person_are_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        json.dumps({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"})
    )
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "my-project-1")
    provider = VertexBatch(**GOOD, max_rows_per_batch=10).provider()
    assert provider.account == "projects/my-project-1/locations/us-central1"
    assert provider.profile.max_rows == 10
    provider.close()


def test_without_google_auth_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dagster-batch-llm\[vertex\]'"):
        VertexBatch(**GOOD).provider()


def test_each_request_has_a_token_and_a_long_folder_is_listed_to_its_end() -> None:
    pages = {None: {"items": [{"name": "out/a b"}], "nextPageToken": "2"}, "2": {"items": [{"name": "out/c"}]}}
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["authorization"])
        return httpx.Response(200, json=pages[request.url.params.get("pageToken")])

    assert storage(answer, Tokens()).below("gs://bucket/out/") == ["gs://bucket/out/a b", "gs://bucket/out/c"]
    assert seen == ["Bearer token-1", "Bearer token-2"]


def test_credentials_that_can_not_be_renewed_send_nothing() -> None:
    make: Any = RefreshError
    bucket = storage(None, Tokens(make("no")))
    with pytest.raises(UnreachableError, match="can't be renewed"):
        bucket.has("gs://bucket/a")


def test_a_name_that_can_not_be_imported_is_said_before_anything_is_sent() -> None:
    inner = {"type": "object", "properties": {"$price": {"type": "number"}}}
    empty: dict[str, Any] = {"type": "object", "properties": {"price": {}}}
    with pytest.raises(InputError, match="vertex: 'price' is an empty object"):
        VERTEX.line_parts(RequestSpec(operation=Operation.CHAT, model="m", schema=empty))
    with pytest.raises(InputError, match="vertex: 'anyOf' is an empty object"):
        VERTEX.line_parts(RequestSpec(operation=Operation.CHAT, model="m", schema={"anyOf": [{}, {}]}))
    for schema in (inner, {"anyOf": [inner, {"type": "null"}]}, {"$ref": "#/x"}):
        with pytest.raises(InputError, match=r"vertex: '\$(price|ref)' begins with"):
            VERTEX.line_parts(RequestSpec(operation=Operation.CHAT, model="m", schema=schema))
    good = {"type": "object", "properties": {"price": {"type": "number"}}}
    VERTEX.line_parts(RequestSpec(operation=Operation.CHAT, model="m", schema=good))


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ({"status": "", "response": {"candidates": [{"content": {"parts": [{"text": "x"}]}}]}}, ("ok", "x", None)),
        ({"status": "Bad Request: {}"}, ("refused", None, "status 400: Bad Request: {}")),
        ({"status": "Internal: oops"}, ("errored", None, "status 500: Internal: oops")),
        ({"status": "Cancelled: late", "response": None}, ("expired", None, "batch_cancelled: Cancelled: late")),
    ],
)
def test_a_line_says_what_became_of_its_row(line: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    engine = connect()
    whole = literal(json.dumps({"custom_id": "a-1", "request": {}, **line}))
    engine.execute(f"CREATE TEMP TABLE lines AS SELECT {whole}::JSON AS line")
    (found,) = rows(engine, f"SELECT outcome, answer, reason FROM ({VERTEX.wire.result_sql(CHAT)})")
    assert found == wanted
