"""A batch server in the test's own process. It keeps files, batches and, above all, a bill."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import httpx

from .fake_clock import FakeClock

Serve = Callable[[], httpx.Response]
Fault = Callable[[httpx.Request, Serve], httpx.Response]
Answer = Callable[[dict[str, Any]], dict[str, Any]]


def reply_lost(request: httpx.Request, serve: Serve) -> httpx.Response:
    """The server does what it was asked, and nobody hears of it."""
    serve()
    raise httpx.ReadTimeout("the reply was lost", request=request)


def request_lost(request: httpx.Request, serve: Serve) -> httpx.Response:
    raise httpx.WriteError("the request was lost", request=request)


def no_connection(request: httpx.Request, serve: Serve) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


def answers(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Fault:
    """The server says no and does nothing."""

    def fault(request: httpx.Request, serve: Serve) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.Response(status, json={"error": {"message": message, "code": code}}, headers=named)

    return fault


def replies(response: httpx.Response) -> Fault:
    """The server says this, whatever it was asked."""
    return lambda request, serve: response


def changed(change: Callable[[dict[str, Any]], dict[str, Any]], status: int = 200) -> Fault:
    """The server's own reply, changed on its way."""
    return lambda request, serve: httpx.Response(status, json=change(serve().json()))


def accepts_and_answers(status: int) -> Fault:
    """The server does what it was asked, and something in between says otherwise."""

    def fault(request: httpx.Request, serve: Serve) -> httpx.Response:
        serve()
        return httpx.Response(status, text="<html>bad gateway</html>")

    return fault


def twice(request: httpx.Request, serve: Serve) -> httpx.Response:
    """A proxy repeats the request behind our back; its first reply is lost."""
    serve()
    serve()
    raise httpx.ReadTimeout("the reply was lost", request=request)


def chat_answer(line: dict[str, Any]) -> dict[str, Any]:
    """A result line that answers a chat request with its own prompt."""
    prompt = line["body"]["messages"][-1]["content"]
    body = {
        "choices": [{"message": {"role": "assistant", "content": f"re: {prompt}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }
    return {"id": "x", "custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}


@dataclass
class FakeOpenAI:
    """Files + batches over an `httpx.MockTransport`.

    Attributes:
        seconds: How long a batch takes; it is paid when it is through.
        listing_lag: A batch is listed only so many seconds after it was created.
        skew: The server's clock minus ours.
        keeps_metadata: Whether a batch is shown with the metadata that it was created with.
        shows_files: Whether a batch is shown with the id of its input file.
        remembers: Whether a create with a known Idempotency-Key gives the batch that it made before.
        uuids: Whether ids are bare UUIDs.
        other: If set, the project that the key belongs to by now; it has the same address and nothing of this one's.
        problem: If set, the next batches fail validation with it, unpaid.
        bill: How often each prompt was paid.
        seen: ``METHOD /path`` of each request that arrived.
    """

    clock: FakeClock
    seconds: float = 60.0
    listing_lag: float = 0.0
    skew: float = 0.0
    keeps_metadata: bool = True
    shows_files: bool = True
    remembers: bool = False
    uuids: bool = False
    other: FakeOpenAI | None = None
    problem: dict[str, Any] | None = None
    answer: Answer = chat_answer
    bill: Counter[str] = field(default_factory=Counter[str])
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    batches: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    seen: list[str] = field(default_factory=list[str])
    _faults: list[tuple[str, Fault]] = field(default_factory=list[tuple[str, Fault]])
    _numbers: Counter[str] = field(default_factory=Counter[str])

    def on(self, start: str, fault: Fault, *, times: int = 1) -> None:
        """The next requests that start with e.g. ``POST /v1/batches`` meet this fault."""
        self._faults += [(start, fault)] * times

    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def handle(self, request: httpx.Request) -> httpx.Response:
        if self.other is not None:
            return self.other.handle(request)
        what = f"{request.method} {request.url.path}"
        self.seen.append(what)
        for number, (start, fault) in enumerate(self._faults):
            if what.startswith(start):
                del self._faults[number]
                return fault(request, lambda: self._serve(request))
        return self._serve(request)

    def creates(self) -> int:
        return self.seen.count("POST /v1/batches")

    def live(self) -> list[str]:
        """Ids of the batches that cost money or will."""
        return [name for name, job in self.batches.items() if job["status"] not in {"cancelled", "failed"}]

    def tick(self) -> None:
        """Work off the batches whose time has come."""
        for job in self.batches.values():
            if job["status"] in {"validating", "in_progress"} and job["_ready"] <= self._now():
                self._finish(job)

    def _finish(self, job: dict[str, Any]) -> None:
        if self.problem is not None:
            job |= {"status": "failed", "errors": {"object": "list", "data": [self.problem]}}
            return
        lines = [json.loads(line) for line in job["_input"].splitlines()]
        for line in lines:
            self.bill[line["body"]["messages"][-1]["content"]] += 1
        content = "".join(json.dumps(self.answer(line)) + "\n" for line in reversed(lines))
        counts = {"total": len(lines), "completed": len(lines), "failed": 0}
        job |= {"status": "completed", "output_file_id": self.store(content.encode()), "request_counts": counts}

    def store(self, content: bytes) -> str:
        """Keep a file; gives its id."""
        name = self._name("file")
        self.files[name] = content
        return name

    def _now(self) -> float:
        """What time it is, however wrong our clock may be."""
        return self.clock.now() - self.clock.ahead

    def _name(self, kind: str) -> str:
        self._numbers[kind] += 1
        name = f"{kind}-{self._numbers[kind]}"
        return str(uuid.uuid5(uuid.NAMESPACE_OID, name)) if self.uuids else name

    def _json(self, body: object, status: int = 200) -> httpx.Response:
        date = formatdate(self._now() + self.skew, usegmt=True)
        return httpx.Response(status, json=body, headers={"Date": date})

    def _missing(self, what: str) -> httpx.Response:
        return self._json({"error": {"message": f"No such {what}", "code": "not_found"}}, 404)

    def _serve(self, request: httpx.Request) -> httpx.Response:
        self.tick()
        assert request.headers["authorization"] == "Bearer sk-test"
        parts = request.url.path.removeprefix("/v1/").split("/")
        match request.method, parts:
            case "POST", ["files"]:
                return self._json({"id": self.store(_uploaded(request)), "object": "file"})
            case "DELETE", ["files", name]:
                return self._missing("file") if self.files.pop(name, None) is None else self._json({"deleted": True})
            case "GET", ["files", name]:
                return self._json({"id": name, "object": "file"}) if name in self.files else self._missing("file")
            case "GET", ["files", name, "content"]:
                found = self.files.get(name)
                return self._missing("file") if found is None else httpx.Response(200, content=found)
            case "POST", ["batches"]:
                return self._create(json.loads(request.content), request.headers.get("idempotency-key"))
            case "GET", ["batches"]:
                return self._list(request.url.params)
            case "GET", ["batches", name]:
                return self._json(_shown(self.batches[name])) if name in self.batches else self._missing("batch")
            case "POST", ["batches", name, "cancel"]:
                return self._cancel(self.batches[name])
            case _:
                return self._missing("page")

    def _create(self, body: dict[str, Any], key: str | None = None) -> httpx.Response:
        known = [job for job in self.batches.values() if self.remembers and key and job["_key"] == key]
        if known:
            return self._json(_shown(known[0]))
        if body["input_file_id"] not in self.files:
            return self._missing("file")
        job = {
            "id": self._name("batch"),
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"] if self.shows_files else None,
            "completion_window": body["completion_window"],
            "metadata": body["metadata"] if self.keeps_metadata else None,
            "status": "validating",
            "created_at": int(self._now() + self.skew),
            "expires_at": int(self._now() + self.skew + 86400),
            "_key": key,
            "_ready": self._now() + self.seconds,
            "_input": self.files[body["input_file_id"]],
        }
        self.batches[str(job["id"])] = job
        return self._json(_shown(job))

    def _list(self, params: httpx.QueryParams) -> httpx.Response:
        newest_first = list(reversed(self.batches.values()))
        horizon = self._now() + self.skew - self.listing_lag
        listed = [job for job in newest_first if self.listing_lag == 0.0 or job["created_at"] <= horizon]
        names = [job["id"] for job in listed]
        start = names.index(params["after"]) + 1 if "after" in params else 0
        page = listed[start : start + int(params["limit"])]
        more = start + len(page) < len(listed)
        return self._json({"object": "list", "data": [_shown(job) for job in page], "has_more": more})

    def _cancel(self, job: dict[str, Any]) -> httpx.Response:
        if job["status"] in {"completed", "failed", "cancelled", "expired"}:
            return self._json({"error": {"message": f"Cannot cancel a batch that is {job['status']}."}}, 409)
        job["status"] = "cancelled"
        return self._json(_shown(job))


def _shown(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if not name.startswith("_")}


def _uploaded(request: httpx.Request) -> bytes:
    """The file part of a multipart body."""
    boundary = request.headers["content-type"].split("boundary=")[1].encode()
    (part,) = (part for part in request.content.split(b"--" + boundary) if b'name="file"' in part)
    return part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
