"""``/v1/batches``."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ..clock import Clock
from .batch import TERMINAL, Batch, Status, move, parse_window
from .conduct import Conduct
from .reading import is_text, page, read_json, read_limit, read_seconds
from .store import Store
from .wire import RefusalError, clean_text, is_object
from .worker import Worker

_MAX_PAIRS = 16
_MAX_KEY = 64
_MAX_VALUE = 512


class BatchRoutes:
    """Create, list, look at and cancel batches."""

    def __init__(self, store: Store, worker: Worker, endpoints: frozenset[str], clock: Clock, conduct: Conduct) -> None:
        self._store = store
        self._worker = worker
        self._endpoints = endpoints
        self._clock = clock
        self._conduct = conduct

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.index, methods=["GET"]),
            Route("/v1/batches/{batch_id}", self.show, methods=["GET"]),
            Route("/v1/batches/{batch_id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        body = await read_json(request)
        batch = await run_in_threadpool(self._create, body)
        self._worker.wake()
        return JSONResponse(await run_in_threadpool(self._conduct.shown, batch))

    def index(self, request: Request) -> Response:
        limit = read_limit(request, default=20, largest=100)
        after = request.query_params.get("after")
        if after is not None:
            self._batch(after)
        found = self._store.batches(after=after, limit=limit + 1)
        return JSONResponse(page([self._conduct.shown(batch) for batch in found], limit))

    def show(self, request: Request) -> Response:
        return JSONResponse(self._conduct.shown(self._batch(request.path_params["batch_id"])))

    def cancel(self, request: Request) -> Response:
        batch = self._store.update(self._batch(request.path_params["batch_id"]).id, self._cancelled)
        self._worker.wake()
        return JSONResponse(self._conduct.shown(batch))

    def _cancelled(self, batch: Batch) -> Batch:
        if batch.status in TERMINAL:
            raise RefusalError(
                f"Cannot cancel a batch with status '{batch.status}'.", status=409, code="invalid_batch_status"
            )
        # Too late, or asked before: it ends the way it is already ending.
        if batch.status in (Status.CANCELLING, Status.FINALIZING) or batch.overdue:
            return batch
        return move(batch, Status.CANCELLING, self._clock.now())

    def _batch(self, batch_id: str) -> Batch:
        batch = self._store.batch(batch_id)
        if batch is None:
            name = clean_text(batch_id)[:80]
            raise RefusalError(f"No batch found with id '{name}'.", status=404, code="not_found", param="batch_id")
        return batch

    def _create(self, body: Mapping[str, object]) -> Batch:
        endpoint = body.get("endpoint")
        if not isinstance(endpoint, str) or endpoint not in self._endpoints:
            known = ", ".join(sorted(self._endpoints))
            raise RefusalError(f"'endpoint' has to be one of {known} on this server.", param="endpoint")
        window = body.get("completion_window")
        seconds = parse_window(window)
        if not isinstance(window, str) or seconds is None:
            raise RefusalError("'completion_window' has to be a time such as '24h'.", param="completion_window")
        source = self._store.file(file_id) if isinstance(file_id := body.get("input_file_id"), str) else None
        if source is None:
            name = clean_text(str(file_id))[:80]
            raise RefusalError(f"Invalid 'input_file_id': no file {name!r}.", param="input_file_id")
        if source.purpose != "batch":
            raise RefusalError("The input file's purpose has to be 'batch'.", param="input_file_id")
        metadata = _metadata(body.get("metadata"))
        kept = _output_seconds(body.get("output_expires_after"))
        try:
            return self._store.add_batch(source, endpoint, (window, seconds), metadata=metadata, output_seconds=kept)
        except FileNotFoundError as error:
            raise RefusalError("The input file was deleted just now.", param="input_file_id") from error


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    pairs = list(value.items()) if is_object(value) else None
    if pairs is None or len(pairs) > _MAX_PAIRS:
        raise RefusalError(f"'metadata' has to be an object with at most {_MAX_PAIRS} pairs.", param="metadata")
    metadata: dict[str, str] = {}
    for key, text in pairs:
        if not isinstance(text, str) or len(key) > _MAX_KEY or len(text) > _MAX_VALUE or not is_text(key + text):
            raise RefusalError(
                f"'metadata' takes keys of at most {_MAX_KEY} and text values of at most {_MAX_VALUE} characters.",
                param="metadata",
            )
        metadata[key] = text
    return metadata


def _output_seconds(value: object) -> int | None:
    if value is None:
        return None
    if not is_object(value):
        raise RefusalError("'output_expires_after' has to be an object.", param="output_expires_after")
    return read_seconds(value.get("anchor"), value.get("seconds"), "output_expires_after")
