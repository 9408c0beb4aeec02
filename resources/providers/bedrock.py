"""Amazon Bedrock's batch inference as a Dagster resource."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ..clock import Clock
from ..errors import AmbiguousError, RefusedError, UserError
from ..request import RequestSpec
from ..visible import visible
from .aws import S3, Signer, credentials_of
from .buckets import Bucket, BucketProvider, clean_folder
from .http import HttpClient
from .kept import lines_in
from .openai_shape import TOKEN_KEY
from .profile import About, Certainty, Profile
from .protocol import Batch, BatchProvider, Phase, Problem
from .replies import an_object, count, id_of, mapping, moment, path_part
from .resource import BatchResource
from .wires.bedrock import CLAUDE_PARAMETERS, CLAUDE_WIRE, CONVERSE_PARAMETERS, CONVERSE_WIRE

# Job, listing and statuses: botocore's bedrock model 1.44.8, read 2026-11-25. Rows and bytes: docs.aws.amazon.com's
# pages on batch inference and quotas, read 2026-11-24; both are quotas of a model and a region, and can be raised.
#
# A create carries our token as its clientRequestToken, so that something in between that repeats it makes no second
# job. But for how long a token is known, and what is replied the second time, is written nowhere. A lost create is
# therefore not sent again but looked for: the listing has the token, the job's name and the input's address.
BEDROCK = Profile(
    name="bedrock",
    about=About(
        title="Amazon Bedrock",
        found_by="its request token, its name or its input file, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="50 %, on some models",
        structured="outputConfig.textFormat with a JSON schema; for Claude as well a tool that has to be called",
        uncertain=(
            "whether every model takes a schema in a batch: the pages disagree",
            "which characters a recordId may have; ours are letters, digits and a hyphen",
            "whether rows that a stopped job never came to have result lines",
            "that a create answered with a conflict is a second one: it is looked for, not believed",
        ),
    ),
    wire=CONVERSE_WIRE,
    max_rows=50_000,
    min_rows=100,
    max_bytes=1_000_000_000,
    windows=("24h",),
    endpoints={"chat": "Converse"},
    at_once={"chat": "/model/{model}/converse"},
    parameters={"chat": CONVERSE_PARAMETERS},
    poll_seconds=(60.0, 300.0),
)
_CLAUDE = replace(
    BEDROCK,
    wire=CLAUDE_WIRE,
    endpoints={"chat": "InvokeModel"},
    at_once={"chat": "/model/{model}/invoke"},
    parameters={"chat": CLAUDE_PARAMETERS},
)
INVOCATIONS: Mapping[str, Profile] = {"Converse": BEDROCK, "InvokeModel": _CLAUDE}
"""How a model is asked → the facts."""

_PHASES = {
    "Submitted": Phase.QUEUED,
    "Validating": Phase.QUEUED,
    "Scheduled": Phase.QUEUED,
    "InProgress": Phase.RUNNING,
    "Stopping": Phase.RUNNING,
    "Completed": Phase.COMPLETED,
    "PartiallyCompleted": Phase.EXPIRED,  # not all of its rows could be asked in time
    "Expired": Phase.EXPIRED,
    "Failed": Phase.FAILED,
    "Stopped": Phase.CANCELLED,
}
_NAME = "batch-llm-"
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::([0-9]{12}):role/\S+")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}")


class BedrockBatch(BatchResource):
    """Models on Amazon Bedrock, whose requests and results lie in a bucket of yours.

    Args:
        region: Such as ``us-east-1``; the bucket is there, too.
        role_arn: The role that Bedrock takes to read and write the bucket.
        s3_folder: Where files go: ``s3://bucket/folder``.
        access_key_id: ``dg.EnvVar("AWS_ACCESS_KEY_ID")``; without it botocore looks for credentials as it always does.
        secret_access_key: ``dg.EnvVar("AWS_SECRET_ACCESS_KEY")``.
        session_token: Of credentials that expire.
        aws_profile: A profile of ``~/.aws``.
        invocation: ``Converse``, which all models understand, or ``InvokeModel`` for the native requests of Claude,
            which is held to a schema by a tool.
        timeout_hours: How long a job may take, from 24 to 168.
        min_rows_per_batch: Fewest requests in a job, if your quota isn't 100.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 50,000 rows.
        base_url: The API's address, if it isn't the region's.
        s3_url: The address of the buckets, if it isn't the region's.
        runtime_url: Where fewer requests than a job's least are asked one by one, if it isn't the region's.

    Raises:
        MissingExtraError: botocore isn't installed.
        MissingSecretError: There are no credentials.
        UserError: The region, the role, the folder, the invocation or the hours can't be any.
    """

    region: str
    role_arn: str
    s3_folder: str
    access_key_id: str = ""
    secret_access_key: str = ""
    session_token: str = ""
    aws_profile: str = ""
    invocation: str = "Converse"
    timeout_hours: int = 24
    min_rows_per_batch: int = 100
    base_url: str = ""
    s3_url: str = ""
    runtime_url: str = ""

    def provider(self) -> BatchProvider:
        owner = self._checked()
        folder = clean_folder("bedrock", "s3_folder", "s3", self.s3_folder)
        found = credentials_of(self.access_key_id, self.secret_access_key, self.session_token, self.aws_profile)
        api = self.base_url or f"https://bedrock.{self.region}.amazonaws.com"
        s3 = self.s3_url or f"https://s3.{self.region}.amazonaws.com"
        direct = self.runtime_url or f"https://bedrock-runtime.{self.region}.amazonaws.com"
        http, files, runtime = (
            HttpClient(name="bedrock", base_url=url, api_key="", headers={}, auth=Signer(service, self.region, found))
            for service, url in (("bedrock", api), ("s3", s3), ("bedrock", direct))
        )
        facts = replace(
            self.limited(INVOCATIONS[self.invocation]),
            windows=(f"{self.timeout_hours}h",),
            min_rows=self.min_rows_per_batch,
        )
        if facts.max_rows < facts.min_rows:
            raise UserError(
                f"bedrock: max_rows_per_batch is {facts.max_rows}, and a job has at least {facts.min_rows} requests. "
                "Raise it, or min_rows_per_batch if your quota says otherwise."
            )
        # The role says which account it is: credentials of another one can't pass it on.
        account = f"{owner}/{self.region}"
        bucket, role = S3(files), self.role_arn
        return BedrockJobs(facts, http, bucket=bucket, folder=folder, account=account, role=role, runtime=runtime)

    def _checked(self) -> str:
        """The account's number."""
        role = _ROLE.fullmatch(self.role_arn)
        if role is None:
            raise UserError(
                f"bedrock: role_arn is {self.role_arn!r}; name the role that Bedrock takes to read and write the "
                "bucket, such as 'arn:aws:iam::123456789012:role/batches'. Nothing was sent."
            )
        if not _REGION.fullmatch(self.region):
            raise UserError(f"bedrock: region is {self.region!r}; write it as 'us-east-1'. Nothing was sent.")
        if self.invocation not in INVOCATIONS:
            raise UserError(
                f"bedrock: invocation is {self.invocation!r}; it is 'Converse' or 'InvokeModel'. Nothing was sent."
            )
        if not 24 <= self.timeout_hours <= 168:
            raise UserError(
                f"bedrock: timeout_hours is {self.timeout_hours}; a job takes from 24 to 168. Nothing was sent."
            )
        return role[1]


class BedrockJobs(BucketProvider):
    """A `BatchProvider` for one account in one region; `role` reads and writes its bucket.

    Shapes: ``CreateModelInvocationJob`` and its sisters, of botocore's bedrock model 1.44.8.
    """

    batches: str = "/model-invocation-jobs"
    cancelling: ClassVar[str] = "/stop"
    listing: ClassVar[str] = "invocationJobSummaries"
    omits_empty: ClassVar[bool] = True
    page: ClassVar[Mapping[str, str | int]] = {
        "maxResults": 100,
        "nameContains": _NAME,
        "sortBy": "CreationTime",
        "sortOrder": "Descending",
    }
    next_token: ClassVar[tuple[str, str] | None] = ("nextToken", "nextToken")
    results: ClassVar[str] = ".jsonl.out"

    def __init__(
        self,
        profile: Profile,
        http: HttpClient,
        *,
        bucket: Bucket,
        folder: str,
        account: str,
        role: str,
        runtime: HttpClient | None = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(profile, http, bucket=bucket, folder=folder, account=account, clock=clock)
        self._role = role
        self._direct = runtime or http

    def at(self, batch_id: str) -> str:
        return f"/model-invocation-job/{path_part(batch_id)}"

    def upload(self, path: Path, filename: str) -> str:
        number = lines_in(path)
        if number < self._profile.min_rows:
            raise RefusedError(
                f"bedrock: a job has at least {self._profile.min_rows} requests, this one has {number}. Nothing was "
                "sent. Ask more rows at once, or a provider that takes fewer; if your quota says otherwise, set "
                "min_rows_per_batch."
            )
        return super().upload(path, filename)

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        body = {
            "jobName": f"{_NAME}{token}",
            "clientRequestToken": token,
            "roleArn": self._role,
            "modelId": spec.model,
            "modelInvocationType": self._profile.endpoints[spec.operation],
            "timeoutDurationInHours": int(self._profile.windows[0].removesuffix("h")),
            "inputDataConfig": {"s3InputDataConfig": {"s3InputFormat": "JSONL", "s3Uri": file_id}},
            "outputDataConfig": {"s3OutputDataConfig": {"s3Uri": f"{self.output(token)}/"}},
        }
        try:
            return self.parse(self._http.post_once("/model-invocation-job", body, still_allowed).body)
        except RefusedError as error:
            if error.code != "ConflictException":
                raise
            raise AmbiguousError(error.message, status=error.status, code=error.code) from error

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        name = id_of({"id": str(job.get("jobArn", "")).rpartition("/")[2]})
        status = str(job.get("status", "Submitted"))  # a create's reply has nothing but the id
        phase = _PHASES.get(status, Phase.UNKNOWN)
        given, into = (
            str(mapping(mapping(job.get(f"{side}putDataConfig")).get(f"s3{kind}putDataConfig")).get("s3Uri") or "")
            for side, kind in (("in", "In"), ("out", "Out"))
        )
        token = str(job.get("clientRequestToken") or "") or str(job.get("jobName", "")).removeprefix(_NAME)
        said = job.get("message")
        return Batch(
            id=name,
            phase=phase,
            status="cancelling" if status == "Stopping" else status,
            created_at=moment(job.get("submitTime")),
            expires_at=moment(job.get("jobExpirationTime")),
            input_file_id=given or None,
            metadata={TOKEN_KEY: token} if token else {},
            total=count(job.get("totalRecordCount")),
            completed=count(job.get("successRecordCount")),
            failed=count(job.get("errorRecordCount")),
            result_files=(f"{into.rstrip('/')}/{name}/",) if phase.ended and into else (),
            problems=(Problem("error", visible(str(said))),) if said and phase is Phase.FAILED else (),
            in_one_file=True,
        )
