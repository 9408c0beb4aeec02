"""The emulator as users hold it: a process, faults on real sockets, and a bill that survives a kill."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import classify_asset
from dagster_batch_llm.resources import AnthropicBatch, DuckDBTables, InputError, LocalBatch, StorageError
from dagster_batch_llm.resources.errors import AmbiguousError, BusyError
from dagster_batch_llm.resources.local import ensure_server
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.request import Operation, RequestSpec
from dagster_batch_llm.resources.testing import Emulator, Fault, Faults
from dagster_batch_llm.resources.testing.fixtures import batch_llm_emulator

pytestmark = pytest.mark.real

__all__ = ["batch_llm_emulator"]  # a fixture is found by its name


@pytest.fixture
def client(batch_llm_emulator: Emulator, tmp_path: Path) -> Iterator[HttpClient]:
    server = ensure_server(tmp_path / "emulator")
    made = HttpClient(name="emulator", base_url=server.base_url, api_key=server.token, attempts=1)
    yield made
    made.close()


def topics(tmp_path: Path, emulator: Emulator) -> list[str | None]:
    """The labels of three rows, one of which is asked twice."""

    @dg.asset(io_manager_key="tables")
    def reviews() -> pa.Table:
        return pa.table({"id": [1, 2, 3], "text": ["a complaint", "my praise", "a complaint"]})

    moods = classify_asset(
        name="moods",
        source=reviews,
        row_key="id",
        prompt="{text}",
        labels=["praise", "complaint"],
        llm="llm",
        model="m",
    )
    tables = DuckDBTables(path=str(tmp_path / "warehouse.duckdb"))
    assert dg.materialize([reviews, moods], resources={"llm": emulator.resource(), "tables": tables}).success
    return tables.query("SELECT label FROM moods ORDER BY id")["label"].to_pylist()


@pytest.mark.parametrize(
    "fault",
    [
        Fault("create", "lost_reply", times=1),
        Fault("content", "cut_short", times=1),
        Fault("content", "gzip"),
        Fault("content", "no_length"),
        Fault("get", "lost_request", times=1),
    ],
    ids=str,
)
def test_a_table_comes_right_and_is_paid_once_over_real_sockets(
    batch_llm_emulator: Emulator, tmp_path: Path, fault: Fault
) -> None:
    batch_llm_emulator.script(fault)
    assert topics(tmp_path, batch_llm_emulator) == ["complaint", "praise", "complaint"]
    bill = batch_llm_emulator.bill()
    assert (bill.batches, bill.rows, bill.times("complaint")) == (1, 2, 1)
    assert not (tmp_path / "emulator" / "server.log").read_text()


def test_a_row_that_goes_wrong_once_is_asked_and_paid_again(batch_llm_emulator: Emulator, tmp_path: Path) -> None:
    batch_llm_emulator.script(Fault("row", "missing", only="praise", times=1))
    assert topics(tmp_path, batch_llm_emulator) == ["complaint", "praise", "complaint"]
    bill = batch_llm_emulator.bill()
    assert bill.most_paid is not None
    assert (bill.most_paid.prompt, bill.most_paid.times, bill.rows) == ("my praise", 2, 3)


def test_bill_and_script_survive_a_kill(batch_llm_emulator: Emulator, tmp_path: Path, client: HttpClient) -> None:
    topics(tmp_path, batch_llm_emulator)
    batch_llm_emulator.script(Fault("list", "busy", seconds=7))
    before = batch_llm_emulator.bill()
    os.kill(ensure_server(tmp_path / "emulator").pid, signal.SIGKILL)
    assert batch_llm_emulator.bill() == before
    with pytest.raises(BusyError) as caught:
        client.get("/batches")
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("name", ["lost_reply", "lost_request", "bad_gateway", "not_json", "empty_reply"])
def test_a_lost_reply_is_lost_on_the_wire(batch_llm_emulator: Emulator, client: HttpClient, name: str) -> None:
    batch_llm_emulator.script(Fault("list", name))
    with pytest.raises(AmbiguousError):
        client.get("/batches")


def test_the_clock_can_be_put_forward(batch_llm_emulator: Emulator, client: HttpClient) -> None:
    batch_llm_emulator.advance(7200)
    offset = client.get("/batches").clock_offset
    assert offset is not None
    assert offset[0] - 2 < 7200 < offset[1] + 2


def test_an_unknown_fault_is_refused_before_anything_starts(batch_llm_emulator: Emulator) -> None:
    with pytest.raises(InputError, match="it has"):
        batch_llm_emulator.script(Fault("row", "nonsense"))


def test_what_it_answers_is_not_taken_for_another_engines_answer(tmp_path: Path) -> None:
    with Emulator(tmp_path / "one", Faults()) as emulator:
        assert emulator.resource().answering("gpt") == "local/emulator/gpt"
    assert LocalBatch(folder=str(tmp_path / "two")).answering("gpt") == "local/all-MiniLM-L6-v2"


def test_it_speaks_another_providers_protocol(tmp_path: Path) -> None:
    with Emulator(tmp_path / "emulator", Faults(speaks="anthropic")) as emulator:
        provider = AnthropicBatch(api_key=emulator.key, base_url=emulator.address).provider()
        path = tmp_path / "rows.jsonl"
        params = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        path.write_text(json.dumps({"custom_id": "t-0", "params": params}) + "\n")
        name = provider.upload(path, path.name)
        batch = provider.create(name, RequestSpec(Operation.CHAT, "m"), "t", lambda: None)
        while not provider.check(batch.id).phase.ended:
            pass
        provider.close()
        assert emulator.bill().times("x") == 1


def test_it_refuses_a_protocol_that_it_does_not_speak(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="The emulator speaks openai, anthropic"),
        Emulator(tmp_path / "emulator", Faults(speaks="klingon")),
    ):
        pass
