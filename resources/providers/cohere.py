"""Cohere's batches as a Dagster resource."""

from __future__ import annotations

import importlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from ..errors import AmbiguousError, BusyError, MissingExtraError, RefusedError
from ..file_names import digest
from ..request import RequestSpec
from ..visible import visible
from .http import HttpClient
from .kept import keep
from .openai_shape import TOKEN_KEY
from .over_http import HttpProvider
from .profile import About, Certainty, Profile
from .protocol import Batch, BatchProvider, Phase, Problem
from .replies import an_object, count, id_of, listed, loaded, mapping, moment, path_part
from .resource import BatchResource, clean_key
from .wires.cohere import CHAT_PARAMETERS, COHERE_WIRE, EMBEDDING_PARAMETERS

# Datasets, batches and their statuses: the cohere Python package 7.3.1, read 2026-11-25. Bytes of a dataset (1.5 GB)
# and its 30 days: docs.cohere.com's page on datasets, read 2026-11-24. How many rows it may have is written nowhere.
COHERE = Profile(
    name="cohere",
    about=About(
        title="Cohere",
        found_by="its name, which is our token, or its dataset, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        structured="words; batches take no JSON schema",
        uncertain=(
            "rows per batch",
            "how long a batch may take",
            "the fields of a result record: two kinds are read",
            "the lines and results of embeddings, which are those that are asked at once",
            "whether a batch that was cancelled keeps what it had answered",
        ),
    ),
    wire=COHERE_WIRE,
    max_rows=50_000,
    max_bytes=1_000_000_000,
    expires=False,
    keeps_seconds=30 * 86_400.0,
    endpoints={"chat": "batch-chat-v2-input", "embedding": "batch-embed-v2-input"},
    at_once={"chat": "/v2/chat", "embedding": "/v2/embed"},
    parameters={"chat": CHAT_PARAMETERS, "embedding": EMBEDDING_PARAMETERS},
    poll_seconds=(30.0, 300.0),
)

_PHASES = {
    "QUEUED": Phase.QUEUED,
    "IN_PROGRESS": Phase.RUNNING,
    "CANCELING": Phase.RUNNING,
    "COMPLETED": Phase.COMPLETED,
    "FAILED": Phase.FAILED,
    "CANCELED": Phase.CANCELLED,
}
_LOOKS, _LOOK_SECONDS = 12, 5.0
_DAMAGED = (ArithmeticError, AttributeError, EOFError, LookupError, TypeError, ValueError, zlib.error)


class CohereBatch(BatchResource):
    """Cohere's models for chat and embeddings.

    Args:
        api_key: ``dg.EnvVar("CO_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address, without the version.
        max_rows_per_batch: Cut into smaller batches than 50,000 rows.

    Raises:
        MissingExtraError: fastavro isn't installed, without which no result can be read.
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.cohere.com"

    def provider(self) -> BatchProvider:
        _fastavro()
        key = clean_key(COHERE.name, self.api_key, "CO_API_KEY")
        http = HttpClient(name=COHERE.name, base_url=self.base_url, api_key=key)
        return CohereBatches(self.limited(COHERE), http, account=self.base_url.rstrip("/"))


class CohereBatches(HttpProvider):
    """A `BatchProvider` for one Cohere user: requests and results are datasets, results in Avro at signed addresses.

    Shapes: ``Batch`` and ``Dataset`` of the cohere Python package 7.3.1.
    """

    batches: str = "/v2/batches"
    cancelling: ClassVar[str] = ":cancel"
    listing: ClassVar[str] = "batches"
    omits_empty: ClassVar[bool] = True
    newest_first: ClassVar[bool] = False
    page: ClassVar[Mapping[str, str | int]] = {"page_size": 100}
    next_token: ClassVar[tuple[str, str] | None] = ("next_page_token", "page_token")

    def content(self, file: str) -> str:
        return f"/v1/datasets/{path_part(file)}"

    def upload(self, path: Path, filename: str) -> str:
        with path.open("rb") as lines:  # what they ask for shows in the first one
            first = mapping(loaded(lines.readline().decode()))
        kind = "embedding" if "texts" in mapping(first.get("body")) else "chat"
        asked = {"name": filename, "type": self._profile.endpoints[kind], "keep_fields": "custom_id"}
        reply = self._http.upload(f"/v1/datasets?{urlencode(asked)}", {}, path, filename, part="data")
        dataset = id_of(an_object(reply.body))
        for _ in range(_LOOKS):
            seen = self._dataset(dataset)
            status = str(seen.get("validation_status"))
            if status in {"validated", "skipped"}:
                return dataset
            if status == "failed":
                why = visible(str(seen.get("validation_error")))
                raise RefusedError(f"cohere: dataset {dataset} is not valid: {why!r}. Nothing was asked.", status=400)
            self._clock.sleep(_LOOK_SECONDS)
        raise BusyError(f"cohere: dataset {dataset} is still being validated. Nothing was asked yet.")

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        body = {"name": token, "input_dataset_id": file_id, "model": spec.model}
        return self.parse(self._http.post_once(self.batches, body, still_allowed).body)

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        job = an_object(job["batch"]) if "batch" in job else job
        status = str(job.get("status", "")).removeprefix("BATCH_STATUS_")
        phase = _PHASES.get(status, Phase.UNKNOWN)
        output, said = job.get("output_dataset_id"), job.get("status_reason")
        return Batch(
            id=id_of(job),
            phase=phase,
            status="cancelling" if status == "CANCELING" else status.lower(),
            created_at=moment(job.get("created_at")),
            input_file_id=str(job["input_dataset_id"]) if job.get("input_dataset_id") else None,
            metadata={TOKEN_KEY: str(job["name"])} if job.get("name") else {},
            total=count(job.get("num_records")),
            completed=count(job.get("num_successful_records")),
            failed=count(job.get("num_failed_records")),
            result_files=(str(output),) if output and phase.ended else (),
            problems=(Problem("error", visible(str(said))),) if said and phase is Phase.FAILED else (),
            in_one_file=True,
        )

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        paths: list[Path] = []
        for dataset in batch.result_files:
            seen = self._dataset(dataset)
            for part in map(mapping, listed(seen, "dataset_parts", empty=True)):
                name = digest(f"{dataset}/{part.get('id')}")
                path = folder / f"{name}.jsonl"
                if not path.exists():
                    self._fetch_part(part, path)
                paths.append(path)
        return paths

    def _fetch_part(self, part: Mapping[str, Any], path: Path) -> None:
        raw = path.with_suffix(".avro")
        if not part.get("url"):
            raise AmbiguousError(f"cohere: result part {part.get('id')} has no address yet. It will be fetched again.")
        try:
            self._http.download_from(str(part["url"]), raw)
            keep(path, _lines(raw, count(part.get("num_rows"))), self._clock.token())
        finally:
            raw.unlink(missing_ok=True)

    def first_custom_id(self, batch: Batch) -> str | None:
        """Batches have names, so that nobody has to ask."""
        del batch
        return None

    def _dataset(self, dataset: str) -> Mapping[str, Any]:
        return mapping(an_object(self._http.get(self.content(dataset)).body).get("dataset"))

    def has_file(self, file_id: str) -> bool:
        return self._http.answered("GET", self.content(file_id), accepted=(404,)).status != 404

    def shows_files(self) -> bool:
        return True

    def delete_file(self, file_id: str) -> None:
        self._http.answered("DELETE", self.content(file_id), accepted=(404,))


def _lines(raw: Path, rows: int) -> Iterator[bytes]:
    """The records of an Avro file as JSON lines; of one that was cut short, an `AmbiguousError`."""
    number = 0
    with raw.open("rb") as stream:
        try:
            for record in _fastavro().reader(stream):
                yield json.dumps(_said(mapping(record)), default=str).encode() + b"\n"
                number += 1
        except (*_DAMAGED, _fastavro().schema.SchemaParseException) as error:
            raise AmbiguousError(f"cohere: a result part can't be read ({error}). It will be fetched again.") from error
    if number < rows:
        raise AmbiguousError(f"cohere: a result part came with {number} of {rows} records. It will be fetched again.")


def _said(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its reply and its error as what they are: some are written as texts."""
    reply, error = record.get("response") or record.get("body"), record.get("error")
    return {
        "custom_id": record.get("custom_id"),
        "response": loaded(reply) or reply if isinstance(reply, str) else reply,
        "error": (loaded(error) or {"message": error}) if isinstance(error, str) and error else error or None,
    }


def _fastavro() -> Any:
    try:
        return importlib.import_module("fastavro")
    except ImportError as error:
        raise MissingExtraError("Cohere's results need fastavro: pip install 'dagster-batch-llm[cohere]'") from error
