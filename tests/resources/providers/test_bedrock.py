from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from dagster_batch_llm.resources.duck import connect, literal, rows
from dagster_batch_llm.resources.errors import (
    AmbiguousError,
    BusyError,
    InputError,
    MissingExtraError,
    MissingSecretError,
    RefusedError,
    UserError,
)
from dagster_batch_llm.resources.providers.aws import S3, Signer
from dagster_batch_llm.resources.providers.bedrock import BEDROCK, INVOCATIONS, BedrockBatch, BedrockJobs
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai_shape import TOKEN_KEY
from dagster_batch_llm.resources.providers.protocol import Phase
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..fake_clock import FakeClock

ROLE = "arn:aws:iam::123456789012:role/batches"
CHAT = RequestSpec(operation=Operation.CHAT, model="amazon.nova-lite-v1:0")
GOOD: dict[str, Any] = {
    "region": "eu-central-1",
    "role_arn": ROLE,
    "s3_folder": "s3://bucket/folder/",
    "access_key_id": "AKIA1",
    "secret_access_key": "secret",
}


def resource(**change: Any) -> BedrockBatch:
    return BedrockBatch(**{**GOOD, **change})


Answer = Callable[[httpx.Request], httpx.Response]


def jobs(answer: Answer) -> BedrockJobs:
    http, files = (
        HttpClient(
            name="bedrock",
            base_url=f"https://{host}.test",
            api_key="",
            headers={},
            auth=Signer(host, "us-east-1", Credentials("AKIA1", "secret", "session")),
            transport=httpx.MockTransport(answer),
            clock=FakeClock(),
            attempts=1,
        )
        for host in ("bedrock", "s3")
    )
    return BedrockJobs(
        BEDROCK, http, bucket=S3(files), folder="s3://bucket/folder", account="a", role=ROLE, clock=FakeClock()
    )


def refused(status: int, kind: str) -> Answer:
    headers = {"x-amzn-errortype": f"{kind}:http://internal.amazon.com/"}
    return lambda request: httpx.Response(status, json={"message": "no"}, headers=headers)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"region": "Frankfurt"}, UserError, "region is 'Frankfurt'"),
        ({"role_arn": "batches"}, UserError, "role_arn is 'batches'"),
        ({"s3_folder": "bucket/folder"}, UserError, "s3_folder is 'bucket/folder'"),
        ({"s3_folder": "s3://bucket/../other"}, UserError, "s3_folder"),
        ({"s3_folder": "s3://bucket/day=1"}, UserError, "s3_folder"),
        ({"invocation": "Invoke"}, UserError, "'Converse' or 'InvokeModel'"),
        ({"timeout_hours": 12}, UserError, "from 24 to 168"),
        ({"secret_access_key": " "}, MissingSecretError, "go together"),
        ({"access_key_id": "", "secret_access_key": "", "aws_profile": "nobody"}, UserError, "nobody"),
    ],
)
def test_what_can_not_work_is_said_before_anything_is_sent(
    change: dict[str, Any], error: type[UserError], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        resource(**change).provider()
    assert "Nothing was sent" in raised.value.message


def test_credentials_that_are_nowhere_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(MissingSecretError, match="there are no AWS credentials"):
        resource(access_key_id="", secret_access_key="").provider()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    resource(access_key_id="", secret_access_key="").provider().close()


def test_without_botocore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.credentials", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dagster-batch-llm\[bedrock\]'"):
        resource().provider()


def test_an_account_is_the_roles_in_its_region() -> None:
    provider = resource(timeout_hours=48, max_rows_per_batch=500).provider()
    assert provider.account == "123456789012/eu-central-1"
    assert (provider.profile.windows, provider.profile.max_rows, provider.profile.min_rows) == (("48h",), 500, 100)
    provider.close()


def test_too_few_requests_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n" * 99)
    with pytest.raises(RefusedError, match="at least 100 requests, this one has 99"):
        jobs(lambda request: pytest.fail("asked")).upload(path, path.name)


def test_every_request_is_signed_with_the_hash_of_its_body() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        seen.append(request)
        return httpx.Response(200, json={"jobArn": "arn:aws:bedrock:us-east-1:1:model-invocation-job/abc"})

    batch = jobs(answer).create("s3://bucket/in.jsonl", CHAT, "00ff", lambda: None)
    assert (batch.id, batch.phase) == ("abc", Phase.QUEUED)
    (request,) = seen
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIA1/")
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token" in request.headers["authorization"]
    assert request.headers["x-amz-content-sha256"] == hashlib.sha256(request.content).hexdigest()


def test_a_full_queue_is_not_a_refusal_and_a_conflict_may_be_our_own_batch() -> None:
    with pytest.raises(BusyError):
        jobs(refused(400, "ServiceQuotaExceededException")).create("s3://b/i", CHAT, "00ff", lambda: None)
    with pytest.raises(AmbiguousError):
        jobs(refused(400, "ConflictException")).create("s3://b/i", CHAT, "00ff", lambda: None)
    with pytest.raises(RefusedError) as error:
        jobs(refused(400, "ValidationException")).create("s3://b/i", CHAT, "00ff", lambda: None)
    assert error.value.code == "ValidationException"


@pytest.mark.parametrize(
    ("service", "signer", "path", "params"),
    [
        ("s3", S3SigV4Auth, "/bucket", {"list-type": 2, "prefix": "a/b=c/", "continuation-token": "1/a+b=="}),
        ("s3", S3SigV4Auth, "/bucket/folder/in.put_1-2.jsonl", {}),
        ("bedrock", SigV4Auth, "/model-invocation-job/arn%3Aaws%3Abedrock", {"nextToken": "a+b/c=="}),
    ],
)
def test_the_signature_is_that_of_what_is_sent(
    service: str, signer: Any, path: str, params: dict[str, str | int]
) -> None:
    """Computed once more, as the service does it: from the request as it arrives, and the headers that it names."""
    seen: list[httpx.Request] = []
    http = HttpClient(
        name=service,
        base_url="https://host.test:8443",
        api_key="",
        auth=Signer(service, "us-east-1", Credentials("AKIA1", "secret", "session")),
        transport=httpx.MockTransport(lambda request: seen.append(request) or httpx.Response(200, json={})),
    )
    http.get(path, params)
    arrived = seen[0]
    given = arrived.headers["authorization"]
    names = re.findall("SignedHeaders=([^,]+)", given)[0].split(";")
    asked: Any = AWSRequest("GET", str(arrived.url), {name: arrived.headers[name] for name in names})
    asked.context["timestamp"] = arrived.headers["x-amz-date"]
    service_side = signer(ReadOnlyCredentials("AKIA1", "secret", "session"), service, "us-east-1")
    text = service_side.string_to_sign(asked, service_side.canonical_request(asked))
    assert given.endswith(f"Signature={service_side.signature(text, asked)}")


@pytest.mark.parametrize(
    ("status", "phase"),
    [
        ("Scheduled", Phase.QUEUED),
        ("Stopping", Phase.RUNNING),
        ("PartiallyCompleted", Phase.EXPIRED),
        ("Stopped", Phase.CANCELLED),
        ("Resting", Phase.UNKNOWN),
    ],
)
def test_a_job_is_read_from_what_it_says(status: str, phase: Phase) -> None:
    job = {
        "jobArn": "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job/abcdefghij12",
        "jobName": "batch-llm-00ff",
        "status": status,
        "submitTime": "2027-01-15T08:00:00Z",
        "inputDataConfig": {"s3InputDataConfig": {"s3Uri": "s3://bucket/in.jsonl"}},
        "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": "s3://bucket/out/"}},
    }
    batch = jobs(lambda request: pytest.fail("asked")).parse(job)
    assert (batch.id, batch.phase, batch.created_at) == ("abcdefghij12", phase, 1_800_000_000.0)
    assert (batch.input_file_id, batch.metadata) == ("s3://bucket/in.jsonl", {TOKEN_KEY: "00ff"})
    assert batch.result_files == (("s3://bucket/out/abcdefghij12/",) if phase.ended else ())


def test_a_long_folder_is_listed_to_its_end() -> None:
    pages = {
        None: "<Key>out/a/x%2B.jsonl.out</Key><NextContinuationToken>a+b/c=</NextContinuationToken>",
        "a+b/c=": "<Key>out/a/b&amp;c.jsonl.out</Key>",
    }

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/bucket"
        return httpx.Response(
            200, text=f"<ListBucketResult>{pages[request.url.params.get('continuation-token')]}</ListBucketResult>"
        )

    http = HttpClient(name="s3", base_url="https://s3.test", api_key="", transport=httpx.MockTransport(answer))
    assert S3(http).below("s3://bucket/out/a/") == [
        "s3://bucket/out/a/x%2B.jsonl.out",
        "s3://bucket/out/a/b&c.jsonl.out",
    ]


def read(line: str, spec: RequestSpec, invocation: str) -> tuple[Any, ...]:
    engine = connect()
    engine.execute(f"CREATE TEMP TABLE lines AS SELECT {literal(line)}::JSON AS line")
    wire = INVOCATIONS[invocation].wire
    columns = "outcome, answer, reason, input_tokens, output_tokens"
    return rows(engine, f"SELECT {columns} FROM ({wire.result_sql(spec)})")[0]


def test_a_tools_input_is_claudes_answer() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    spec = RequestSpec(operation=Operation.CHAT, model="anthropic.claude-sonnet-4", schema=schema)
    line = """{"recordId": "a-1", "modelInput": {}, "modelOutput": {"content": [
        {"type": "text", "text": "Here."}, {"type": "tool_use", "name": "answer", "input": {"n": 3}}],
        "stop_reason": "tool_use", "usage": {"input_tokens": 5, "output_tokens": 2}}}"""
    assert read(line, spec, "InvokeModel") == ("ok", '{"n":3}', None, 5, 2)


@pytest.mark.parametrize("invocation", sorted(INVOCATIONS))
def test_a_row_that_failed_says_why(invocation: str) -> None:
    line = '{"recordId": "a-1", "modelInput": {}, "error": {"errorCode": 400, "errorMessage": "bad request"}}'
    assert read(line, CHAT, invocation) == ("refused", None, "400: bad request", None, None)


def test_only_claude_is_asked_in_claudes_words() -> None:
    with pytest.raises(InputError, match="invocation='Converse'"):
        INVOCATIONS["InvokeModel"].line_parts(CHAT)
