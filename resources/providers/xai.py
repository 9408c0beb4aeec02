"""xAI's batches as a Dagster resource."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from ..file_names import digest
from ..request import RequestSpec
from ..visible import visible
from .http import HttpClient
from .kept import keep
from .profile import About, Certainty, Profile
from .protocol import TOKEN_KEY, Batch, BatchProvider, Phase, Problem
from .replies import an_object, count, id_of, mapping, moment, page_of, path_part, row_id_of
from .resource import BatchResource, clean_key
from .wires.family import XAI_WIRE
from .wires.parameters import Parameters
from .with_files import FilesProvider

# The messages of the xai-sdk Python package 1.21.0 and the xAI adapter of litellm 1.110, read 2026-11-24: a batch has a
# name, counts and no status, its results come in pages of 1,000. How large a file may be is documented nowhere.
XAI = Profile(
    name="xai",
    about=About(
        title="xAI",
        found_by="its name, which is our token, or its input file, in the whole listing",
        certainty=Certainty.UNVERIFIED,
        read="2026-11-24",
        discount="20 to 50 %, by model",
        uncertain=(
            "rows and bytes per file",
            "the names of fields in JSON, which are those of the gRPC messages",
            "whether a row keeps its custom_id as batch_request_id",
        ),
    ),
    wire=XAI_WIRE,
    max_bytes=100_000_000,
    expires=False,
    endpoints={"chat": "/v1/chat/completions"},
    at_once={"chat": "/chat/completions"},
    parameters={
        "chat": Parameters.named(
            (
                *("temperature", "top_p", "seed", "stop", "frequency_penalty", "presence_penalty"),
                *("reasoning_effort", "search_parameters", "user"),
            ),
            limit="max_completion_tokens",
        )
    },
)


class XaiBatch(BatchResource):
    """Grok in batches.

    Args:
        api_key: ``dg.EnvVar("XAI_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version.
        max_rows_per_batch: Cut into smaller batches than 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.x.ai/v1"

    def provider(self) -> BatchProvider:
        key = clean_key(XAI.name, self.api_key, "XAI_API_KEY")
        http = HttpClient(name=XAI.name, base_url=self.base_url, api_key=key)
        return XaiBatches(self.limited(XAI), http, account=self.base_url.rstrip("/"))


class XaiBatches(FilesProvider):
    """A `BatchProvider` for one xAI team."""

    cancelling: ClassVar[str] = ":cancel"
    listing: ClassVar[str] = "batches"
    omits_empty: ClassVar[bool] = True
    newest_first: ClassVar[bool] = False
    next_token: ClassVar[tuple[str, str] | None] = ("pagination_token", "pagination_token")

    def asked(self, file_id: str, spec: RequestSpec, token: str) -> Mapping[str, Any]:
        del spec
        return {"name": token, "input_file_id": file_id}

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        state, name = mapping(job.get("state")), id_of({"id": job.get("batch_id")})
        total, waiting, ok, failed, cancelled = (
            count(state.get(f"num_{kind}")) for kind in ("requests", "pending", "success", "error", "cancelled")
        )
        stopped = job.get("cancel_by_xai_message")
        if stopped:
            phase = Phase.RUNNING if waiting else Phase.FAILED
        elif job.get("cancel_time"):
            phase = Phase.RUNNING if waiting else Phase.CANCELLED
        else:
            phase = Phase.QUEUED if not total else Phase.RUNNING if waiting else Phase.COMPLETED
        return Batch(
            id=name,
            phase=phase,
            status="cancelling" if job.get("cancel_time") and waiting else phase.value,
            created_at=_moment(job.get("create_time")),
            expires_at=_moment(job.get("expire_time")),
            input_file_id=str(job["input_file_id"]) if job.get("input_file_id") else None,
            metadata={TOKEN_KEY: str(job["name"])} if job.get("name") else {},
            total=total,
            completed=ok,
            failed=failed + cancelled,
            result_files=(name,) if phase.ended and ok + failed + cancelled else (),
            problems=(Problem("cancelled", visible(str(stopped))),) if stopped else (),
            in_one_file=True,
        )

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        if not batch.result_files:
            return []
        path = folder / f"{digest(batch.id)}.jsonl"
        if not path.exists():
            keep(path, self._results(batch), self._clock.token())
        return [path]

    def first_custom_id(self, batch: Batch) -> str | None:
        line = next(self._results(batch), None)
        return None if line is None else row_id_of(line, self._profile.wire.results.row_id, batch)

    def _results(self, batch: Batch) -> Iterator[bytes]:
        """The results as lines, page by page."""
        asked: dict[str, str | int] = {"limit": 1000}
        while True:
            page = an_object(self._http.get(f"{self.batches}/{path_part(batch.id)}/results", asked).body)
            yield from (json.dumps(line).encode() + b"\n" for line in page_of(page, "results", omits_empty=True))
            token = page.get("pagination_token")
            if not token or token == asked.get("pagination_token"):
                return
            asked["pagination_token"] = str(token)


def _moment(value: object) -> float | None:
    """A time; a day alone says too little of when it was."""
    return moment(value) if "T" in str(value) else None
