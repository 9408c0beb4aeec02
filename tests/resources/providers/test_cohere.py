from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastavro
import httpx
import pytest
from dagster_batch_llm.resources.duck import connect, literal, rows
from dagster_batch_llm.resources.errors import (
    AmbiguousError,
    BusyError,
    InputError,
    MissingExtraError,
    MissingSecretError,
    RefusedError,
)
from dagster_batch_llm.resources.providers.cohere import COHERE, CohereBatch, CohereBatches
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.protocol import Batch, Phase
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..fake_clock import FakeClock

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
CHAT = RequestSpec(operation=Operation.CHAT, model="command-a", instruction="Be brief.")
STRUCTURED = RequestSpec(operation=Operation.CHAT, model="command-a", instruction="Be brief.", schema=SCHEMA)


def batches(answer: Any) -> CohereBatches:
    http = HttpClient(
        name="cohere",
        base_url="https://api.test",
        api_key="key",
        transport=httpx.MockTransport(answer),
        clock=FakeClock(),
        attempts=1,
    )
    return CohereBatches(COHERE, http, account="a", clock=FakeClock())


def avro(records: list[dict[str, Any]], body: Any = "string") -> bytes:
    fields = [{"name": "custom_id", "type": "string"}, {"name": "body", "type": body}]
    out = io.BytesIO()
    schema: Any = {"type": "record", "name": "r", "fields": fields}
    fastavro.writer(out, schema, records, sync_interval=1)  # pyright: ignore[reportUnknownMemberType]
    return out.getvalue()


def fetched(content: bytes, folder: Path, number: int = 2) -> list[dict[str, Any]]:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.host == "signed.test":
            assert "authorization" not in request.headers
            return httpx.Response(200, content=content)
        part = {"id": "p", "name": "p", "url": "https://signed.test/p?sig=1", "num_rows": number}
        return httpx.Response(200, json={"dataset": {"id": "out", "dataset_parts": [part]}})

    (path,) = batches(answer).fetch(Batch("b", Phase.COMPLETED, "completed", result_files=("out",)), folder)
    assert [file.name for file in folder.iterdir()] == [path.name]
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_can_not_work_is_said_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingSecretError, match="CO_API_KEY"):
        CohereBatch(api_key=" ").provider()
    monkeypatch.setitem(sys.modules, "fastavro", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dagster-batch-llm\[cohere\]'"):
        CohereBatch(api_key="key").provider()


def test_records_are_read_whether_their_reply_is_a_text_or_an_object(tmp_path: Path) -> None:
    texts = avro([{"custom_id": f"t-{n}", "body": json.dumps({"n": n})} for n in range(2)])
    wanted = [{"custom_id": f"t-{n}", "response": {"n": n}, "error": None} for n in range(2)]
    assert fetched(texts, tmp_path / "texts") == wanted
    shape = {"type": "record", "name": "b", "fields": [{"name": "n", "type": "int"}]}
    assert fetched(avro([{"custom_id": f"t-{n}", "body": {"n": n}} for n in range(2)], shape), tmp_path / "o") == wanted


@pytest.mark.parametrize("kept", [0, 3, 100, -1, -20, -60])
def test_a_part_that_came_cut_is_no_result(kept: int, tmp_path: Path) -> None:
    content = avro([{"custom_id": f"t-{n}", "body": "{}"} for n in range(2)])
    with pytest.raises(AmbiguousError, match="result part"):
        fetched(content[:kept], tmp_path / "cut")
    assert list((tmp_path / "cut").iterdir()) == []


def test_a_dataset_is_asked_only_when_it_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n")
    seen = ["queued", "processing", "validated"]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            assert request.url.params["keep_fields"] == "custom_id"
            assert b'name="data"' in request.read()
            return httpx.Response(200, json={"id": "in"})
        said = {"validation_status": seen.pop(0) if len(seen) > 1 else seen[0], "validation_error": "line 1"}
        return httpx.Response(200, json={"dataset": said})

    assert batches(answer).upload(path, path.name) == "in"
    seen[:] = ["failed"]
    with pytest.raises(RefusedError, match="line 1"):
        batches(answer).upload(path, path.name)
    seen[:] = ["processing"]
    with pytest.raises(BusyError, match="still being validated"):
        batches(answer).upload(path, path.name)


def test_a_schema_is_asked_for_in_words() -> None:
    before, _, _ = COHERE.line_parts(STRUCTURED)
    _, middle, tail = COHERE.line_parts(STRUCTURED)
    body = json.loads(f'{before}t-1{middle}"hello"{tail}')["body"]
    said = [part["text"] for message in body["messages"] for part in message["content"]]
    assert said[0].startswith("Be brief.\n\nAnswer with one JSON object")
    assert json.loads(said[0].split("\n")[-1]) == SCHEMA
    assert said[1] == "hello"
    with pytest.raises(InputError, match="cohere: parameters has 'stop'"):
        COHERE.line_parts(RequestSpec(operation=Operation.CHAT, model="c", parameters={"stop": ["x"]}))


def answered(text: str, **more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": text}]}
    usage = {"billed_units": {"input_tokens": 3.0, "output_tokens": 2.0}}
    return {"response": {"finish_reason": "COMPLETE", "message": message, "usage": usage, **more}, "error": None}


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (answered('{"n": 1}'), ("ok", '{"n": 1}', None, 3, 2)),
        (answered('```json\n{"n": 1}\n```'), ("ok", '{"n": 1}', None, 3, 2)),
        (answered('{"n"', finish_reason="MAX_TOKENS"), ("truncated", '{"n"', None, 3, 2)),
        ({"response": None, "error": {"message": "no"}}, ("errored", None, "no", None, None)),
        (
            {"response": None, "error": {"message": "no", "status_code": 400}},
            ("refused", None, "status 400: no", None, None),
        ),
    ],
)
def test_a_line_says_what_became_of_its_row(line: Mapping[str, Any], wanted: tuple[Any, ...]) -> None:
    engine = connect()
    whole = literal(json.dumps({"custom_id": "a-1", **line}))
    engine.execute(f"CREATE TEMP TABLE lines AS SELECT {whole}::JSON AS line")
    columns = "outcome, answer, reason, input_tokens, output_tokens"
    (found,) = rows(engine, f"SELECT {columns} FROM ({COHERE.wire.result_sql(STRUCTURED)})")
    outcome, answer, reason, *tokens = found
    assert (outcome, answer, None if outcome == "truncated" else reason, *tokens) == wanted
