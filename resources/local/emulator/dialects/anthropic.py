"""Anthropic's Message Batches: the requests are in the create, and all results in one stream."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from ...answer import CHAT
from ...wire import RefusalError, dump_line
from .dialect import ENDED, Asked, Call, Dialect, Shown, Told, counts_of, iso, needed

_ROW_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}


class Anthropic(Dialect):
    """`AnthropicBatch` speaks it."""

    name = "anthropic"
    header = "x-api-key"
    prefix = ""

    def calls(self) -> Sequence[Call]:
        batches = "/v1/messages/batches"
        return (
            Call("ask", "POST", "/v1/messages", self._message),
            Call("create", "POST", batches, self._create),
            Call("list", "GET", batches, self._list),
            Call("content", "GET", f"{batches}/{{batch_id}}/results", self._results),
            Call("cancel", "POST", f"{batches}/{{batch_id}}/cancel", self._cancel),
            Call("get", "GET", f"{batches}/{{batch_id}}", self._get),
        )

    def refusal(self, error: RefusalError) -> Shown:
        kind = _KINDS.get(error.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        params = line["params"]
        system = "\n".join(block["text"] for block in params.get("system", []))
        messages = [{"role": "system", "content": system}] if system else []
        body = {"model": params["model"], "messages": [*messages, *params["messages"]]}
        if schema := params.get("output_config", {}).get("format", {}).get("schema"):
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return line["custom_id"], {**body, "max_completion_tokens": params["max_tokens"]}

    def result(self, told: Told) -> Mapping[str, Any]:
        return {"custom_id": told.row, "result": _result(told)}

    def _message(self, asked: Asked) -> Shown:
        needed(asked.object, "model", "max_tokens", "messages")
        told = self.asked({"custom_id": "", "params": asked.object}, CHAT)
        return _result(told)["message"]

    def _create(self, asked: Asked) -> Shown:
        (requests,) = needed(asked.object, "requests")
        for number, row in enumerate(requests):
            needed(row, "custom_id", "params")
            needed(row["params"], "model", "max_tokens", "messages")
            if not _ROW_ID.fullmatch(row["custom_id"]):
                raise RefusalError(f"requests.{number}.custom_id: String should match pattern '{_ROW_ID.pattern}'")
        file_id = self.stored(map(dump_line, requests), "requests.jsonl")
        wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h"}
        return self._shown(self.desk.shown(self.desk.create(wanted)))

    def _list(self, asked: Asked) -> Shown:
        limit = int(asked.query.get("limit", 20))
        found, more = self.page(asked.query.get("after_id"), limit)
        page = [self._shown(one) for one in found]
        ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {}
        return {"data": page, "has_more": more, "first_id": None, "last_id": None, **ends}

    def _get(self, asked: Asked) -> Shown:
        return self._shown(self.seen(asked))

    def _cancel(self, asked: Asked) -> Shown:
        return self._shown(self.cancelled(asked))

    def _results(self, asked: Asked) -> Response:
        shown = self.seen(asked)
        if shown["status"] not in ENDED:
            raise RefusalError("The batch has no results yet.", status=404)
        return self.results(shown)

    def _shown(self, shown: Shown) -> Shown:
        status = shown["status"]
        counts = counts_of(shown)
        left = {"expired": "expired", "cancelled": "canceled"}.get(status, "errored")
        told = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        if status in ENDED:
            told |= {"succeeded": counts["completed"], left: counts["failed"]}
        else:
            told["processing"] = counts["total"]
        ways = {**dict.fromkeys(ENDED, "ended"), "cancelling": "canceling", "paused_for_review": status}
        return {
            "id": shown["id"],
            "type": "message_batch",
            "processing_status": ways.get(status, "in_progress"),
            "request_counts": told,
            "created_at": iso(shown.get("created_at")),
            "expires_at": iso(shown.get("expires_at")),
            "ended_at": iso(shown.get(f"{status}_at")) if status in ENDED else None,
            "cancel_initiated_at": None,
            "archived_at": None,
            "results_url": None,
        }


def _result(told: Told) -> Mapping[str, Any]:
    if told.code in ("batch_expired", "batch_cancelled"):
        return {"type": "expired" if told.code == "batch_expired" else "canceled"}
    if not told.is_ok:
        kind = _KINDS.get(told.status or 500, "api_error")
        error = {"type": kind, "message": told.words}
        return {"type": "errored", "error": {"type": "error", "request_id": None, "error": error}}
    choice = told.choice
    if choice is None:
        return {"type": "succeeded", "message": told.body}
    return {"type": "succeeded", "message": message_of(told, choice)}


def message_of(told: Told, choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer in Anthropic's words."""
    message, finish = choice["message"], choice["finish_reason"]
    stop = "refusal" if message.get("refusal") else _STOPS.get(finish, finish)
    text = message.get("refusal") or message.get("content")
    usage = {"input_tokens": told.tokens("prompt_tokens"), "output_tokens": told.tokens("completion_tokens")}
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": told.body.get("model"),
        "content": [] if text is None else [{"type": "text", "text": text}],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {**usage, "service_tier": "batch"},
    }
