"""``/v1/batches``."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .desk import Desk
from .reading import page, read_json, read_limit


class BatchRoutes:
    """Create, list, look at and cancel batches."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/batches", self.create, methods=["POST"]),
            Route("/v1/batches", self.index, methods=["GET"]),
            Route("/v1/batches/{batch_id}", self.show, methods=["GET"]),
            Route("/v1/batches/{batch_id}/cancel", self.cancel, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        batch = await run_in_threadpool(self._desk.create, await read_json(request))
        return JSONResponse(await run_in_threadpool(self._desk.shown, batch))

    def index(self, request: Request) -> Response:
        limit = read_limit(request, default=20, largest=100)
        found = self._desk.page(request.query_params.get("after"), limit + 1)
        return JSONResponse(page([self._desk.shown(batch) for batch in found], limit))

    def show(self, request: Request) -> Response:
        return JSONResponse(self._desk.shown(self._desk.batch(request.path_params["batch_id"])))

    def cancel(self, request: Request) -> Response:
        return JSONResponse(self._desk.shown(self._desk.cancel(request.path_params["batch_id"])))
