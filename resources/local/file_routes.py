"""``/v1/files``."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Route

from .desk import Desk
from .intake import MAX_FILE_BYTES
from .reading import page, read_limit, read_seconds
from .store import FILE_SECONDS, Store, StoredFile
from .wire import RefusalError, clean_text

_MAX_FILENAME = 255
_MAX_LIST = 10_000
_FORM_OVERHEAD = 1_000_000


class FileRoutes:
    """Upload, list, look at, read and delete files."""

    def __init__(self, store: Store, desk: Desk) -> None:
        self._store = store
        self._desk = desk

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.index, methods=["GET"]),
            Route("/v1/files/{file_id}", self.show, methods=["GET"]),
            Route("/v1/files/{file_id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{file_id}/content", self.content, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if length.isdecimal() and int(length) > MAX_FILE_BYTES + _FORM_OVERHEAD:
            raise _too_large()
        # The form is spooled to a temporary file as it comes in, so a large upload does not fill the memory.
        async with request.form(max_files=1, max_fields=16) as form:
            upload = form.get("file")
            if not isinstance(upload, UploadFile):
                raise RefusalError("'file' is missing.", code="missing_required_parameter", param="file")
            if form.get("purpose") != "batch":
                raise RefusalError("'purpose' has to be 'batch' on this server.", param="purpose")
            if (upload.size or 0) > MAX_FILE_BYTES:
                raise _too_large()
            name = clean_text(upload.filename or "upload.jsonl")[:_MAX_FILENAME]
            stored = await run_in_threadpool(self._store.add_file, upload.file, name, _expiry(form))
        return JSONResponse(_file_object(stored))

    def index(self, request: Request) -> Response:
        limit = read_limit(request, default=_MAX_LIST, largest=_MAX_LIST)
        order = request.query_params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise RefusalError("'order' has to be 'asc' or 'desc'.", param="order")
        after = request.query_params.get("after")
        if after is not None:
            self._desk.file(after)
        found = self._store.files(
            purpose=request.query_params.get("purpose"), after=after, limit=limit + 1, newest_first=order == "desc"
        )
        return JSONResponse(page([_file_object(stored) for stored in found], limit))

    def show(self, request: Request) -> Response:
        return JSONResponse(_file_object(self._desk.file(request.path_params["file_id"])))

    def content(self, request: Request) -> Response:
        stored = self._desk.file(request.path_params["file_id"])
        return FileResponse(self._store.content(stored.id), media_type="application/octet-stream")

    def delete(self, request: Request) -> Response:
        stored = self._desk.file(request.path_params["file_id"])
        self._store.delete_file(stored.id)
        return JSONResponse({"id": stored.id, "object": "file", "deleted": True})


def _expiry(form: FormData) -> int:
    anchor, seconds = form.get("expires_after[anchor]"), form.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return FILE_SECONDS
    return read_seconds(anchor, seconds, "expires_after")


def _file_object(stored: StoredFile) -> Mapping[str, object]:
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.bytes,
        "created_at": int(stored.created_at),
        "expires_at": int(stored.expires_at),
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
        "status_details": None,
    }


def _too_large() -> RefusalError:
    return RefusalError(
        f"The file is larger than {MAX_FILE_BYTES} bytes.", status=413, code="file_too_large", param="file"
    )
