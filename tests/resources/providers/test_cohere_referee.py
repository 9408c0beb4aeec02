"""The cohere package as referee: it asks the same of the same server, and reads the same from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cohere
import httpx
import pytest
from cohere.utils import dataset_generator
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.local.emulator import Fault, Faults
from dagster_batch_llm.resources.providers.cohere import COHERE, CohereBatch, CohereBatches
from dagster_batch_llm.resources.providers.protocol import Batch, Phase
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..emulated import TOKEN, EmulatedServer
from ..fake_clock import FakeClock
from ..rendered import rendered
from ..served import served

CHAT = RequestSpec(operation=Operation.CHAT, model="command-a", instruction="Be brief.")
PROMPTS = ["hello", "two\nlines", 'quotes " and ünïcode']


@pytest.fixture
def emulator(tmp_path: Path) -> EmulatedServer:
    return EmulatedServer(tmp_path / "emulator", FakeClock(), Faults(speaks="cohere"))


@pytest.fixture
def address(emulator: EmulatedServer) -> Iterator[str]:
    with served(emulator.handle) as address:
        yield address


@pytest.fixture
def ours(address: str) -> Iterator[CohereBatches]:
    provider = CohereBatch(api_key=TOKEN, base_url=address).provider()
    assert isinstance(provider, CohereBatches)
    yield provider
    provider.close()


@pytest.fixture
def theirs(address: str) -> Iterator[cohere.ClientV2]:
    with httpx.Client(trust_env=False) as client:
        yield cohere.ClientV2(
            api_key=TOKEN, base_url=address, httpx_client=client, log_warning_experimental_features=False
        )


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A request file as it is rendered."""
    return rendered(tmp_path / "rows.jsonl", COHERE, CHAT, PROMPTS)


def made(ours: CohereBatches, lines: Path, token: str = "00ff") -> Batch:
    return ours.create(ours.upload(lines, lines.name), CHAT, token, lambda: None)


def plain(model: Any) -> Any:
    return json.loads(model.model_dump_json(by_alias=True))


def test_they_upload_what_we_upload_and_make_what_we_make(
    ours: CohereBatches, theirs: cohere.ClientV2, lines: Path
) -> None:
    with lines.open("rb") as stream:
        dataset = theirs.datasets.create(
            name="rows.jsonl", type="batch-chat-v2-input", data=stream, keep_fields=["custom_id"]
        )
    assert dataset.id
    assert ours.has_file(dataset.id)
    batch = cohere.Batch(name="00ff", input_dataset_id=dataset.id, model=CHAT.model)
    theirs_made = plain(theirs.batches.create(request=batch))
    seen = ours.check(theirs_made["batch"]["id"])
    assert seen.completed == len(PROMPTS)
    ours_made = ours.check(made(ours, lines).id)
    assert (ours_made.metadata, ours_made.completed) == (seen.metadata, seen.completed)
    ours.delete_file(dataset.id)
    assert not ours.has_file(dataset.id)


def test_they_see_the_batches_that_we_see(ours: CohereBatches, theirs: cohere.ClientV2, lines: Path) -> None:
    for number in range(3):
        made(ours, lines, f"00f{number}")
    page = theirs.batches.list(page_size=2)
    rest = theirs.batches.list(page_size=2, page_token=page.next_page_token)
    theirs_seen = [ours.parse(plain(batch)) for batch in [*(page.batches or ()), *(rest.batches or ())]]
    assert list(ours.list(0.0).batches) == theirs_seen
    for batch in theirs_seen:
        assert ours.check(batch.id) == ours.parse(plain(theirs.batches.retrieve(batch.id))) == batch
        assert batch.phase is Phase.COMPLETED


def test_what_one_cancels_is_cancelled_to_the_other(
    emulator: EmulatedServer, ours: CohereBatches, theirs: cohere.ClientV2, lines: Path
) -> None:
    emulator.memory.script(Faults([Fault("batch", "stuck")], speaks="cohere"))
    one, other = made(ours, lines), made(ours, lines, "00fe")
    theirs.batches.cancel(one.id)
    ours.cancel(other.id)
    assert ours.check(one.id).phase is Phase.CANCELLED
    assert theirs.batches.retrieve(other.id).batch.status == "BATCH_STATUS_CANCELED"
    ours.cancel(other.id)  # one that has ended is fine


def test_they_read_the_results_that_we_read(
    emulator: EmulatedServer, ours: CohereBatches, theirs: cohere.ClientV2, lines: Path, tmp_path: Path
) -> None:
    emulator.memory.script(Faults([Fault("row", "error_row", only="two")], speaks="cohere"))
    batch = ours.check(made(ours, lines).id)
    (path,) = ours.fetch(batch, tmp_path / "results")
    found = theirs.datasets.get(batch.result_files[0]).dataset
    generated: Any = dataset_generator
    read: list[tuple[str, str | None]] = []
    for record in generated(found):
        reply = cohere.V2ChatResponse.model_validate_json(record["response"]) if record["response"] else None
        block = reply.message.content[0] if reply and reply.message.content else None
        read.append((record["custom_id"], block.text if block and block.type == "text" else None))
    engine = connect()
    engine.execute(f"CREATE TEMP VIEW lines AS SELECT json AS line FROM read_ndjson_objects('{path}')")
    said = rows(engine, f"SELECT custom_id, answer, input_tokens, outcome FROM ({COHERE.wire.result_sql(CHAT)})")
    assert [(name, answer) for name, answer, *_ in said] == read
    assert [outcome for *_, outcome in said] == ["ok", "ok", "errored"]
