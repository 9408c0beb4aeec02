"""A small Anthropic: message batches over HTTP, with a bill."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from .fake_openai import FakeOpenAI

Message = Callable[[Mapping[str, Any]], Mapping[str, Any]]


def text_of(params: Mapping[str, Any]) -> str:
    """What was asked."""
    return str(params["messages"][-1]["content"])


def message(params: Mapping[str, Any], text: str | None = None, stop: str = "end_turn") -> dict[str, Any]:
    """A row's result that succeeded."""
    usage = {
        "input_tokens": 2, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 4, "output_tokens": 3,
        "service_tier": "batch",
    }  # fmt: skip
    said = f"re: {text_of(params)}" if text is None else text
    body = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": params["model"], "stop_reason": stop,
        "stop_sequence": None, "content": [{"type": "text", "text": said}], "usage": usage,
    }  # fmt: skip
    return {"type": "succeeded", "message": body}


def failed(kind: str, words: str = "no") -> dict[str, Any]:
    """A row's result that has an error, which isn't billed."""
    error = {"type": kind, "message": words}
    return {"type": "errored", "error": {"type": "error", "request_id": "req_1", "error": error}}


@dataclass
class FakeAnthropic(FakeOpenAI):
    """One workspace; `result` says what becomes of a row, and `address` is what a batch's results are said to be at."""

    result: Message = message
    address: str = "https://fake.test"

    def creates(self) -> int:
        return self.seen.count("POST /v1/messages/batches")

    def _serve(self, request: httpx.Request) -> httpx.Response:
        self.tick()
        if request.headers.get("x-api-key") != "sk-test" or "anthropic-version" not in request.headers:
            return self._no(401, "authentication_error", "invalid x-api-key")
        match request.method, request.url.path.removeprefix("/v1/messages/batches").strip("/").split("/"):
            case "POST", [""]:
                return self._made(json.loads(request.content))
            case "GET", [""]:
                return self._listed(request.url.params)
            case "GET", [name] if name in self.batches:
                return self._json(self._as_shown(self.batches[name]))
            case "POST", [name, "cancel"] if name in self.batches:
                return self._stopped(self.batches[name])
            case "GET", [name, "results"] if self.batches.get(name, {}).get("_results") is not None:
                return httpx.Response(200, content=self.batches[name]["_results"])
            case _:
                return self._no(404, "not_found_error", "there is no such batch, or it has no results yet")

    def _made(self, body: Mapping[str, Any]) -> httpx.Response:
        job: dict[str, Any] = {
            "id": self._name("msgbatch"),
            "processing_status": "in_progress",
            "status": "in_progress",  # for the bill's keeper
            "created_at": self._now() + self.skew,
            "_ready": self._now() + self.seconds,
            "_requests": body["requests"],
            "_results": None,
            "_counts": {"processing": len(body["requests"])},
        }
        self.batches[job["id"]] = job
        return self._json(self._as_shown(job))

    def _finish(self, job: dict[str, Any]) -> None:
        results = [(row, self.result(row["params"])) for row in job["_requests"]]
        for row, result in results:
            self.bill[text_of(row["params"])] += result["type"] == "succeeded"
        self._end(job, [{"custom_id": row["custom_id"], "result": result} for row, result in reversed(results)])

    def _end(self, job: dict[str, Any], lines: list[dict[str, Any]]) -> None:
        kinds = [line["result"]["type"] for line in lines]
        job["_counts"] = {kind: kinds.count(kind) for kind in ("succeeded", "errored", "canceled", "expired")}
        job["_results"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        job["processing_status"], job["status"] = "ended", "completed"

    def _stopped(self, job: dict[str, Any]) -> httpx.Response:
        if job["processing_status"] == "ended":
            return self._no(400, "invalid_request_error", "the batch has ended")
        self._end(job, [{"custom_id": row["custom_id"], "result": {"type": "canceled"}} for row in job["_requests"]])
        job["status"] = "cancelled"
        return self._json(self._as_shown(job))

    def _listed(self, params: httpx.QueryParams) -> httpx.Response:
        horizon = self._now() + self.skew - self.listing_lag
        newest = [job for job in reversed(self.batches.values()) if job["created_at"] <= horizon]
        names = [job["id"] for job in newest]
        start = names.index(params["after_id"]) + 1 if "after_id" in params else 0
        page = newest[start : start + int(params.get("limit", 20))]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
        more = start + len(page) < len(newest)
        return self._json({"data": [self._as_shown(job) for job in page], "has_more": more, **ends})

    def _as_shown(self, job: Mapping[str, Any]) -> dict[str, Any]:
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0) | job["_counts"]
        ended = job["processing_status"] == "ended"
        return {
            "id": job["id"],
            "type": "message_batch",
            "processing_status": job["processing_status"],
            "request_counts": counts,
            "created_at": _iso(job["created_at"]),
            "expires_at": _iso(job["created_at"] + 86_400.0),
            "ended_at": _iso(self._now()) if ended else None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": f"{self.address}/v1/messages/batches/{job['id']}/results" if ended else None,
        }

    def _no(self, status: int, kind: str, words: str) -> httpx.Response:
        return self._json({"type": "error", "error": {"type": kind, "message": words}}, status)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
