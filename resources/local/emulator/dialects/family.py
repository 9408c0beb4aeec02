"""Providers that have taken over OpenAI's files and batches, each with what it does differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from starlette.responses import JSONResponse, Response

from ...answer import CHAT, EMBEDDINGS
from ...desk import Desk
from ...wire import RefusalError
from .dialect import LIVE, Asked, Call, Dialect, Shown, Told, counts_of, iso, needed, problems_of


class Family(Dialect):
    """OpenAI's protocol, for others to differ from."""

    root: ClassVar[str] = "/v1"
    purpose: ClassVar[str] = "batch"

    def calls(self) -> Sequence[Call]:
        files, batches = f"{self.root}/files", f"{self.root}/batches"
        return (
            Call("upload", "POST", files, self._upload),
            Call("content", "GET", f"{files}/{{file_id}}/content", self._content),
            Call("", "GET", f"{files}/{{file_id}}", self._file),
            Call("delete", "DELETE", f"{files}/{{file_id}}", self._delete),
            Call("create", "POST", batches, self._create),
            Call("list", "GET", batches, self._list),
            Call("cancel", "POST", f"{batches}/{{batch_id}}/cancel", self._cancel),
            Call("get", "GET", f"{batches}/{{batch_id}}", self._get),
            *self.at_once(self.root),
        )

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        return line["custom_id"], line["body"]

    def result(self, told: Told) -> Mapping[str, Any]:
        answered = told.status is not None
        response = {"status_code": told.status, "request_id": "req_1", "body": told.body} if answered else None
        return {"id": "batch_req_1", "custom_id": told.row, "response": response, "error": told.error}

    def shown(self, shown: Shown) -> Shown:
        """A batch."""
        return shown

    def wanted(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """A create, in OpenAI's words."""
        needed(body, "input_file_id", "endpoint", "completion_window")
        return body

    def _upload(self, asked: Asked) -> Shown | Response:
        if asked.form.get("purpose") != self.purpose:
            raise RefusalError(f"'purpose' has to be '{self.purpose}'.", param="purpose")
        content = asked.form.get("file")
        if not isinstance(content, bytes):
            raise RefusalError("'file' is missing.", param="file")
        return self._file_object(self.kept(content))

    def kept(self, content: bytes) -> str:
        """Keep a request file; gives its id."""
        lines = content.splitlines(keepends=True)
        return self.stored(lines, "requests.jsonl", EMBEDDINGS if self._embeds(lines) else CHAT)

    def _embeds(self, lines: Sequence[bytes]) -> bool:
        return bool(lines) and b'"messages"' not in lines[0]

    def _file_object(self, file_id: str) -> Shown:
        file = self.desk.file(file_id)
        return {
            "id": file.id,
            "object": "file",
            "bytes": file.bytes,
            "created_at": int(file.created_at),
            "filename": file.filename,
            "purpose": self.purpose,
            "status": "processed",
        }

    def _file(self, asked: Asked) -> Shown:
        return self._file_object(asked.path["file_id"])

    def _content(self, asked: Asked) -> Response:
        return self.results({"file": asked.path["file_id"]}, "file")

    def _delete(self, asked: Asked) -> Shown:
        self.desk.drop(asked.path["file_id"])
        return {"id": asked.path["file_id"], "object": "file", "deleted": True}

    def _create(self, asked: Asked) -> Shown | Response:
        return self.shown(self.desk.shown(self.desk.create(self.wanted(asked.object))))

    def _list(self, asked: Asked) -> Shown | Response:
        found, more = self.page(asked.query.get("after"), int(asked.query.get("limit", 20)))
        return {"object": "list", "data": [self.shown(one) for one in found], "has_more": more}

    def _get(self, asked: Asked) -> Shown:
        return self.shown(self.seen(asked))

    def _cancel(self, asked: Asked) -> Shown:
        return self.shown(self.cancelled(asked))


class Groq(Family):
    """`GroqBatch` speaks it: one endpoint, and a listing without pages."""

    name = "groq"
    root = "/openai/v1"

    def _list(self, asked: Asked) -> Shown:
        found, _ = self.page(None, 10_000)
        return {"object": "list", "data": found}


class Azure(Family):
    """`AzureOpenAIBatch` speaks it: another header, and a file that is processed at the second look."""

    name = "azure"
    root = "/openai/v1"
    header = "api-key"
    prefix = ""

    def _upload(self, asked: Asked) -> Shown | Response:
        uploaded = super()._upload(asked)
        return uploaded if isinstance(uploaded, Response) else {**uploaded, "status": "pending"}


class Mistral(Family):
    """`MistralBatch` speaks it: jobs of its own, whose lines name no model."""

    name = "mistral"
    _STATES: ClassVar[Mapping[str, str]] = {
        "validating": "QUEUED",
        "in_progress": "RUNNING",
        "finalizing": "RUNNING",
        "cancelling": "CANCELLATION_REQUESTED",
        "completed": "SUCCESS",
        "failed": "FAILED",
        "expired": "TIMEOUT_EXCEEDED",
        "cancelled": "CANCELLED",
    }

    def calls(self) -> Sequence[Call]:
        jobs = "/v1/batch/jobs"
        return (
            *(call for call in super().calls() if "/files" in call.path),
            *self.at_once(self.root),
            Call("create", "POST", jobs, self._create),
            Call("list", "GET", jobs, self._list),
            Call("cancel", "POST", f"{jobs}/{{batch_id}}/cancel", self._cancel),
            Call("get", "GET", f"{jobs}/{{batch_id}}", self._get),
        )

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        body = {**line["body"], "model": "the job's"}
        if "output_dimension" in body:
            body["dimensions"] = body.pop("output_dimension")
        return line["custom_id"], body

    def wanted(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        files, endpoint, _ = needed(body, "input_files", "endpoint", "model")
        window = f"{body.get('timeout_hours', 24)}h"
        metadata = body.get("metadata")
        return {"input_file_id": files[0], "endpoint": endpoint, "completion_window": window, "metadata": metadata}

    def shown(self, shown: Shown) -> Shown:
        counts = counts_of(shown)
        return {
            "id": shown["id"],
            "object": "batch",
            "input_files": [shown["input_file_id"]],
            "endpoint": shown.get("endpoint"),
            "errors": [{"message": words, "count": 1} for words in problems_of(shown)],
            "status": self._STATES.get(shown["status"], shown["status"]),
            "created_at": shown.get("created_at"),
            "total_requests": counts["total"],
            "completed_requests": counts["completed"] + counts["failed"],
            "succeeded_requests": counts["completed"],
            "failed_requests": counts["failed"],
            "metadata": shown.get("metadata"),
            "model": "the job's",
            "output_file": shown.get("output_file_id"),
            "error_file": shown.get("error_file_id"),
        }

    def _file_object(self, file_id: str) -> Shown:
        return {**super()._file_object(file_id), "sample_type": "batch_request", "source": "upload"}

    def _list(self, asked: Asked) -> Shown:
        size, number = int(asked.query.get("page_size", 100)), int(asked.query.get("page", 0))
        found, _ = self.page(None, 10_000)
        page = found[number * size : (number + 1) * size]
        return {"object": "list", "data": [self.shown(one) for one in page], "total": len(found)}


class Together(Family):
    """`TogetherBatch` speaks it: no metadata, no counts, no pages, and a file that is sent elsewhere."""

    name = "together"
    purpose = "batch-api"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._known: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    def calls(self) -> Sequence[Call]:
        return (
            Call("", "PUT", "/presigned/{key}", self._put),
            Call("", "POST", "/v1/files/{file_id}/preprocess", self._preprocess),
            *super().calls(),
        )

    def admits(self, headers: Mapping[str, str], token: str) -> bool:
        # What is presigned needs no key, and nothing else here is a secret.
        return "authorization" not in headers or super().admits(headers, token)

    def _upload(self, asked: Asked) -> Response:
        if asked.form.get("purpose") != self.purpose or not asked.form.get("checksum"):
            raise RefusalError("'purpose' and 'checksum' are needed.", param="purpose")
        key = str(asked.form["checksum"])
        if key in self._known:
            return JSONResponse({"file_id": key}, 409)
        address = f"{asked.headers.get('x-forwarded-proto', 'http')}://{asked.headers['host']}/presigned/{key}"
        return Response(status_code=302, headers={"location": address, "x-together-file-id": key})

    def _put(self, asked: Asked) -> Response:
        key = asked.path["key"]
        self._known[key], self._sizes[key] = self.kept(asked.body), len(asked.body)
        return Response(status_code=200)

    def _preprocess(self, asked: Asked) -> Shown:
        return self._file_object(asked.path["file_id"])

    def _delete(self, asked: Asked) -> Shown:
        key = asked.path["file_id"]
        self.desk.drop(self._known.pop(key, key))
        return {"id": key, "object": "file", "deleted": True}

    def _file_object(self, file_id: str) -> Shown:
        named = {**super()._file_object(self._known.get(file_id, file_id)), "id": file_id}
        size = self._sizes.get(file_id, named["bytes"])  # what is kept has a word more per line
        return {**named, "bytes": size, "FileType": "jsonl", "processing_status": "COMPLETED"}

    def wanted(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        needed(body, "input_file_id", "endpoint")
        window = body.get("completion_window") or "24h"
        metadata = {"input_file_id": body["input_file_id"]}
        return {
            "input_file_id": self._known.get(body["input_file_id"]),
            "endpoint": body["endpoint"],
            "completion_window": window,
            "metadata": metadata,
        }

    def shown(self, shown: Shown) -> Shown:
        status: str = shown["status"]
        state: str = {**dict.fromkeys(LIVE, "in_progress"), "validating": "validating"}.get(status, status)
        counts = counts_of(shown)
        metadata: Mapping[str, str] = shown.get("metadata") or {}
        return {
            "id": shown["id"],
            "input_file_id": metadata.get("input_file_id"),
            "status": state.upper(),
            "created_at": iso(shown.get("created_at")),
            "job_deadline": iso(shown.get("expires_at")),
            "endpoint": shown.get("endpoint"),
            "progress": 100.0 * counts["completed"] / max(counts["total"], 1),
            "output_file_id": shown.get("output_file_id"),
            "error_file_id": shown.get("error_file_id"),
            "error": "; ".join(problems_of(shown)) or None,
        }

    def _create(self, asked: Asked) -> Shown:
        return {"job": super()._create(asked), "warning": None}

    def _list(self, asked: Asked) -> Response:
        found, _ = self.page(None, 10_000)
        return JSONResponse([self.shown(one) for one in found])


class Voyage(Family):
    """`VoyageBatch` speaks it: embeddings, whose model is the job's."""

    name = "voyage"

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        return line["custom_id"], {"model": "the job's", "input": line["body"]["input"][0]}

    def wanted(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        (params,) = needed(super().wanted(body), "request_params")
        needed(params, "model")
        return body
