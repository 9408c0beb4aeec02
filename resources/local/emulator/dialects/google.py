"""Google's Gemini API: files that are uploaded in two steps, and jobs that are operations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from starlette.responses import Response

from ...answer import CHAT, EMBEDDINGS
from ...wire import RefusalError
from .dialect import Asked, Call, Dialect, Shown, Told, counts_of, iso, needed, problems_of

_STATES = {
    "validating": "PENDING",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "cancelling": "RUNNING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    # A job that ends early would have no results; what was answered of it is shown nevertheless.
    "expired": "SUCCEEDED",
    "cancelled": "CANCELLED",
}
_STOPS = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
_CODES = {400: 3, 403: 7, 404: 5, 429: 8}
_STATUSES = {400: "INVALID_ARGUMENT", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}


def openai_body(request: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request of Gemini's, in OpenAI's words."""
    if "content" in request:
        dimensions = {"dimensions": request["outputDimensionality"]} if "outputDimensionality" in request else {}
        return {"model": "the job's", "input": request["content"]["parts"][0]["text"], **dimensions}
    config: Mapping[str, Any] = request.get("generationConfig", {})
    parts: Sequence[Mapping[str, str]] = request.get("systemInstruction", {}).get("parts", [])
    messages = [{"role": "system", "content": part["text"]} for part in parts]
    messages += [{"role": "user", "content": request["contents"][-1]["parts"][0]["text"]}]
    body: dict[str, Any] = {"model": "the job's", "messages": messages}
    if schema := config.get("responseJsonSchema"):
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return body


def google_reply(told: Told) -> Any:
    """A reply, in Gemini's words; what isn't one is passed on."""
    if (vector := told.vector) is not None:
        return {"embedding": {"values": vector}, "tokenCount": told.tokens("prompt_tokens")}
    choice = told.choice
    if choice is None:
        return told.body
    message, finish = choice["message"], choice["finish_reason"]
    usage = {"promptTokenCount": told.tokens("prompt_tokens"), "candidatesTokenCount": told.tokens("completion_tokens")}
    if message.get("refusal"):
        return {"promptFeedback": {"blockReason": message["refusal"]}, "usageMetadata": usage}
    parts = [] if message.get("content") is None else [{"text": message["content"]}]
    content = {"role": "model", "parts": [{"text": "hm", "thought": True}, *parts]}
    candidate = {"content": content, "finishReason": _STOPS.get(finish, finish), "index": 0}
    metered = any(count is not None for count in usage.values())
    return {"candidates": [candidate], **({"usageMetadata": usage} if metered else {})}


class Jobs(Dialect):
    """What Google's protocols say alike of jobs."""

    listing: ClassVar[str]
    page_size: ClassVar[int]

    @abstractmethod
    def shown(self, shown: Shown) -> Shown:
        """A job, given as OpenAI's batch."""

    def refusal(self, error: RefusalError) -> Shown:
        status = _STATUSES.get(error.status, "INTERNAL")
        return {"error": {"code": error.status, "message": error.message, "status": status}}

    def listed(self, asked: Asked) -> Shown:
        found, more = self.page(asked.query.get("pageToken") or None, int(asked.query.get("pageSize", self.page_size)))
        token = {"nextPageToken": found[-1]["id"]} if more else {}
        return {**({self.listing: [self.shown(one) for one in found]} if found else {}), **token}

    def got(self, asked: Asked) -> Shown:
        return self.shown(self.seen(asked))

    def cancel(self, asked: Asked) -> Shown:
        self.cancelled(asked)
        return {}


class Gemini(Jobs):
    """`GeminiBatch` speaks it."""

    name = "gemini"
    listing = "operations"
    page_size = 50
    header = "x-goog-api-key"
    prefix = ""

    def calls(self) -> Sequence[Call]:
        return (
            Call("upload", "POST", "/upload/{version}/files", self._start),
            Call("", "POST", "/uploading", self._finish),
            Call("content", "GET", "/download/{version}/files/{file_id}:download", self._content),
            Call("content", "GET", "/{version}/files/{file_id}:download", self._content),
            Call("", "GET", "/{version}/files/{file_id}", self._file),
            Call("delete", "DELETE", "/{version}/files/{file_id}", self._delete),
            Call("create", "POST", "/{version}/models/{model}:batchGenerateContent", self._create),
            Call("create", "POST", "/{version}/models/{model}:asyncBatchEmbedContent", self._create),
            Call("ask", "POST", "/{version}/models/{model}:generateContent", partial(self._ask, CHAT)),
            Call("ask", "POST", "/{version}/models/{model}:embedContent", partial(self._ask, EMBEDDINGS)),
            Call("cancel", "POST", "/{version}/batches/{batch_id}:cancel", self.cancel),
            Call("list", "GET", "/{version}/batches", self.listed),
            Call("get", "GET", "/{version}/batches/{batch_id}", self.got),
        )

    def admits(self, headers: Mapping[str, str], token: str) -> bool:
        # An upload's second step comes without the key; what is uploaded is nobody's secret.
        return "x-goog-upload-command" in headers or super().admits(headers, token)

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        return line["key"], openai_body(line["request"])

    def result(self, told: Told) -> Mapping[str, Any]:
        if told.is_ok:
            return {"key": told.row, "response": google_reply(told)}
        if told.status is None and told.code == "None":
            return {"key": told.row}
        left = told.code in ("batch_expired", "batch_cancelled")
        code = 1 if left else _CODES.get(told.status or 500, 13)
        return {"key": told.row, "error": {"code": code, "message": told.words}}

    def _start(self, asked: Asked) -> Response:
        needed(asked.object, "file")
        if asked.headers.get("x-goog-upload-command") != "start":
            raise RefusalError("An upload begins with the command start.")
        return Response(headers={"x-goog-upload-url": f"http://{asked.headers['host']}/uploading"})

    def _finish(self, asked: Asked) -> Response | Shown:
        lines = asked.body.splitlines(keepends=True)
        endpoint = EMBEDDINGS if lines and b'"contents"' not in lines[0] else CHAT
        file_id = self.stored(lines, "requests.jsonl", endpoint)
        shown = {"file": self._file_object(file_id)}
        return self.headed(shown, {"x-goog-upload-status": "final"})

    def _file_object(self, file_id: str) -> Shown:
        file = self.desk.file(file_id)
        return {"name": f"files/{file.id}", "sizeBytes": str(file.bytes), "state": "ACTIVE", "uri": "none"}

    def _file(self, asked: Asked) -> Shown:
        return self._file_object(asked.path["file_id"])

    def _delete(self, asked: Asked) -> Shown:
        self.desk.drop(asked.path["file_id"])
        return {}

    def _content(self, asked: Asked) -> Response:
        shown = self.desk.shown(self.desk.batch(asked.path["file_id"].removeprefix("results-")))
        return self.results(shown)

    def _ask(self, endpoint: str, asked: Asked) -> Shown:
        return google_reply(self.asked({"key": "", "request": asked.object}, endpoint))

    def _create(self, asked: Asked) -> Shown:
        (batch,) = needed(asked.object, "batch")
        name, config = needed(batch, "displayName", "inputConfig")
        file_id = str(config.get("fileName") or config.get("file_name")).removeprefix("files/")
        endpoint = EMBEDDINGS if b'"input"' in next(self.desk.lines(file_id), b"") else CHAT
        metadata = {"name": name, "model": asked.path["model"]}
        wanted = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "48h", "metadata": metadata}
        return self.shown(self.desk.shown(self.desk.create(wanted)))

    def shown(self, shown: Shown) -> Shown:
        metadata: Mapping[str, str] = shown.get("metadata") or {}
        counts = counts_of(shown)
        stats = {"requestCount": counts["total"], "successfulRequestCount": counts["completed"]}
        stats["failedRequestCount"] = counts["failed"]
        job: dict[str, Any] = {
            "model": f"models/{metadata.get('model')}",
            "displayName": metadata.get("name"),
            "state": f"BATCH_STATE_{_STATES.get(shown['status'], shown['status'])}",
            "createTime": iso(shown.get("created_at")),
            "inputConfig": {"fileName": f"files/{shown['input_file_id']}"},
            "batchStats": {name: str(number) for name, number in stats.items() if number},
            "name": f"batches/{shown['id']}",
        }
        if shown.get("output_file_id") or shown.get("error_file_id"):
            job["output"] = {"responsesFile": f"files/results-{shown['id']}"}
        said = problems_of(shown)
        error = {"error": {"code": 3, "message": "; ".join(said), "status": "INVALID_ARGUMENT"}} if said else {}
        return {"name": f"batches/{shown['id']}", "metadata": job, **error}
