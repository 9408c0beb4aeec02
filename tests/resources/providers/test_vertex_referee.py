"""The google-genai package in its Vertex mode as referee: it asks the same of the same server, and reads the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.local.emulator import Fault, Faults
from dagster_batch_llm.resources.providers.google_cloud import Bearer, CloudStorage
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.protocol import Batch, Phase
from dagster_batch_llm.resources.providers.vertex import VERTEX, VertexJobs
from dagster_batch_llm.resources.request import Operation, RequestSpec
from google.oauth2.credentials import Credentials

from ..emulated import TOKEN, EmulatedServer
from ..fake_clock import FakeClock
from ..rendered import rendered
from ..served import served

CHAT = RequestSpec(operation=Operation.CHAT, model="gemini-2.5-flash", instruction="Be brief.")
PROMPTS = ["hello", "two\nlines", 'quotes " and ünïcode']
PLACE = "projects/p-1/locations/us-central1"
FOLDER = "gs://bucket/folder"


@pytest.fixture
def emulator(tmp_path: Path) -> EmulatedServer:
    return EmulatedServer(tmp_path / "emulator", FakeClock(), Faults(speaks="vertex"))


@pytest.fixture
def address(emulator: EmulatedServer) -> Iterator[str]:
    with served(emulator.handle) as address:
        yield address


@pytest.fixture
def credentials() -> Any:
    make: Any = Credentials
    return make(token=TOKEN)


@pytest.fixture
def ours(address: str, credentials: Any) -> Iterator[VertexJobs]:
    http, files = (
        HttpClient(name="vertex", base_url=address, api_key="", headers={}, auth=Bearer(credentials)) for _ in range(2)
    )
    provider = VertexJobs(VERTEX, http, bucket=CloudStorage(files), folder=FOLDER, account=PLACE, place=PLACE)
    yield provider
    provider.close()


@pytest.fixture
def theirs(address: str, credentials: Any) -> Iterator[Any]:
    from google import genai  # noqa: PLC0415 - seconds to import

    make: Any = genai.Client
    client = make(
        vertexai=True,
        project="p-1",
        location="us-central1",
        credentials=credentials,
        http_options={"base_url": address, "api_version": "v1"},
    )
    yield client
    client.close()


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    """A request file as it is rendered."""
    return rendered(tmp_path / "rows.jsonl", VERTEX, CHAT, PROMPTS)


def made(ours: VertexJobs, lines: Path, token: str = "00ff") -> Batch:
    return ours.create(ours.upload(lines, lines.name), CHAT, token, lambda: None)


def whole(name: str) -> str:
    """A job's name as they want it."""
    return f"{PLACE}/batchPredictionJobs/{name}"


def told(job: Any) -> dict[str, Any]:
    """What both say of a job."""
    stats, state = job.completion_stats, str(job.state.value).removeprefix("JOB_STATE_").lower()
    return {
        "id": job.name.rpartition("/")[2],
        "status": state,
        "created_at": job.create_time.timestamp(),
        "input_file_id": job.src.gcs_uri[0],
        "token": job.display_name,
        "completed": stats.successful_count,
        "folder": f"{job.dest.gcs_uri}/",
    }


def seen(batch: Batch) -> dict[str, Any]:
    return {
        "id": batch.id,
        "status": batch.status,
        "created_at": batch.created_at,
        "input_file_id": batch.input_file_id,
        "token": next(iter(batch.metadata.values())),
        "completed": batch.completed,
        "folder": batch.result_files[0],
    }


def test_they_make_what_we_make(ours: VertexJobs, theirs: Any, lines: Path) -> None:
    address = ours.upload(lines, lines.name)
    dest = f"{FOLDER}/results/00ff"
    job = theirs.batches.create(model=CHAT.model, src=address, config={"display_name": "00ff", "dest": dest})
    mine = ours.create(address, CHAT, "00ff", lambda: None)
    (first, second) = (ours.check(name) for name in (mine.id, job.name.rpartition("/")[2]))
    assert {**seen(first), "id": ""} == {**seen(second), "id": ""}
    assert theirs.batches.get(name=whole(mine.id)).model == theirs.batches.get(name=job.name).model


def test_they_see_the_jobs_that_we_see(ours: VertexJobs, theirs: Any, lines: Path) -> None:
    for number in range(3):
        made(ours, lines, f"00f{number}")
    listed = [told(job) for job in theirs.batches.list(config={"page_size": 2})]
    assert [seen(batch) for batch in ours.list(0.0).batches] == listed
    assert [seen(ours.check(job["id"])) for job in listed] == listed
    assert all(job["status"] == "succeeded" and job["completed"] == len(PROMPTS) for job in listed)


def test_what_one_cancels_is_cancelled_to_the_other(
    emulator: EmulatedServer, ours: VertexJobs, theirs: Any, lines: Path
) -> None:
    emulator.memory.script(Faults([Fault("batch", "stuck")], speaks="vertex"))
    one, other = made(ours, lines), made(ours, lines, "00fe")
    theirs.batches.cancel(name=whole(one.id))
    ours.cancel(other.id)
    assert ours.check(one.id).phase is Phase.CANCELLED
    assert theirs.batches.get(name=whole(other.id)).state.value == "JOB_STATE_CANCELLED"
    ours.cancel(other.id)  # one that has ended is fine


def test_they_read_the_replies_that_we_read(ours: VertexJobs, theirs: Any, lines: Path, tmp_path: Path) -> None:
    from google.genai.types import GenerateContentResponse  # noqa: PLC0415 - seconds to import

    (path,) = ours.fetch(ours.check(made(ours, lines).id), tmp_path / "results")
    read: list[Any] = []
    for line in path.read_text().splitlines():
        row = json.loads(line)
        reply = GenerateContentResponse.model_validate(row["response"])
        usage: Any = reply.usage_metadata
        read.append((row["custom_id"], reply.text, usage.prompt_token_count, usage.candidates_token_count))
    engine = connect()
    engine.execute(f"CREATE TEMP VIEW lines AS SELECT json AS line FROM read_ndjson_objects('{path}')")
    said = VERTEX.wire.result_sql(CHAT)
    assert rows(engine, f"SELECT custom_id, answer, input_tokens, output_tokens FROM ({said})") == read


def test_a_file_is_there_until_it_is_deleted(ours: VertexJobs, lines: Path) -> None:
    address = ours.upload(lines, lines.name)
    assert ours.has_file(address)
    ours.delete_file(address)
    ours.delete_file(address)
    assert not ours.has_file(address)
