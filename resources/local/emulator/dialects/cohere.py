"""Cohere: datasets that are validated, batches by name, and results in Avro at addresses that need no key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from starlette.responses import Response

from ...answer import CHAT, EMBEDDINGS
from ...wire import RefusalError, is_object
from .dialect import Asked, Call, Dialect, Shown, Told, counts_of, iso, needed, problems_of

_STATES = {
    "validating": "QUEUED",
    "in_progress": "IN_PROGRESS",
    "finalizing": "IN_PROGRESS",
    "cancelling": "CANCELING",
    "completed": "COMPLETED",
    "failed": "FAILED",
    # Batches have no state for one that ran out of time.
    "expired": "CANCELED",
    "cancelled": "CANCELED",
}
_STOPS = {"stop": "COMPLETE", "length": "MAX_TOKENS", "content_filter": "ERROR"}
_TYPES = {"batch-chat-v2-input": CHAT, "batch-embed-v2-input": EMBEDDINGS}
_FIELDS = ("custom_id", "response", "error", "note")
_SCHEMA = {
    "type": "record",
    "name": "result",
    "fields": [{"name": name, "type": ["null", "string"]} for name in _FIELDS],
}
_SYNC = b"one part, ended.."[:16]


class Cohere(Dialect):
    """`CohereBatch` speaks it."""

    name = "cohere"

    def calls(self) -> Sequence[Call]:
        batches, dataset = "/v2/batches", "/v1/datasets/{file_id}"
        return (
            Call("upload", "POST", "/v1/datasets", self._upload),
            Call("", "GET", dataset, self._dataset),
            Call("delete", "DELETE", dataset, self._delete),
            Call("content", "GET", "/signed/{file_id}", self._part),
            Call("create", "POST", batches, self._create),
            Call("list", "GET", batches, self._list),
            Call("cancel", "POST", f"{batches}/{{batch_id}}:cancel", self._cancel),
            Call("get", "GET", f"{batches}/{{batch_id}}", self._get),
            Call("ask", "POST", "/v2/chat", partial(self._at_once, CHAT)),
            Call("ask", "POST", "/v2/embed", partial(self._at_once, EMBEDDINGS)),
        )

    def admits(self, headers: Mapping[str, str], token: str) -> bool:
        # What is signed needs no key, and nothing else here is a secret.
        return "authorization" not in headers or super().admits(headers, token)

    def refusal(self, error: RefusalError) -> Shown:
        return {"message": error.message}

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        if "texts" in line["body"]:
            needed(line["body"], "input_type", "embedding_types")
            return line["custom_id"], {"model": "the batch's", "input": line["body"]["texts"][0]}
        messages = [
            {"role": one["role"], "content": "".join(part["text"] for part in one["content"])}
            for one in line["body"]["messages"]
        ]
        body: dict[str, Any] = {"model": "the batch's", "messages": messages}
        if schema := _schema(messages[0]["content"].rpartition("\n")[2]):
            # A schema is asked for in words, and a model that follows them is as good as any.
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return line["custom_id"], body

    def result(self, told: Told) -> Mapping[str, Any]:
        if not told.is_ok:
            return {"custom_id": told.row, "error": {"message": told.words, "status_code": told.status or 500}}
        reply = told.body if told.choice is None else _reply(told, told.choice)
        if (vector := told.vector) is not None:
            used = {"billed_units": {"input_tokens": told.tokens("prompt_tokens")}}
            reply = {"id": "e_1", "embeddings": {"float": [vector]}, "meta": used}
        return {"custom_id": told.row, "response": reply}

    def _at_once(self, endpoint: str, asked: Asked) -> Shown:
        needed(asked.object, "model")
        reply: Shown = self.result(self.asked({"custom_id": "", "body": asked.object}, endpoint))["response"]
        return reply

    def _upload(self, asked: Asked) -> Shown:
        content = asked.form.get("data")
        kind = _TYPES.get(asked.query.get("type", ""))
        if kind is None or not asked.query.get("name") or not isinstance(content, bytes):
            raise RefusalError(f"A dataset needs a name, one of the types {', '.join(_TYPES)} and data.")
        return {"id": self.stored(content.splitlines(keepends=True), "requests.jsonl", kind)}

    def _dataset(self, asked: Asked) -> Shown:
        name = asked.path["file_id"]
        about = {"id": name, "name": name, "created_at": iso(0), "updated_at": iso(0), "validation_status": "validated"}
        if not name.startswith("results-"):
            self.desk.file(name)
            return {"dataset": {**about, "dataset_type": next(iter(_TYPES)), "dataset_parts": []}}
        rows = len(self._records(name))
        address = f"{asked.headers.get('x-forwarded-proto', 'http')}://{asked.headers['host']}/signed/{name}"
        part = {"id": f"{name}-0", "name": "0", "url": address, "index": 0, "num_rows": rows}
        schema = json.dumps(_SCHEMA)
        return {"dataset": {**about, "dataset_type": "embed-result", "schema": schema, "dataset_parts": [part]}}

    def _records(self, name: str) -> list[Mapping[str, Any]]:
        shown = self.desk.shown(self.desk.batch(name.removeprefix("results-")))
        return [json.loads(line) for line in self.told(shown) if line]

    def line(self, line: bytes) -> bytes:
        """A row whose turn never came has no record."""
        never = (b'"batch_expired"', b'"batch_cancelled"')
        return b"" if any(code in line for code in never) else super().line(line)

    def _part(self, asked: Asked) -> Response:
        return Response(_avro(self._records(asked.path["file_id"])), media_type="application/octet-stream")

    def _delete(self, asked: Asked) -> Shown:
        self.desk.drop(asked.path["file_id"])
        return {}

    def _create(self, asked: Asked) -> Shown:
        name, dataset, model = needed(asked.object, "name", "input_dataset_id", "model")
        metadata = {"name": name, "model": model}
        kind = EMBEDDINGS if b'"input"' in next(self.desk.lines(dataset), b"") else CHAT
        wanted = {"input_file_id": dataset, "endpoint": kind, "completion_window": "24h", "metadata": metadata}
        return {"batch": self._shown(self.desk.shown(self.desk.create(wanted)))}

    def _list(self, asked: Asked) -> Shown:
        found, more = self.page(asked.query.get("page_token") or None, int(asked.query.get("page_size", 50)))
        token = {"next_page_token": found[-1]["id"]} if more else {}
        return {"batches": [self._shown(one) for one in found], **token}

    def _get(self, asked: Asked) -> Shown:
        return {"batch": self._shown(self.seen(asked))}

    def _cancel(self, asked: Asked) -> Shown:
        self.cancelled(asked)
        return {}

    def _shown(self, shown: Shown) -> Shown:
        counts = counts_of(shown)
        metadata: Mapping[str, str] = shown.get("metadata") or {}
        there = shown.get("output_file_id") or shown.get("error_file_id")
        return {
            "id": shown["id"],
            "name": metadata.get("name"),
            "status": f"BATCH_STATUS_{_STATES.get(shown['status'], shown['status'])}",
            "created_at": iso(shown.get("created_at")),
            "input_dataset_id": shown["input_file_id"],
            "output_dataset_id": f"results-{shown['id']}" if there else None,
            "model": metadata.get("model"),
            "num_records": counts["total"],
            "num_successful_records": counts["completed"],
            "num_failed_records": counts["failed"] if shown["status"] == "completed" else 0,
            "status_reason": "; ".join(problems_of(shown)) or None,
        }


def _schema(text: str) -> Any:
    """A JSON schema in a text; None if it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if is_object(found) and "properties" in found else None


def _reply(told: Told, choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer in Cohere's words."""
    message, finish = choice["message"], choice["finish_reason"]
    text = message.get("refusal") or message.get("content")
    tokens = {"input_tokens": told.tokens("prompt_tokens"), "output_tokens": told.tokens("completion_tokens")}
    return {
        "id": "c_1",
        "finish_reason": _STOPS.get(finish, finish),
        "message": {"role": "assistant", "content": [] if text is None else [{"type": "text", "text": text}]},
        "usage": {"billed_units": tokens, "tokens": tokens},
    }


def _avro(records: Sequence[Mapping[str, Any]]) -> bytes:
    """An Avro file of one block; each field of a record is a text, or null."""
    about = {"avro.schema": json.dumps(_SCHEMA), "avro.codec": "null"}
    header = b"Obj\x01" + _long(len(about)) + b"".join(_text(k) + _text(v) for k, v in about.items()) + b"\x00" + _SYNC
    if not records:
        return header
    block = b"".join(_field(record.get(name)) for record in records for name in _FIELDS)
    return header + _long(len(records)) + _long(len(block)) + block + _SYNC


def _field(value: object) -> bytes:
    if value is None:
        return _long(0)
    return _long(1) + _text(value if isinstance(value, str) else json.dumps(value))


def _text(text: str) -> bytes:
    content = text.encode("utf-8", "replace")
    return _long(len(content)) + content


def _long(number: int) -> bytes:
    """Zigzag, seven bits a byte."""
    left, out = number << 1, bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes((*out, left))
