"""Google's Vertex AI batch predictions as a Dagster resource."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import ClassVar

from ..clock import Clock
from ..errors import UserError
from ..request import RequestSpec
from ..visible import visible
from .buckets import Bucket, BucketProvider, clean_folder
from .google_cloud import Bearer, CloudStorage, credentials_of
from .http import HttpClient
from .openai_shape import TOKEN_KEY
from .profile import About, Certainty, Profile
from .protocol import Batch, BatchProvider, Phase, Problem
from .replies import an_object, count, listed, mapping, moment, name_of
from .resource import BatchResource
from .wires.google import CHAT_PARAMETERS, VERTEX_WIRE

# Job, listing and states: the google-genai Python package 3.6.1 in its Vertex mode, read 2026-11-25. Rows, bytes and
# times (up to 72 hours in the queue, then 24 hours, after which what is left is cancelled): cloud.google.com's pages on
# batch inference, read 2026-11-24. Requests are imported like a table: no name may begin with $.
VERTEX = Profile(
    name="vertex",
    about=About(
        title="Google Vertex AI",
        found_by="its display name or its input file, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="50 %; cached tokens at their usual price",
        structured="responseJsonSchema",
        uncertain=(
            "custom_id isn't documented: what stands beside a request was seen to come back beside its answer",
            "what the status of a row says that was cancelled",
            "the order of the listing",
        ),
    ),
    wire=VERTEX_WIRE,
    max_rows=200_000,
    max_bytes=1_000_000_000,
    windows=("96h",),
    endpoints={"chat": "generateContent"},
    at_once={"chat": "publishers/google/models/{model}:generateContent"},
    parameters={"chat": CHAT_PARAMETERS},
    poll_seconds=(60.0, 300.0),
)

_PHASES = {
    "QUEUED": Phase.QUEUED,
    "PENDING": Phase.QUEUED,
    "RUNNING": Phase.RUNNING,
    "CANCELLING": Phase.RUNNING,  # it may still succeed
    "UPDATING": Phase.RUNNING,
    "PAUSED": Phase.RUNNING,
    "SUCCEEDED": Phase.COMPLETED,
    "PARTIALLY_SUCCEEDED": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "CANCELLED": Phase.CANCELLED,
    "EXPIRED": Phase.EXPIRED,
}
_LOCATION = re.compile(r"global|[a-z]+-[a-z]+[0-9]+|us|eu")
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{2,60}")


class VertexBatch(BatchResource):
    """Gemini models on Vertex AI, whose requests and results lie in a bucket of yours.

    Args:
        project: The project's name.
        location: Such as ``us-central1``, or ``global``.
        gcs_folder: Where files go: ``gs://bucket/folder``.
        service_account: ``dg.EnvVar(…)`` of a service account's key in JSON; without it google-auth looks for
            credentials as it always does.
        access_token: One as ``gcloud auth print-access-token`` gives it, for a try; it ends after an hour.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 200,000 rows.
        base_url: The API's address, if it isn't the location's.
        gcs_url: The address of the buckets.

    Raises:
        MissingExtraError: google-auth isn't installed.
        MissingSecretError: There are no credentials, or the key isn't one.
        UserError: The project, the location or the folder can't be any.
    """

    project: str
    location: str
    gcs_folder: str
    service_account: str = ""
    access_token: str = ""
    base_url: str = ""
    gcs_url: str = "https://storage.googleapis.com"

    def provider(self) -> BatchProvider:
        for name, value, form, example in (
            ("project", self.project, _PROJECT, "my-project-1"),
            ("location", self.location, _LOCATION, "us-central1"),
        ):
            if not form.fullmatch(value):
                raise UserError(f"vertex: {name} is {value!r}; write it as {example!r}. Nothing was sent.")
        folder = clean_folder("vertex", "gcs_folder", "gs", self.gcs_folder)
        sign = Bearer(credentials_of(self.service_account, self.access_token))
        host = "aiplatform" if self.location == "global" else f"{self.location}-aiplatform"
        http, files = (
            HttpClient(name="vertex", base_url=url, api_key="", headers={}, auth=sign)
            for url in (self.base_url or f"https://{host}.googleapis.com", self.gcs_url)
        )
        place = f"projects/{self.project}/locations/{self.location}"
        bucket = CloudStorage(files)
        return VertexJobs(self.limited(VERTEX), http, bucket=bucket, folder=folder, account=place, place=place)


class VertexJobs(BucketProvider):
    """A `BatchProvider` for one project in one location, its `place`: ``projects/…/locations/…``.

    Shapes: ``batchPredictionJobs`` as the google-genai Python package 3.6.1 sends and reads them.
    """

    cancelling: ClassVar[str] = ":cancel"
    listing: ClassVar[str] = "batchPredictionJobs"
    omits_empty: ClassVar[bool] = True
    newest_first: ClassVar[bool] = False
    page: ClassVar[Mapping[str, str | int]] = {"pageSize": 100}
    next_token: ClassVar[tuple[str, str] | None] = ("nextPageToken", "pageToken")
    results: ClassVar[str] = ".jsonl"

    def __init__(
        self,
        profile: Profile,
        http: HttpClient,
        *,
        bucket: Bucket,
        folder: str,
        account: str,
        place: str,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(profile, http, bucket=bucket, folder=folder, account=account, clock=clock)
        self._place = place
        self.batches = f"/v1/{place}/batchPredictionJobs"

    def asked_at(self, spec: RequestSpec) -> str:
        return f"/v1/{self._place}/{super().asked_at(spec)}"

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        model = spec.model.removeprefix("models/")
        body = {
            "displayName": token,
            "model": model if "/" in model else f"publishers/google/models/{model}",
            "inputConfig": {"instancesFormat": "jsonl", "gcsSource": {"uris": [file_id]}},
            "outputConfig": {
                "predictionsFormat": "jsonl",
                "gcsDestination": {"outputUriPrefix": self.output(token)},
            },
        }
        return self.parse(self._http.post_once(self.batches, body, still_allowed).body)

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        state = str(job.get("state", "")).removeprefix("JOB_STATE_")
        phase = _PHASES.get(state, Phase.UNKNOWN)
        stats, error = mapping(job.get("completionStats")), mapping(job.get("error"))
        given: list[object] = listed(mapping(mapping(job.get("inputConfig")).get("gcsSource")), "uris", empty=True)
        # Not `outputInfo`, which comes late: nothing but this batch writes there.
        into = mapping(mapping(job.get("outputConfig")).get("gcsDestination")).get("outputUriPrefix")
        ok, failed, left = (count(stats.get(f"{kind}Count")) for kind in ("successful", "failed", "incomplete"))
        return Batch(
            id=name_of(job),
            phase=phase,
            status=state.lower(),
            created_at=moment(job.get("createTime")),
            input_file_id=str(given[0]) if given else None,
            metadata={TOKEN_KEY: str(job["displayName"])} if job.get("displayName") else {},
            total=ok + failed + left,
            completed=ok,
            failed=failed,
            result_files=(f"{str(into).rstrip('/')}/",) if phase.ended and into else (),
            problems=(Problem(str(error.get("code")), visible(str(error.get("message")))),) if error else (),
            in_one_file=True,
        )
