"""The providers' own packages as referees: each does a whole round trip against the emulator, and so do we."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import groq
import httpx
import openai
import pytest
import together
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.errors import AmbiguousError
from dagster_batch_llm.resources.providers.azure import AZURE, AzureShape
from dagster_batch_llm.resources.providers.fireworks import FIREWORKS, FireworksJobs
from dagster_batch_llm.resources.providers.gemini import GEMINI, GeminiJobs
from dagster_batch_llm.resources.providers.groq import GROQ, GroqShape
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.mistral import MISTRAL, MistralJobs
from dagster_batch_llm.resources.providers.over_http import HttpProvider
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.providers.protocol import Phase
from dagster_batch_llm.resources.providers.together import TOGETHER, TogetherShape
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..emulated import TOKEN, EmulatedServer, rules
from ..fake_clock import FakeClock
from ..rendered import rendered
from ..served import served

PROMPTS = ["hello", "two\nlines", 'quotes " and ünïcode']
SCHEMA = {
    "type": "object",
    "properties": {"label": {"enum": ["good", "bad"]}, "n": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    "required": ["label", "n"],
    "additionalProperties": False,
}  # fmt: skip
ASKED = RequestSpec(
    Operation.CHAT, "a-model", "Choose.", SCHEMA, {"max_completion_tokens": 50, "temperature": 0, "stop": "x"}
)


@dataclass
class Sdk:
    """What a package is asked to do."""

    upload: Callable[[Path], str]
    create: Callable[[str], str]
    state: Callable[[str], str]
    listed: Callable[[], list[str]]
    results: Callable[[str], bytes]


@dataclass(frozen=True)
class Case:
    """A provider, its package, and how both are pointed at the emulator."""

    profile: Profile
    shape: Callable[..., HttpProvider]
    sdk: Callable[[str, ExitStack], Sdk]
    path: str
    headers: Mapping[str, str] | None = None
    ended: str = "completed"


def _openai_like(client: Any, *, window: str = "24h") -> Sdk:
    chat = "/v1/chat/completions"
    metadata = {"batch_llm_token": "t"}
    content: Callable[[str], Any] = client.files.content

    def created(file_id: str) -> str:
        return client.batches.create(
            input_file_id=file_id, endpoint=chat, completion_window=window, metadata=metadata
        ).id

    return Sdk(
        upload=lambda path: client.files.create(file=path, purpose="batch").id,
        create=created,
        state=lambda name: client.batches.retrieve(name).status,
        listed=lambda: [batch.id for batch in client.batches.list().data],
        results=lambda name: content(client.batches.retrieve(name).output_file_id).read(),
    )


def _groq(address: str, stack: ExitStack) -> Sdk:
    return _openai_like(stack.enter_context(groq.Groq(base_url=address, api_key=TOKEN, max_retries=0)))


def _azure(address: str, stack: ExitStack) -> Sdk:
    client = openai.OpenAI(
        base_url=f"{address}/openai/v1", api_key=TOKEN, max_retries=0, default_headers={"api-key": TOKEN}
    )
    return _openai_like(stack.enter_context(client))


def _together(address: str, stack: ExitStack) -> Sdk:
    client = stack.enter_context(together.Together(base_url=address, api_key=TOKEN, max_retries=0))

    def created(file_id: str) -> str:
        job = client.batches.create(input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h").job
        assert job is not None
        return str(job.id)

    def output(name: str) -> bytes:
        return client.files.content(str(client.batches.retrieve(name).output_file_id)).read()

    return Sdk(
        upload=lambda path: client.files.upload(path, purpose="batch-api", check=False).id,
        create=created,
        state=lambda name: str(client.batches.retrieve(name).status),
        listed=lambda: [str(job.id) for job in client.batches.list()],
        results=output,
    )


def _mistral(address: str, stack: ExitStack) -> Sdk:
    from mistralai.client import Mistral  # noqa: PLC0415 - a second to import

    client = stack.enter_context(Mistral(api_key=TOKEN, server_url=address))

    def uploaded(path: Path) -> str:
        return client.files.upload(file={"file_name": path.name, "content": path.read_bytes()}, purpose="batch").id

    def created(file_id: str) -> str:
        return client.batch.jobs.create(
            input_files=[file_id],
            endpoint="/v1/chat/completions",
            model=ASKED.model,
            metadata={"batch_llm_token": "t"},
            timeout_hours=24,
        ).id

    return Sdk(
        upload=uploaded,
        create=created,
        state=lambda name: str(client.batch.jobs.get(job_id=name).status),
        listed=lambda: [job.id for job in client.batch.jobs.list().data or []],
        results=lambda name: client.files.download(file_id=str(client.batch.jobs.get(job_id=name).output_file)).read(),
    )


def _gemini(address: str, stack: ExitStack) -> Sdk:
    from google import genai  # noqa: PLC0415 - seconds to import

    client = genai.Client(api_key=TOKEN, http_options={"base_url": address, "api_version": "v1beta"})
    stack.callback(client.close)

    def uploaded(path: Path) -> str:
        return str(client.files.upload(file=str(path), config={"mime_type": "application/jsonl"}).name)

    def created(file_id: str) -> str:
        job = client.batches.create(model=ASKED.model, src=file_id, config={"display_name": "t"})
        return str(job.name)

    def output(name: str) -> bytes:
        dest = client.batches.get(name=name).dest
        assert dest is not None
        return client.files.download(file=str(dest.file_name))

    return Sdk(
        upload=uploaded,
        create=created,
        state=lambda name: str(client.batches.get(name=name).state.value),  # pyright: ignore[reportOptionalMemberAccess]
        listed=lambda: [str(job.name) for job in client.batches.list()],
        results=output,
    )


def _fireworks(address: str, stack: ExitStack) -> Sdk:
    from fireworks import Fireworks  # noqa: PLC0415 - a second to import

    client = stack.enter_context(Fireworks(api_key=TOKEN, base_url=address, account_id="acme", max_retries=0))
    jobs, datasets = client.batch_inference_jobs, client.datasets

    def uploaded(path: Path) -> str:
        datasets.create(dataset_id="in-theirs", dataset={"example_count": "3", "user_uploaded": {}})
        datasets.upload("in-theirs", file=path)
        return "in-theirs"

    def created(dataset: str) -> str:
        job = jobs.create(
            batch_inference_job_id="batch-t",
            display_name="t",
            model=ASKED.model,
            input_dataset_id=f"accounts/acme/datasets/{dataset}",
            output_dataset_id="accounts/acme/datasets/out-t",
        )
        return str(job.name).rpartition("/")[2]

    def output(name: str) -> bytes:
        dataset = str(jobs.get(name).output_dataset_id).rpartition("/")[2]
        (address,) = (datasets.get_download_endpoint(dataset).filename_to_signed_urls or {}).values()
        return httpx.get(address).content

    return Sdk(
        upload=uploaded,
        create=created,
        state=lambda name: str(jobs.get(name).state),
        listed=lambda: [str(job.name) for job in jobs.list()],
        results=output,
    )


CASES = {
    "groq": Case(GROQ, GroqShape, _groq, "/openai/v1"),
    "azure": Case(AZURE, AzureShape, _azure, "/openai/v1", {"api-key": TOKEN}),
    "together": Case(TOGETHER, TogetherShape, _together, "/v1", ended="COMPLETED"),
    "fireworks": Case(FIREWORKS, FireworksJobs, _fireworks, "", ended="JOB_STATE_COMPLETED"),
    "mistral": Case(MISTRAL, MistralJobs, _mistral, "/v1", ended="SUCCESS"),
    "gemini": Case(GEMINI, GeminiJobs, _gemini, "", {"x-goog-api-key": TOKEN}, ended="JOB_STATE_SUCCEEDED"),
}


@dataclass
class Round:
    """Both at one server."""

    case: Case
    asked: list[httpx.Request]
    ours: Any
    theirs: Sdk
    lines: Path

    def creates(self) -> list[Any]:
        """Method, path and body of each create."""
        found = [one for one in self.asked if one.method == "POST" and "batch" in one.url.path.lower() and one.content]
        return [(one.url.raw_path, json.loads(one.content)) for one in found]


@pytest.fixture(params=CASES)
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Round]:
    case = CASES[request.param]
    clock = FakeClock()
    server = EmulatedServer(tmp_path / "emulator", clock, rules(speaks=request.param))
    asked: list[httpx.Request] = []

    def handle(given: httpx.Request) -> httpx.Response:
        given.read()
        asked.append(given)
        return server.handle(given)

    lines = rendered(tmp_path / "0123abc.jsonl", case.profile, ASKED, PROMPTS)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", {k: v for k, v in os.environ.items() if "PROXY" not in k.upper()})
        address = stack.enter_context(served(handle))
        http = HttpClient(name="x", base_url=f"{address}{case.path}", api_key=TOKEN, headers=case.headers, clock=clock)
        ours = case.shape(case.profile, http, account="acme", clock=clock)
        stack.callback(ours.close)
        yield Round(case, asked, ours, case.sdk(address, stack), lines)


def test_the_same_create_leaves(both: Round) -> None:
    file_id = both.theirs.upload(both.lines)
    both.theirs.create(file_id)
    with suppress(AmbiguousError):  # where names are ours to choose, this one is taken
        both.ours.create(file_id, ASKED, "t", lambda: None)
    theirs, ours = both.creates()
    assert ours == theirs


def test_what_one_has_made_the_other_sees_and_reads_the_same(both: Round, tmp_path: Path) -> None:
    theirs = both.theirs.create(both.theirs.upload(both.lines))
    ours = both.ours.create(both.ours.upload(both.lines, both.lines.name), ASKED, "u", lambda: None)
    listed = [name.rpartition("/")[2] for name in both.theirs.listed()]
    assert [batch.id for batch in both.ours.list(0.0).batches] == listed == [ours.id, theirs.rpartition("/")[2]]
    prefix = theirs.removesuffix(listed[1])
    for name in listed:
        assert both.theirs.state(f"{prefix}{name}") == both.case.ended
        seen = both.ours.check(name)
        assert seen.phase is Phase.COMPLETED
        (path,) = both.ours.fetch(seen, tmp_path / name)
        assert path.read_bytes() == both.theirs.results(f"{prefix}{name}")
        wire = both.case.profile.wire
        engine = connect()
        engine.execute(f"CREATE TEMP VIEW lines AS SELECT json AS line FROM read_ndjson_objects('{path}')")
        found = rows(engine, f"SELECT custom_id, outcome FROM ({wire.result_sql(ASKED)}) ORDER BY 1")
        assert found == [(f"t-{n}", "ok") for n in range(len(PROMPTS))]
        assert both.ours.first_custom_id(seen) == "t-0"


def test_what_they_upload_is_what_we_upload(both: Round) -> None:
    for file_id in (both.theirs.upload(both.lines), both.ours.upload(both.lines, both.lines.name)):
        assert both.ours.has_file(file_id)
