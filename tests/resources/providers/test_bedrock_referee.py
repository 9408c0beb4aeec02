"""boto3 as referee: it asks the same of the same server, and reads the same from it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.local.emulator import Fault, Faults
from dagster_batch_llm.resources.providers.bedrock import INVOCATIONS, BedrockBatch, BedrockJobs
from dagster_batch_llm.resources.providers.protocol import Batch, Phase
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..emulated import ROLE, TOKEN, EmulatedServer
from ..fake_clock import FakeClock
from ..rendered import rendered
from ..served import served

SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
CHAT = RequestSpec(operation=Operation.CHAT, model="anthropic.claude-x", instruction="Be brief.", schema=SCHEMA)
PROMPTS = ["hello", "two\nlines", 'quotes " and ünïcode']


@pytest.fixture
def emulator(tmp_path: Path) -> EmulatedServer:
    return EmulatedServer(tmp_path / "emulator", FakeClock(), Faults(speaks="bedrock"))


@pytest.fixture
def address(emulator: EmulatedServer) -> Iterator[str]:
    with served(emulator.handle) as address:
        yield address


@pytest.fixture(params=sorted(INVOCATIONS))
def invocation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def ours(address: str, invocation: str) -> Iterator[BedrockJobs]:
    provider = BedrockBatch(
        region="us-east-1",
        role_arn=ROLE,
        s3_folder="s3://bucket/folder",
        access_key_id=TOKEN,
        secret_access_key="secret",
        invocation=invocation,
        min_rows_per_batch=1,
        base_url=address,
        s3_url=f"{address}/s3",
    ).provider()
    assert isinstance(provider, BedrockJobs)
    yield provider
    provider.close()


def client(service: str, address: str) -> Any:
    keys = {"aws_access_key_id": TOKEN, "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    config = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1})
    make: Any = getattr(boto3, "client")  # noqa: B009 - its types are of no use
    return make(service, endpoint_url=address, config=config, **keys)


@pytest.fixture
def theirs(address: str) -> Iterator[Any]:
    found = client("bedrock", address)
    yield found
    found.close()


@pytest.fixture
def bucket(address: str) -> Iterator[Any]:
    found = client("s3", f"{address}/s3")
    yield found
    found.close()


@pytest.fixture
def lines(tmp_path: Path, invocation: str) -> Path:
    """A request file as it is rendered."""
    return rendered(tmp_path / "rows.jsonl", INVOCATIONS[invocation], CHAT, PROMPTS)


def made(ours: BedrockJobs, lines: Path, token: str = "00ff") -> Batch:
    return ours.create(ours.upload(lines, lines.name), CHAT, token, lambda: None)


def plain(job: dict[str, Any]) -> Any:
    """What boto3 has read, as it came."""
    return json.loads(json.dumps(job, default=lambda moment: moment.isoformat()))


def test_they_read_the_file_that_we_wrote_and_we_the_one_that_they_wrote(
    ours: BedrockJobs, bucket: Any, lines: Path
) -> None:
    key = ours.upload(lines, lines.name).removeprefix("s3://bucket/")
    assert [one["Key"] for one in bucket.list_objects_v2(Bucket="bucket", Prefix="folder/")["Contents"]] == [key]
    assert ours.has_file(f"s3://bucket/{key}")
    ours.delete_file(f"s3://bucket/{key}")
    assert not ours.has_file(f"s3://bucket/{key}")
    assert "Contents" not in bucket.list_objects_v2(Bucket="bucket", Prefix="folder/")


def test_they_see_the_jobs_that_we_see(ours: BedrockJobs, theirs: Any, lines: Path) -> None:
    ids = [made(ours, lines, f"00f{n}").id for n in range(3)]
    for name in ids:
        seen = plain(theirs.get_model_invocation_job(jobIdentifier=name))
        assert ours.check(name) == ours.parse(seen)
        assert ours.check(name).phase is Phase.COMPLETED
        assert plain(theirs.get_model_invocation_job(jobIdentifier=seen["jobArn"]))["jobArn"] == seen["jobArn"]
    pages = theirs.get_paginator("list_model_invocation_jobs").paginate(PaginationConfig={"PageSize": 2})
    listed = [ours.parse(plain(job)) for page in pages for job in page["invocationJobSummaries"]]
    assert list(ours.list(0.0).batches) == listed
    assert sorted(batch.id for batch in listed) == sorted(ids)


def test_the_same_create_is_the_same_job(ours: BedrockJobs, theirs: Any, lines: Path) -> None:
    job = made(ours, lines)
    seen = theirs.get_model_invocation_job(jobIdentifier=job.id)
    names = ("jobName", "roleArn", "clientRequestToken", "modelId", "inputDataConfig", "outputDataConfig")
    again = theirs.create_model_invocation_job(**{name: seen[name] for name in names})
    assert again["jobArn"] == seen["jobArn"]
    assert len(ours.list(0.0).batches) == 1


def test_what_one_stops_is_cancelled_to_the_other(
    emulator: EmulatedServer, ours: BedrockJobs, theirs: Any, lines: Path
) -> None:
    emulator.memory.script(Faults([Fault("batch", "stuck")], speaks="bedrock"))
    one, other = made(ours, lines), made(ours, lines, "00fe")
    theirs.stop_model_invocation_job(jobIdentifier=one.id)
    ours.cancel(other.id)
    assert ours.check(one.id).phase is Phase.CANCELLED
    assert theirs.get_model_invocation_job(jobIdentifier=other.id)["status"] == "Stopped"
    ours.cancel(other.id)  # one that has ended is fine


def test_they_read_the_results_that_we_read(
    ours: BedrockJobs, bucket: Any, lines: Path, tmp_path: Path, invocation: str
) -> None:
    job = made(ours, lines)
    (path,) = ours.fetch(ours.check(job.id), tmp_path / "results")
    page = bucket.list_objects_v2(Bucket="bucket", Prefix=f"folder/results/00ff/{job.id}/")
    (key,) = [one["Key"] for one in page["Contents"] if one["Key"].endswith(".jsonl.out")]
    assert bucket.get_object(Bucket="bucket", Key=key)["Body"].read() == path.read_bytes()
    engine = connect()
    engine.execute(f"CREATE TEMP VIEW lines AS SELECT json AS line FROM read_ndjson_objects('{path}')")
    said = INVOCATIONS[invocation].wire.result_sql(replace(CHAT, schema=SCHEMA))
    found = rows(engine, f"SELECT custom_id, outcome, answer, input_tokens FROM ({said}) ORDER BY custom_id")
    answers = [json.loads(answer)["answer"] for _, _, answer, _ in found]
    assert [(name, outcome) for name, outcome, _, _ in found] == [(f"t-{n}", "ok") for n in range(3)]
    assert all(answers)
    assert all(tokens > 0 for *_, tokens in found)
