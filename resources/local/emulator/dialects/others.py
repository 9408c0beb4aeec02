"""xAI, OpenRouter and Fireworks: batches of OpenAI's requests, each handled in a way of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from starlette.responses import JSONResponse, Response

from ...answer import CHAT
from ...desk import Desk
from ...wire import RefusalError, dump_line
from .dialect import ENDED, Asked, Call, Dialect, Shown, Told, counts_of, iso, needed, problems_of
from .family import Family


class Xai(Family):
    """`XaiBatch` speaks it: a batch has a name and counts instead of a state, and its results come in pages."""

    name = "xai"

    def calls(self) -> Sequence[Call]:
        batches = "/v1/batches"
        return (
            *(call for call in super().calls() if "/files" in call.path),
            *self.at_once(self.root),
            Call("create", "POST", batches, self._create),
            Call("list", "GET", batches, self._list),
            Call("cancel", "POST", f"{batches}/{{batch_id}}:cancel", self._cancel),
            Call("content", "GET", f"{batches}/{{batch_id}}/results", self._results),
            Call("get", "GET", f"{batches}/{{batch_id}}", self._get),
        )

    def wanted(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        name, file_id = needed(body, "name", "input_file_id")
        return {
            "input_file_id": file_id,
            "endpoint": CHAT,
            "completion_window": "24h",
            "metadata": {"name": name},
        }

    def result(self, told: Told) -> Mapping[str, Any]:
        response = {"chat_get_completion": told.body} if told.is_ok else None
        code = 1 if told.code.startswith("batch_") else 3 if told.status == 400 else 13
        error = None if told.is_ok else {"code": code, "message": told.words}
        return {"batch_request_id": told.row, "batch_result": {"response": response, "error": error}}

    def shown(self, shown: Shown) -> Shown:
        counts, status = counts_of(shown), shown["status"]
        metadata: Mapping[str, str] = shown.get("metadata") or {}
        left = counts["total"] - counts["completed"] - counts["failed"]
        waiting = 0 if status in ENDED else max(left, 1)
        said = problems_of(shown)
        return {
            "batch_id": shown["id"],
            "name": metadata.get("name"),
            "create_time": iso(shown.get("created_at")),
            "expire_time": iso(shown.get("expires_at")),
            "cancel_time": iso(shown.get("cancelled_at") or shown.get("cancelling_at")),
            "cancel_by_xai_message": "; ".join(said) or None,
            "input_file_id": shown["input_file_id"],
            "state": {
                "num_requests": max(counts["total"], waiting),
                "num_pending": waiting,
                "num_success": counts["completed"],
                "num_error": counts["failed"],
                "num_cancelled": 0,
            },
        }

    def _list(self, asked: Asked) -> Shown:
        found, more = self.page(asked.query.get("pagination_token"), int(asked.query.get("limit", 100)))
        token = found[-1]["id"] if more else None
        return {"batches": [self.shown(one) for one in found], "pagination_token": token}

    def _results(self, asked: Asked) -> Response:
        lines = list(self.told(self.seen(asked)))
        start, size = int(asked.query.get("pagination_token", 0)), int(asked.query.get("limit", 100))
        token = str(start + size) if start + size < len(lines) else None
        return _page(lines[start : start + size], token)


def _page(lines: Sequence[bytes], token: str | None) -> Response:
    """A page of results; lines that are no JSON break it, as they would."""
    listed = b",".join(line.rstrip(b"\n") for line in lines)
    tail = b'], "pagination_token": ' + (f'"{token}"'.encode() if token else b"null") + b"}"
    return Response(b'{"results": [' + listed + tail, media_type="application/json")


class OpenRouter(Dialect):
    """`OpenRouterBatch` speaks it: requests in the create, results in the batch."""

    name = "openrouter"

    def calls(self) -> Sequence[Call]:
        batches = "/api/v1/batches"
        return (
            Call("create", "POST", batches, self._create),
            Call("list", "GET", batches, self._list),
            Call("get", "GET", f"{batches}/{{batch_id}}", self._get),
            *self.at_once("/api/v1"),
        )

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        return line["custom_id"], {"model": "the job's", **line["body"]}

    def result(self, told: Told) -> Mapping[str, Any]:
        answered = told.status is not None
        response = {"status_code": told.status, "body": told.body} if answered else None
        return {"custom_id": told.row, "response": response, "error": told.error}

    def _create(self, asked: Asked) -> Response:
        endpoint, _, requests = needed(asked.object, "endpoint", "model", "requests")
        file_id = self.stored(map(dump_line, requests), "requests.jsonl", endpoint)
        wanted = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return JSONResponse(self._shown(self.desk.shown(self.desk.create(wanted))), 202)

    def _list(self, asked: Asked) -> Shown:
        found, more = self.page(asked.query.get("after"), int(asked.query.get("limit", 20)))
        return {"object": "list", "data": [self._shown(one) for one in found], "has_more": more}

    def _get(self, asked: Asked) -> Response:
        shown = self.seen(asked)
        lines = b",".join(line.rstrip(b"\n") for line in self.told(shown)) if shown["status"] in ENDED else b""
        body = dump_line(self._shown(shown)).rstrip(b"}\n")
        return Response(body + b', "results": [' + lines + b"]}", media_type="application/json")

    def _shown(self, shown: Shown) -> Shown:
        kept = ("id", "object", "model", "endpoint", "status", "request_counts", "created_at", "completion_window")
        said = problems_of(shown)
        error = {"code": "invalid", "message": "; ".join(said)} if said else None
        return {**{name: shown.get(name) for name in kept}, "error": error}


class Fireworks(Dialect):
    """`FireworksBatch` speaks it: data sets, and jobs that are called as their caller wants."""

    name = "fireworks"
    _STATES: ClassVar[Mapping[str, str]] = {
        "validating": "VALIDATING",
        "in_progress": "RUNNING",
        "finalizing": "WRITING_RESULTS",
        "cancelling": "CANCELLING",
        "completed": "COMPLETED",
        "failed": "FAILED",
        "expired": "EXPIRED",
        "cancelled": "CANCELLED",
    }

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._named: dict[str, str] = {}

    def calls(self) -> Sequence[Call]:
        root = "/v1/accounts/{account}"
        jobs, datasets = f"{root}/batchInferenceJobs", f"{root}/datasets"
        return (
            Call("", "POST", datasets, self._declare),
            Call("upload", "POST", f"{datasets}/{{dataset}}:upload", self._upload),
            Call("", "GET", f"{datasets}/{{dataset}}:getDownloadEndpoint", self._signed),
            Call("", "GET", f"{datasets}/{{dataset}}", self._dataset),
            Call("delete", "DELETE", f"{datasets}/{{dataset}}", self._drop),
            Call("content", "GET", "/signed/{batch_id}", self._content),
            Call("create", "POST", jobs, self._create),
            Call("list", "GET", jobs, self._list),
            Call("get", "GET", f"{jobs}/{{job}}", self._get),
            *self.at_once("/inference/v1"),
        )

    def admits(self, headers: Mapping[str, str], token: str) -> bool:
        # What is signed needs no key.
        return "authorization" not in headers or super().admits(headers, token)

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        return line["custom_id"], {"model": "the job's", **line["body"]}

    def result(self, told: Told) -> Mapping[str, Any]:
        if told.status is None or told.status >= 400:
            return {"custom_id": told.row, "response": None, "error": {"code": told.code, "message": told.words}}
        return {"custom_id": told.row, "response": told.body, "error": None}

    def _declare(self, asked: Asked) -> Shown:
        (dataset, _) = needed(asked.object, "datasetId", "dataset")
        return {"name": f"accounts/{asked.path['account']}/datasets/{dataset}", "state": "UPLOADING"}

    def _upload(self, asked: Asked) -> Shown:
        content = asked.form.get("file")
        if not isinstance(content, bytes):
            raise RefusalError("'file' is missing.", param="file")
        self._named[asked.path["dataset"]] = self.stored(content.splitlines(keepends=True), "requests.jsonl")
        return {}

    def _dataset(self, asked: Asked) -> Shown:
        name = asked.path["dataset"]
        if name not in self._named:
            raise RefusalError(f"dataset {name} not found", status=404)
        return {"name": f"accounts/{asked.path['account']}/datasets/{name}", "state": "READY"}

    def _drop(self, asked: Asked) -> Shown:
        self._dataset(asked)
        self.desk.drop(self._named.pop(asked.path["dataset"]))
        return {}

    def _signed(self, asked: Asked) -> Shown:
        job = self._job(asked.path["dataset"].replace("out-", "batch-", 1))
        address = f"http://{asked.headers['host']}/signed/{job['id']}"
        return {"filenameToSignedUrls": {"results.jsonl": address}}

    def _content(self, asked: Asked) -> Response:
        return self.results(self.seen(asked))

    def _create(self, asked: Asked) -> Shown:
        body = asked.object
        _, dataset, output = needed(body, "model", "inputDatasetId", "outputDatasetId")
        name = asked.query.get("batchInferenceJobId", "")
        if any(self._name(one) == name for one in self.page(None, 10_000)[0]):
            raise RefusalError(f"batch inference job {name} already exists", status=409)
        metadata = {"name": name, "account": asked.path["account"], "input": dataset, "output": output}
        file_id = self._named.get(dataset.rpartition("/")[2])
        wanted = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", "metadata": metadata}
        return self._shown(self.desk.shown(self.desk.create(wanted)))

    def _list(self, asked: Asked) -> Shown:
        found, more = self.page(asked.query.get("pageToken") or None, int(asked.query.get("pageSize", 50)))
        jobs = [self._shown(one) for one in found]
        return {"batchInferenceJobs": jobs, "totalSize": len(jobs), "nextPageToken": found[-1]["id"] if more else ""}

    def _get(self, asked: Asked) -> Shown:
        return self._shown(self._job(asked.path["job"]))

    def _job(self, name: str) -> Shown:
        for one in self.page(None, 10_000)[0]:
            if self._name(one) == name:
                return one
        raise RefusalError(f"batch inference job {name} not found", status=404)

    def _name(self, shown: Shown) -> str | None:
        metadata: Mapping[str, str] = shown.get("metadata") or {}
        return metadata.get("name")

    def _shown(self, shown: Shown) -> Shown:
        counts, metadata = counts_of(shown), shown["metadata"]
        said = problems_of(shown)
        return {
            "name": f"accounts/{metadata['account']}/batchInferenceJobs/{metadata['name']}",
            "state": f"JOB_STATE_{self._STATES.get(shown['status'], shown['status'].upper())}",
            "createTime": iso(shown.get("created_at")),
            "inputDatasetId": metadata["input"],
            "outputDatasetId": metadata["output"] if shown.get("output_file_id") or shown.get("error_file_id") else "",
            "status": {"code": "INVALID_ARGUMENT" if said else "OK", "message": "; ".join(said)},
            "jobProgress": {
                "totalInputRequests": counts["total"],
                "successfullyProcessedRequests": counts["completed"],
                "failedRequests": counts["failed"],
            },
        }
