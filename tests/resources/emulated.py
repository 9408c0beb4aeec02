"""The emulator in the test's own process: real server, worker, client and machine, under a clock that tests move."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
from botocore.credentials import Credentials
from dagster_batch_llm.resources.clock import Clock
from dagster_batch_llm.resources.errors import ProviderError
from dagster_batch_llm.resources.ledger import AttemptState, Ledger
from dagster_batch_llm.resources.local.emulator import Fault, Faults
from dagster_batch_llm.resources.local.emulator.conduct import EmulatedConduct
from dagster_batch_llm.resources.local.emulator.dialects import dialect_of
from dagster_batch_llm.resources.local.emulator.layer import AheadClock, FaultLayer, control_routes
from dagster_batch_llm.resources.local.emulator.memory import Memory
from dagster_batch_llm.resources.local.emulator.sample import SampleEngine
from dagster_batch_llm.resources.local.server import Activity, Parts, make_app
from dagster_batch_llm.resources.local.store import Store
from dagster_batch_llm.resources.local.worker import Worker
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers.anthropic import ANTHROPIC, MessageBatches
from dagster_batch_llm.resources.providers.aws import S3, Signer
from dagster_batch_llm.resources.providers.azure import AZURE, AzureShape
from dagster_batch_llm.resources.providers.bedrock import BEDROCK, BedrockJobs
from dagster_batch_llm.resources.providers.cohere import COHERE, CohereBatches
from dagster_batch_llm.resources.providers.fireworks import FIREWORKS, FireworksJobs
from dagster_batch_llm.resources.providers.gemini import GEMINI, GeminiJobs
from dagster_batch_llm.resources.providers.google_cloud import CloudStorage
from dagster_batch_llm.resources.providers.groq import GROQ, GroqShape
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.mistral import MISTRAL, MistralJobs
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape
from dagster_batch_llm.resources.providers.openrouter import OPENROUTER, OpenRouterBatches
from dagster_batch_llm.resources.providers.over_http import HttpProvider
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.providers.together import TOGETHER, TogetherShape
from dagster_batch_llm.resources.providers.vertex import VERTEX, VertexJobs
from dagster_batch_llm.resources.providers.voyage import VOYAGE, VoyageShape
from dagster_batch_llm.resources.providers.xai import XAI, XaiBatches
from dagster_batch_llm.resources.request import Operation, RequestSpec
from starlette.types import Message

from .world import PROMPTS, SPEC, World

TOKEN = "sk-test"
AWS = Credentials(TOKEN, "secret")
ENDED = {AttemptState.ANSWERED, AttemptState.REFUSED, AttemptState.VOID}
PATIENT = replace(OPENAI, poll_seconds=(15.0, 60.0))


@dataclass(frozen=True)
class Spoken:
    """How a provider is spoken to: its facts and client, the path of its address, and the key's header."""

    profile: Profile
    provider: Callable[..., HttpProvider]
    path: str = ""
    headers: Mapping[str, str] | None = None
    spec: RequestSpec = SPEC
    auth: Callable[[httpx.Request], httpx.Request] | None = None
    bucket: str = ""
    """The path of the address of what it keeps its files in."""


def on_aws(profile: Profile, http: HttpClient, *, bucket: HttpClient, **more: Any) -> BedrockJobs:
    return BedrockJobs(profile, http, bucket=S3(bucket), folder="s3://bucket/folder", role=ROLE, **more)


def on_google(profile: Profile, http: HttpClient, *, bucket: HttpClient, **more: Any) -> VertexJobs:
    place, files = "projects/p-1/locations/us-central1", CloudStorage(bucket)
    return VertexJobs(profile, http, bucket=files, folder="gs://bucket/folder", place=place, **more)


ROLE = "arn:aws:iam::123456789012:role/batches"
VECTORS = RequestSpec(operation=Operation.EMBEDDING, model="m")

SPOKEN = {
    "openai": Spoken(PATIENT, OpenAIShape, "/v1"),
    "anthropic": Spoken(ANTHROPIC, MessageBatches, "", {"x-api-key": TOKEN}),
    "azure": Spoken(AZURE, AzureShape, "/openai/v1", {"api-key": TOKEN}),
    # What a job has at least is a quota, and more than a test asks.
    "bedrock": Spoken(
        replace(BEDROCK, min_rows=1), on_aws, headers={}, auth=Signer("bedrock", "us-east-1", AWS), bucket="/s3"
    ),
    "cohere": Spoken(COHERE, CohereBatches),
    "fireworks": Spoken(FIREWORKS, FireworksJobs),
    "gemini": Spoken(GEMINI, GeminiJobs, "", {"x-goog-api-key": TOKEN}),
    "groq": Spoken(GROQ, GroqShape, "/openai/v1"),
    "mistral": Spoken(MISTRAL, MistralJobs, "/v1"),
    "together": Spoken(TOGETHER, TogetherShape, "/v1"),
    "openrouter": Spoken(OPENROUTER, OpenRouterBatches, "/api/v1"),
    "xai": Spoken(XAI, XaiBatches, "/v1"),
    "vertex": Spoken(VERTEX, on_google, bucket="/"),
    "voyage": Spoken(VOYAGE, VoyageShape, "/v1", spec=VECTORS),
}


class EmulatedServer:
    """The whole emulator but for its process and its sockets; it works whenever it is spoken to."""

    def __init__(self, folder: Path, clock: Clock, faults: Faults) -> None:
        folder.mkdir()
        self.memory = Memory(folder, faults)
        ahead = AheadClock(clock, self.memory)
        self.store = Store(folder, ahead)
        conduct, engine = EmulatedConduct(self.memory), SampleEngine()
        self.worker = Worker(self.store, engine, ahead, chunk_rows=2, conduct=conduct)
        more = control_routes(self.memory, self.store)
        speaks = dialect_of(faults.speaks)
        parts = Parts(self.store, engine, self.worker, Activity(ahead), ahead, TOKEN, {}, conduct, more, speaks)
        place = parts.dialect.place if parts.dialect else None
        self.app = FaultLayer(make_app(parts), self.memory, ahead, parts.admits, place)
        self.seen: list[str] = []
        self._lock = threading.RLock()

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            self.work()
            self.seen.append(f"{request.method} {request.url.path}")
            return asyncio.run(self._asked(request))

    def work(self) -> None:
        for _ in range(1000):
            if not self.worker.run_once():
                return
        raise AssertionError("the worker never rests")

    @property
    def bill(self) -> dict[str, int]:
        return {str(paid["prompt"]): int(str(paid["times"])) for paid in self.memory.bill()}

    async def _asked(self, request: httpx.Request) -> httpx.Response:
        scope: dict[str, Any] = {
            "type": "http",
            "method": request.method,
            "path": request.url.path,
            "raw_path": request.url.raw_path,
            "query_string": request.url.query,
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "scheme": "https",
            "server": ("fake.test", 443),
            "client": ("127.0.0.1", 1),
            "root_path": "",
            "http_version": "1.1",
        }
        sent: list[Message] = []
        given = [{"type": "http.request", "body": request.read(), "more_body": False}]

        async def receive() -> Message:
            if not given:
                await asyncio.Event().wait()
            return given.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await self.app(scope, receive, send)
        except ConnectionResetError as error:
            raise httpx.ReadError("connection reset by peer", request=request) from error
        body = b"".join(message.get("body", b"") for message in sent)
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)


@dataclass
class EmulatedWorld(World):
    """A small installation over the emulator; what it asks is answered with the prompt itself."""

    faults: Faults = field(default_factory=Faults)
    said: list[ProviderError] = field(default_factory=list[ProviderError])

    def __post_init__(self) -> None:
        spoken = SPOKEN[self.faults.speaks]
        self.profile, self.spec = spoken.profile, spoken.spec
        self.emulator = EmulatedServer(self.folder / "emulator", self.clock, self.faults)
        self.ledger = Ledger(self.folder, self.clock)

    def provider(self) -> Any:
        spoken = SPOKEN[self.faults.speaks]
        http, files = self.speaking(spoken.path), {"bucket": self.speaking(spoken.bucket)} if spoken.bucket else {}
        return spoken.provider(self.profile, http, account="acme", clock=self.clock, **files)

    def speaking(self, path: str) -> HttpClient:
        spoken = SPOKEN[self.faults.speaks]
        return HttpClient(
            name=self.profile.name,
            base_url=f"https://fake.test{path}",
            api_key=TOKEN,
            clock=self.clock,
            transport=self.emulator.transport(),
            headers=spoken.headers,
            auth=spoken.auth,
        )

    def converge(
        self, prompts: Sequence[str] = PROMPTS, *, within: float = 4 * 3600.0, step: float = 15.0
    ) -> AttemptState:
        """Ask once, and let two workers in turn do what runs do, until it is through or the time is up."""
        attempt = self.ask(prompts)
        workers = [self.machine("first"), self.machine("second")]
        until = self.clock.now() + within
        for turn in range(100_000):
            state = self.state(attempt)
            if state in ENDED or self.clock.now() > until:
                return state
            machine: BatchMachine = workers[turn % 2]
            try:
                machine.step(self.now(attempt))
                machine.poll("llm")
            except ProviderError as error:
                self.said.append(error)
            self.clock.sleep(step)
        raise AssertionError("never")

    def kinds(self) -> Counter[str]:
        """How the rows went."""
        return Counter(outcome for _, outcome, _ in self.outcomes())


def all_ok() -> dict[str, int]:
    return {"ok": len(PROMPTS)}


def rules(*faults: Fault, speaks: str = "openai") -> Faults:
    return Faults(faults, seed=1, speaks=speaks)
