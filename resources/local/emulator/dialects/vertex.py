"""Google's Vertex AI: jobs that read a bucket and write into it, and the bucket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from ...answer import CHAT
from ...desk import Desk
from ...wire import RefusalError
from .dialect import ENDED, Asked, Call, Shown, Told, counts_of, iso, needed, problems_of
from .google import Jobs, google_reply, openai_body

_STATES = {
    "validating": "PENDING",
    "in_progress": "RUNNING",
    "finalizing": "RUNNING",
    "cancelling": "CANCELLING",
    "completed": "SUCCEEDED",
    "failed": "FAILED",
    "expired": "EXPIRED",
    "cancelled": "CANCELLED",
}


class Vertex(Jobs):
    """`VertexBatch` speaks it."""

    name = "vertex"
    listing = "batchPredictionJobs"
    page_size = 100

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk)
        self._objects: dict[str, str] = {}

    def calls(self) -> Sequence[Call]:
        place = "/v1/projects/{project}/locations/{location}"
        jobs = f"{place}/batchPredictionJobs"
        bucket, thing = "/storage/v1/b/{bucket}/o", "/storage/v1/b/{bucket}/o/{key:path}"
        return (
            Call("create", "POST", jobs, self._create),
            Call("list", "GET", jobs, self.listed),
            Call("cancel", "POST", f"{jobs}/{{batch_id}}:cancel", self.cancel),
            Call("get", "GET", f"{jobs}/{{batch_id}}", self.got),
            Call("upload", "POST", f"/upload{bucket}", self._put),
            Call("content", "GET", thing, self._thing),
            Call("delete", "DELETE", thing, self._delete),
            Call("", "GET", bucket, self._things),
            Call("ask", "POST", f"{place}/publishers/google/models/{{model}}:generateContent", self._at_once),
        )

    def request(self, line: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
        return line["custom_id"], openai_body(line["request"])

    def result(self, told: Told) -> Mapping[str, Any]:
        row = {"custom_id": told.row, "processed_time": iso(0)}
        if told.is_ok:
            return {**row, "status": "", "response": google_reply(told)}
        if told.status is None and told.code == "None":
            return row
        left = told.code in ("batch_expired", "batch_cancelled")
        kind = "Cancelled" if left else "Bad Request" if told.status == 400 else "Internal Error"
        return {**row, "status": f"{kind}: {told.words}"}

    def _at_once(self, asked: Asked) -> Shown:
        reply: Shown = google_reply(self.asked({"custom_id": "", "request": asked.object}, CHAT))
        return reply

    # ---- jobs ----

    def _create(self, asked: Asked) -> Shown:
        name, model, given, into = needed(asked.object, "displayName", "model", "inputConfig", "outputConfig")
        source, target = given["gcsSource"]["uris"][0], into["gcsDestination"]["outputUriPrefix"]
        parent = f"projects/{asked.path['project']}/locations/{asked.path['location']}"
        wanted = {
            "input_file_id": self._objects.get(source, "none"),
            "endpoint": CHAT,
            "completion_window": "96h",
            "metadata": {"name": name, "model": model, "input": source, "output": target, "parent": parent},
        }
        return self.shown(self.desk.shown(self.desk.create(wanted)))

    def shown(self, shown: Shown) -> Shown:
        metadata, counts = _told(shown), counts_of(shown)
        left = counts["total"] - counts["completed"] - counts["failed"]
        stats = {"successful": counts["completed"], "failed": counts["failed"], "incomplete": max(left, 0)}
        said = problems_of(shown)
        error = {"error": {"code": 3, "message": "; ".join(said)}} if said else {}
        return {
            "name": f"{metadata.get('parent')}/batchPredictionJobs/{shown['id']}",
            "displayName": metadata.get("name"),
            "model": metadata.get("model"),
            "state": f"JOB_STATE_{_STATES.get(shown['status'], shown['status'])}",
            "createTime": iso(shown.get("created_at")),
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [metadata.get("input")]}},
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": metadata.get("output")},
            },
            "completionStats": {f"{name}Count": str(number) for name, number in stats.items()},
            **error,
        }

    # ---- the bucket ----

    def _put(self, asked: Asked) -> Shown:
        address = f"gs://{asked.path['bucket']}/{asked.query['name']}"
        self._objects[address] = self.stored(asked.body.splitlines(keepends=True), "requests.jsonl")
        return {"name": asked.query["name"]}

    def _thing(self, asked: Asked) -> Shown | Response:
        """An object's facts, or what is in it."""
        address = f"gs://{asked.path['bucket']}/{asked.path['key']}"
        if address in self._objects:
            return {"name": asked.path["key"]}
        for shown in self._writing(address):
            if asked.query.get("alt") == "media":
                return self.results(shown)
        raise RefusalError("No such object.", status=404)

    def _delete(self, asked: Asked) -> Response:
        self._objects.pop(f"gs://{asked.path['bucket']}/{asked.path['key']}", None)
        return Response(status_code=204)

    def _things(self, asked: Asked) -> Shown:
        root = f"gs://{asked.path['bucket']}/"
        folder = root + asked.query.get("prefix", "")
        names = [name for name in self._objects if name.startswith(folder)]
        names += [
            f"{_told(shown).get('output')}/prediction-model-1/predictions.jsonl"
            for shown in self._writing(folder)
            if shown.get("output_file_id") or shown.get("error_file_id")
        ]
        return {"items": [{"name": name.removeprefix(root)} for name in names]} if names else {}

    def _writing(self, address: str) -> list[Shown]:
        """The ended jobs that write into a folder, or have written an object."""
        found, _ = self.page(None, 10_000)
        ended = [one for one in found if one["status"] in ENDED]
        return [one for one in ended if address.startswith(f"{_told(one).get('output')}/")]


def _told(shown: Shown) -> Mapping[str, str]:
    """What a create said."""
    return shown.get("metadata") or {}
