"""Whatever a server replies, it is a batch, a listing or a file, or it is a `ProviderError`."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.errors import AmbiguousError, ProviderError
from dagster_batch_llm.resources.late import ours
from dagster_batch_llm.resources.ledger import AttemptId, Send
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape, parse_batch
from dagster_batch_llm.resources.providers.protocol import Batch
from dagster_batch_llm.resources.providers.replies import page_of
from dagster_batch_llm.resources.request import Operation, RequestSpec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ..fake_clock import FakeClock

EXAMPLES = int(os.environ.get("BATCH_LLM_FUZZ", "60"))
SEND = Send("token", AttemptId("a"), 1, 0.0, 30.0, "file-1", 1)
BATCH = {
    "id": "batch-1",
    "status": "completed",
    "created_at": 1.0,
    "expires_at": 2.0,
    "input_file_id": "file-1",
    "output_file_id": "file-2",
    "error_file_id": None,
    "metadata": {"batch_llm_token": "token"},
    "request_counts": {"total": 1, "completed": 1, "failed": 0},
    "errors": {"data": [{"code": "c", "message": "m", "line": 1}]},
}
_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
_ODD = st.sampled_from(["\ud800", "..", "a/b?c#d", "\x00", "a\nb", 10**30, -1, float("inf"), float("nan")])
_JSON = st.recursive(
    _LEAF | _ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*BATCH, "data", "x"]), inner),
    max_leaves=6,
)


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    changed = draw(st.dictionaries(st.sampled_from([*BATCH]), _JSON, max_size=3))
    return {**BATCH, **changed}


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    page = {"data": draw(st.lists(batches(), max_size=3)), "has_more": False}
    return json.dumps(draw(st.sampled_from([page, page["data"], draw(batches()), draw(_JSON)]))).encode()


REPLIES = st.tuples(
    st.sampled_from([200, 201, 204, 301, 400, 401, 404, 409, 429, 500, 503]),
    bodies() | st.binary(max_size=40),
    st.dictionaries(
        st.sampled_from(["date", "retry-after", "content-type", "content-encoding", "location", "x-incomplete"]),
        st.sampled_from(["", "x", "gzip", "-1", "nan", "1e9", "true", "text/html; charset=utf-99", "http://[x", "//"]),
        max_size=2,
    ),
)


def well_formed(batch: Batch) -> None:
    """The ledger can keep it, and it can be looked for."""
    json.dumps([batch.id, batch.input_file_id, batch.result_files, [p.words for p in batch.problems]]).encode()
    "".join([batch.id, *batch.result_files, *(p.words for p in batch.problems)]).encode()
    assert all(0 <= count < 2**31 for count in (batch.total, batch.completed, batch.failed))
    assert all(time is None or 0 <= time < 1e12 for time in (batch.created_at, batch.expires_at))


@settings(max_examples=EXAMPLES)
@given(reply=REPLIES)
@example(reply=(200, json.dumps({"data": [{**BATCH, "input_file_id": ["file-1"]}], "has_more": False}).encode(), {}))
@example(reply=(200, json.dumps({**BATCH, "request_counts": {"total": 10**30}, "expires_at": 1e300}).encode(), {}))
@example(reply=(200, json.dumps({**BATCH, "id": "\ud800", "errors": {"data": ["\udc00"]}}).encode(), {}))
def test_a_reply_is_understood_or_a_provider_error(
    tmp_path_factory: pytest.TempPathFactory, reply: tuple[int, bytes, dict[str, str]]
) -> None:
    folder = tmp_path_factory.mktemp("replies")
    (folder / "requests.jsonl").write_text("{}\n")
    clock, (status, content, headers) = FakeClock(), reply

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(status, stream=httpx.ByteStream(content), headers=headers)

    http = HttpClient(
        name="openai", base_url="https://fake.test/v1", api_key="sk-test", clock=clock, attempts=1,
        transport=httpx.MockTransport(answer),
    )  # fmt: skip
    provider = OpenAIShape(OPENAI, http, account="acme", clock=clock)
    with suppress(ProviderError):
        well_formed(provider.check("batch-1"))
    with suppress(ProviderError):
        well_formed(provider.create("file-1", RequestSpec(Operation.CHAT, "m"), "token", lambda: None))
    with suppress(ProviderError):
        listing = provider.list(0.0)
        ours(listing.batches, [SEND])
        for batch in listing.batches:
            well_formed(batch)
    with suppress(ProviderError):
        provider.upload(folder / "requests.jsonl", "requests.jsonl").encode()
    with suppress(ProviderError):
        provider.fetch(parse_batch(BATCH), folder / "results")
    with suppress(ProviderError):
        provider.cancel("batch-1")
    with suppress(ProviderError):
        provider.delete_file("file-1")


@given(body=batches())
@settings(max_examples=EXAMPLES)
def test_ids_of_strangers_stay_one_part_of_an_address(body: dict[str, Any]) -> None:
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(404)

    http = HttpClient(
        name="openai", base_url="https://fake.test/v1", api_key="", attempts=1, transport=httpx.MockTransport(answer)
    )
    with suppress(ProviderError):
        OpenAIShape(OPENAI, http, account="acme").check(parse_batch(body).id)
    assert all(path.startswith("/v1/batches/") and path.count("/") == 3 and "?" not in path for path in seen)


@pytest.mark.parametrize(
    "page",
    [{"error": {"code": 503}}, {"message": "soon"}, {"detail": "no"}, {"state": "x"}, {"unreachable": ["us"]}, []],
)
def test_an_object_that_says_something_else_is_no_empty_page(page: object) -> None:
    with pytest.raises(AmbiguousError):
        page_of(page, "operations", omits_empty=True)


@pytest.mark.parametrize("page", [{}, {"nextPageToken": ""}, {"totalSize": 0, "nextPageToken": ""}])
def test_a_page_that_leaves_out_its_empty_list_is_empty(page: object) -> None:
    assert page_of(page, "operations", omits_empty=True) == []
