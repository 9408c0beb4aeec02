"""Amazon Bedrock: jobs that read a bucket and write into it, and the bucket, below ``/s3``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from starlette.responses import JSONResponse, Response

from ...answer import CHAT
from ...desk import Desk
from ...wire import RefusalError
from .anthropic import message_of
from .dialect import ENDED, Asked, Call, Dialect, Shown, Told, counts_of, iso, needed, problems_of

_STATUSES = {
    "validating": "Validating",
    "in_progress": "InProgress",
    "finalizing": "InProgress",
    "cancelling": "Stopping",
    "completed": "Completed",
    "failed": "Failed",
    "cancelled": "Stopped",
}
_ERRORS = {400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException"}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "content_filtered"}
_CREDENTIAL = re.compile(r"AWS4-HMAC-SHA256 Credential=([^/]+)/\d{8}/[a-z0-9-]+/(bedrock|s3)/aws4_request, .+")
_JOB = "arn:aws:bedrock:us-east-1:123456789012:model-invocation-job"


class Bedrock(Dialect):
    """`BedrockBatch` speaks it."""

    name = "bedrock"

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._objects: dict[str, str] = {}
        self._made: dict[str, str] = {}

    def calls(self) -> Sequence[Call]:
        job, thing = "/model-invocation-job", "/s3/{bucket}/{key:path}"
        return (
            Call("create", "POST", job, self._create),
            Call("list", "GET", f"{job}s", self._list),
            Call("cancel", "POST", f"{job}/{{batch_id:path}}/stop", self._stop),
            Call("get", "GET", f"{job}/{{batch_id:path}}", self._get),
            Call("upload", "PUT", thing, self._put),
            Call("", "HEAD", thing, self._head),
            Call("content", "GET", thing, self._content),
            Call("delete", "DELETE", thing, self._delete),
            Call("", "GET", "/s3/{bucket}", self._objects_of),
            Call("ask", "POST", "/model/{model}/converse", self._at_once),
            Call("ask", "POST", "/model/{model}/invoke", self._at_once),
        )

    def admits(self, headers: Mapping[str, str], token: str) -> bool:
        # Who signs is looked at, not the signature.
        signed = _CREDENTIAL.fullmatch(headers.get("authorization", ""))
        return signed is not None and signed[1] == token

    def refusal(self, error: RefusalError) -> Shown:
        return {"message": error.message, "__type": _ERRORS.get(error.status, "InternalServerException")}

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        given = line["modelInput"]
        claude = "anthropic_version" in given
        system: Any = given.get("system", [])
        words = system if isinstance(system, str) else "\n".join(block["text"] for block in system)
        said = given["messages"][-1]["content"]
        messages = [{"role": "system", "content": words}] if words else []
        messages.append({"role": "user", "content": said if claude else said[0]["text"]})
        kind = "converse" if not claude else "claude tool" if "tools" in given else "claude"
        body: dict[str, Any] = {"model": kind, "messages": messages}
        if schema := _schema_of(given):
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
        return line["recordId"], body

    def result(self, told: Told) -> Mapping[str, Any]:
        record: dict[str, Any] = {"recordId": told.row, "modelInput": {}}
        if not told.is_ok:
            return {**record, "error": {"errorCode": told.status or 500, "errorMessage": told.words}}
        return {**record, "modelOutput": told.body if told.choice is None else _answer(told, told.choice)}

    def line(self, line: bytes) -> bytes:
        """A row whose turn never came has no line."""
        never = (b'"batch_expired"', b'"batch_cancelled"')
        return b"" if any(code in line for code in never) else super().line(line)

    def _at_once(self, asked: Asked) -> Shown:
        told = self.asked({"recordId": "", "modelInput": asked.object}, CHAT)
        output: Shown = self.result(told)["modelOutput"]
        return output

    # ---- jobs ----

    def _create(self, asked: Asked) -> Shown:
        body = asked.object
        name, _, model, given, into = needed(
            body, "jobName", "roleArn", "modelId", "inputDataConfig", "outputDataConfig"
        )
        token = str(body.get("clientRequestToken"))
        if token not in self._made:
            source, target = given["s3InputDataConfig"]["s3Uri"], into["s3OutputDataConfig"]["s3Uri"]
            metadata = {"name": name, "token": token, "model": model, "input": source, "output": target}
            wanted = {
                "input_file_id": self._objects.get(source.removeprefix("s3://"), "none"),
                "endpoint": CHAT,
                "completion_window": f"{body.get('timeoutDurationInHours', 24)}h",
                "metadata": metadata,
            }
            self._made[token] = self.desk.create(wanted).id
        return {"jobArn": f"{_JOB}/{self._made[token]}"}

    def _list(self, asked: Asked) -> Shown:
        found, more = self.page(asked.query.get("nextToken"), int(asked.query.get("maxResults", 100)))
        part = asked.query.get("nameContains", "")
        named = [self._shown(one) for one in found]
        page = {"invocationJobSummaries": [one for one in named if part in str(one["jobName"])]}
        return {**page, "nextToken": found[-1]["id"]} if more else page

    def _job(self, asked: Asked) -> Asked:
        """An id may be a whole ARN."""
        name = asked.path["batch_id"].rpartition("/")[2]
        return Asked({"batch_id": name}, asked.query, asked.headers, asked.body, asked.form)

    def _get(self, asked: Asked) -> Shown:
        return self._shown(self.seen(self._job(asked)))

    def _stop(self, asked: Asked) -> Shown:
        self.cancelled(self._job(asked))
        return {}

    def _shown(self, shown: Shown) -> Shown:
        metadata: Mapping[str, str] = shown.get("metadata") or {}
        counts = counts_of(shown)
        early = "PartiallyCompleted" if counts["completed"] else "Expired"
        status = {**_STATUSES, "expired": early}.get(shown["status"], str(shown["status"]))
        told = {
            "jobArn": f"{_JOB}/{shown['id']}",
            "jobName": metadata.get("name"),
            "modelId": metadata.get("model"),
            "clientRequestToken": metadata.get("token"),
            "roleArn": "arn:aws:iam::123456789012:role/batches",
            "status": status,
            "submitTime": iso(shown.get("created_at")),
            "jobExpirationTime": iso(shown.get("expires_at")),
            "inputDataConfig": {"s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": metadata.get("input")}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": metadata.get("output")}},
            "totalRecordCount": counts["total"],
            "processedRecordCount": counts["completed"] + counts["failed"],
            "successRecordCount": counts["completed"],
            "errorRecordCount": counts["failed"] if status == "Completed" else 0,
        }
        said = problems_of(shown)
        return {**told, "message": "; ".join(said)} if said else told

    # ---- the bucket ----

    def _name(self, asked: Asked) -> str:
        return f"{asked.path['bucket']}/{asked.path['key']}"

    def _put(self, asked: Asked) -> Response:
        lines = asked.body.splitlines(keepends=True)
        self._objects[self._name(asked)] = self.stored(lines, "requests.jsonl")
        return Response()

    def _stored(self, asked: Asked) -> str:
        if (file_id := self._objects.get(self._name(asked))) is None:
            raise RefusalError("The specified key does not exist.", status=404)
        return file_id

    def _head(self, asked: Asked) -> Response:
        self.desk.file(self._stored(asked))
        return Response()

    def _delete(self, asked: Asked) -> Response:
        self._objects.pop(self._name(asked), None)
        return Response(status_code=204)

    def _content(self, asked: Asked) -> Response:
        shown = self._job_of(asked.path["key"].rpartition("/")[0])
        if shown is None:
            raise RefusalError("The specified key does not exist.", status=404)
        if asked.path["key"].endswith("manifest.json.out"):
            return JSONResponse({"totalRecordCount": counts_of(shown)["total"]})
        return self.results(shown)

    def _job_of(self, folder: str) -> Shown | None:
        """The job that writes into a folder; None if it is none's."""
        try:
            return self.desk.shown(self.desk.batch(folder.rpartition("/")[2]))
        except RefusalError:
            return None

    def _objects_of(self, asked: Asked) -> Response:
        bucket, prefix = asked.path["bucket"], asked.query.get("prefix", "")
        keys = [name.partition("/")[2] for name in self._objects if name.startswith(f"{bucket}/{prefix}")]
        shown = self._job_of(prefix.rstrip("/"))
        if shown and shown["status"] in ENDED and (shown.get("output_file_id") or shown.get("error_file_id")):
            metadata: Mapping[str, str] = shown.get("metadata") or {}
            source = str(metadata.get("input")).rpartition("/")[2]
            keys += [f"{prefix}{source}.out", f"{prefix}manifest.json.out"]
        listed = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in keys)
        xml = f"<ListBucketResult><IsTruncated>false</IsTruncated>{listed}</ListBucketResult>"
        return Response(xml, media_type="application/xml")


def _schema_of(given: Mapping[str, Any]) -> Any:
    """The schema that a request is held to; None if it isn't."""
    if tools := given.get("tools"):
        return tools[0]["input_schema"]
    form = given.get("outputConfig", {}).get("textFormat")
    return json.loads(form["structure"]["jsonSchema"]["schema"]) if form else None


def _answer(told: Told, choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer in the words that were asked."""
    kind = told.body.get("model")
    if kind == "converse":
        return _converse(told, choice)
    message = message_of(told, choice)
    if kind == "claude":
        return message
    said = [{"type": "tool_use", "id": "toolu_1", "name": "answer", "input": json.loads(message["content"][0]["text"])}]
    return {**message, "content": said, "stop_reason": "tool_use"}


def _converse(told: Told, choice: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer in Converse's words."""
    message, finish = choice["message"], choice["finish_reason"]
    text = message.get("refusal") or message.get("content")
    usage = {"inputTokens": told.tokens("prompt_tokens"), "outputTokens": told.tokens("completion_tokens")}
    return {
        "output": {"message": {"role": "assistant", "content": [] if text is None else [{"text": text}]}},
        "stopReason": "guardrail_intervened" if message.get("refusal") else _STOPS.get(finish, finish),
        "usage": usage,
        "metrics": {"latencyMs": 1},
    }
