"""A batch provider in memory: it speaks `BatchProvider`, answers by a rule, and counts what it was asked.

A test makes a `FakeServer`, which is the account, and gives assets its `resource()`. Answers come out in reverse
order, in OpenAI's result lines, so nothing that is tested with it may depend on the order of rows.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dagster_batch_llm.resources import BatchResource
from dagster_batch_llm.resources.errors import RefusedError
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.providers.protocol import TOKEN_KEY, Batch, BatchProvider, Listing, Phase, Problem
from dagster_batch_llm.resources.request import RequestSpec

Rule = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""(prompt, request body) → a result line without its custom_id."""

SERVERS: dict[str, FakeServer] = {}
"""Dagster builds a resource anew for every run, so that the server behind it is found by its name."""

PROFILE = Profile(name="fake", poll_seconds=(0.0, 0.0), revocable=True, listing_lag=0.0, settle=0.0, answers_late=0.0)


def answered(content: str | None, *, finish: str = "stop", refusal: str | None = None) -> dict[str, Any]:
    """A chat completion with this content."""
    message = {"role": "assistant", "content": content, "refusal": refusal}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    body = {"choices": [{"index": 0, "finish_reason": finish, "message": message}], "usage": usage}
    return {"response": {"status_code": 200, "body": body}, "error": None}


def errored(code: str, message: str, *, status: int = 500) -> dict[str, Any]:
    """A row that went wrong at the provider."""
    body = {"error": {"code": code, "message": message}}
    return {"response": {"status_code": status, "body": body}, "error": None}


def expired() -> dict[str, Any]:
    """A row whose turn never came."""
    error = {"code": "batch_expired", "message": "This request could not be executed in time."}
    return {"response": None, "error": error}


def embedded(vector: Sequence[float]) -> dict[str, Any]:
    """An embedding."""
    data = [{"object": "embedding", "index": 0, "embedding": list(vector)}]
    body = {"object": "list", "data": data, "usage": {"prompt_tokens": 5, "total_tokens": 5}}
    return {"response": {"status_code": 200, "body": body}, "error": None}


def by_first_label(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The default: the first label, the prompt itself where no schema is asked for, or a tiny vector."""
    if "input" in body:
        return embedded([float(len(prompt)), 1.0, 0.5])
    schema = body.get("response_format", {}).get("json_schema", {}).get("schema")
    if schema is None:
        return answered(prompt)
    return answered(json.dumps({name: rule["enum"][0] for name, rule in schema["properties"].items()}))


def prompt_of(body: Mapping[str, Any]) -> str:
    """The row's own text in a request."""
    return str(body["input"] if "input" in body else body["messages"][-1]["content"])


@dataclass
class FakeServer:
    """One account in memory.

    Attributes:
        name: Tells servers apart within a process.
        rule: What each request is answered.
        profile: Its limits.
        checks_before_end: How many looks a batch stays in progress before it has ended.
        loses: Prompts that get no result line at all.
        rejects: Why every batch from now on is rejected as a whole; None if none is.
        requests: Each body that was ever in a created batch, in the order sent.
        calls: How often each method of the protocol was called.
        sizes: Rows and bytes of each created batch.
    """

    name: str
    rule: Rule = by_first_label
    profile: Profile = PROFILE
    checks_before_end: int = 0
    loses: set[str] = field(default_factory=set[str])
    rejects: str | None = None
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    calls: Counter[str] = field(default_factory=Counter[str])
    sizes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    _files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    _batches: dict[str, Batch] = field(default_factory=dict[str, Batch])
    _looks: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        SERVERS[self.name] = self

    @property
    def prompts(self) -> list[str]:
        """The text of every row that was ever asked, in the order sent."""
        return [prompt_of(body) for body in self.requests]

    def resource(self) -> FakeBatch:
        """A Dagster resource that speaks to this server."""
        return FakeBatch(server=self.name)

    def client(self) -> BatchProvider:
        """A client, as a run makes it."""
        return FakeProvider(self)

    def forget(self) -> None:
        """Start counting anew; files and batches stay."""
        self.requests.clear()
        self.calls.clear()
        self.sizes.clear()

    def keep_file(self, content: bytes) -> str:
        """Store a file."""
        name = f"file-{len(self._files)}"
        self._files[name] = content
        return name

    def create(self, file_id: str, token: str) -> Batch:
        """Answer a whole request file at once."""
        if file_id not in self._files:
            raise RefusedError(f"fake: no file {file_id}", status=400)
        # Not splitlines(): JSON may hold a line separator of Unicode's as it is.
        lines = [json.loads(line) for line in self._files[file_id].decode().removesuffix("\n").split("\n")]
        self.requests += [line["body"] for line in lines]
        self.sizes.append((len(lines), len(self._files[file_id])))
        results = [
            {"custom_id": line["custom_id"], **self.rule(prompt_of(line["body"]), line["body"])}
            for line in lines
            if prompt_of(line["body"]) not in self.loses
        ]
        content = "".join(json.dumps(result) + "\n" for result in reversed(results)).encode()
        batch = Batch(
            id=f"batch-{len(self._batches)}",
            phase=Phase.FAILED if self.rejects else Phase.COMPLETED,
            status="failed" if self.rejects else "completed",
            input_file_id=file_id,
            metadata={TOKEN_KEY: token},
            total=len(lines),
            completed=0 if self.rejects else len(lines),
            result_files=() if self.rejects else (self.keep_file(content),),
            problems=(Problem("invalid_request", self.rejects),) if self.rejects else (),
        )
        self._batches[batch.id] = batch
        return self.seen(batch.id)

    def seen(self, batch_id: str) -> Batch:
        """The batch as it looks now."""
        batch = self._batches[batch_id]
        self._looks[batch_id] += 1
        if self._looks[batch_id] > self.checks_before_end:
            return batch
        return Batch(
            id=batch.id,
            phase=Phase.RUNNING,
            status="in_progress",
            input_file_id=batch.input_file_id,
            metadata=batch.metadata,
            total=batch.total,
        )

    def batches(self) -> list[Batch]:
        """All of them, newest first."""
        return [self.seen(name) for name in reversed(self._batches)]

    def content(self, file_id: str) -> bytes:
        """A file's bytes."""
        return self._files[file_id]

    def has(self, file_id: str) -> bool:
        """Whether a file is here."""
        return file_id in self._files

    def delete(self, file_id: str) -> None:
        """Forget a file."""
        self._files.pop(file_id, None)


class FakeBatch(BatchResource):
    """A resource for the `FakeServer` of this name."""

    server: str

    def provider(self) -> BatchProvider:
        server = SERVERS[self.server]
        server.calls["provider"] += 1
        return server.client()


class FakeProvider:
    """A client for a `FakeServer`, counting every call."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    @property
    def profile(self) -> Profile:
        return self._server.profile

    @property
    def account(self) -> str:
        return f"fake:{self._server.name}"

    @property
    def clock_offset(self) -> None:
        return None

    def upload(self, path: Path, filename: str) -> str:
        self._server.calls["upload"] += 1
        return self._server.keep_file(path.read_bytes())

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        still_allowed()
        self._server.calls["create"] += 1
        return self._server.create(file_id, token)

    def check(self, batch_id: str) -> Batch:
        self._server.calls["check"] += 1
        return self._server.seen(batch_id)

    def list(self, since: float, there: float | None = None) -> Listing:
        self._server.calls["list"] += 1
        return Listing(tuple(self._server.batches()), complete=True, started_at=since, clock_offset=None)

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        self._server.calls["fetch"] += 1
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number}.jsonl" for number, _ in enumerate(batch.result_files)]
        for path, name in zip(paths, batch.result_files, strict=True):
            path.write_bytes(self._server.content(name))
        return paths

    def first_custom_id(self, batch: Batch) -> str | None:
        self._server.calls["first_custom_id"] += 1
        lines = [line for name in batch.result_files for line in self._server.content(name).splitlines()]
        return json.loads(lines[0])["custom_id"] if lines else None

    def cancel(self, batch_id: str) -> None:
        self._server.calls["cancel"] += 1

    def close(self) -> None:
        """Nothing is open."""

    def realtime(self, folder: Path) -> BatchProvider | None:
        del folder

    def has_file(self, file_id: str) -> bool:
        self._server.calls["has_file"] += 1
        return self._server.has(file_id)

    def shows_files(self) -> bool:
        return True

    def delete_file(self, file_id: str) -> None:
        self._server.calls["delete_file"] += 1
        self._server.delete(file_id)
