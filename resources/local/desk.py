"""What callers can do with files and batches, whatever protocol they speak."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ..clock import Clock
from .answer import Engine
from .batch import TERMINAL, Batch, Status, move, parse_window
from .conduct import Conduct
from .reading import is_text, read_seconds
from .store import FILE_SECONDS, Store, StoredFile
from .wire import Answer, RefusalError, clean_text, is_object
from .worker import Worker

_MAX_PAIRS = 16
_MAX_KEY = 64
_MAX_VALUE = 512


class Desk:
    """Takes files and batches in, shows them and gives their results.

    Args:
        store: Where they are.
        worker: Who answers them.
        engine: What answers.
        clock: The server's.
        conduct: How batches are shown.
    """

    def __init__(self, store: Store, worker: Worker, engine: Engine, clock: Clock, conduct: Conduct) -> None:
        self._store = store
        self._worker = worker
        self._engine = engine
        self._clock = clock
        self._conduct = conduct

    def ask(self, body: Mapping[str, object], endpoint: str) -> Answer:
        """Answer a request at once."""
        (answer,) = self._engine.answer([body], endpoint)
        self._conduct.asked(body, answer)
        return answer

    def keep(self, content: bytes | BinaryIO, name: str, seconds: int = FILE_SECONDS) -> StoredFile:
        """Store a request file."""
        stream = io.BytesIO(content) if isinstance(content, bytes) else content
        return self._store.add_file(stream, name, seconds)

    def file(self, file_id: str) -> StoredFile:
        """A stored file; a `RefusalError` with 404 if there is none."""
        stored = self._store.file(file_id)
        if stored is None:
            raise RefusalError(
                f"No such File object: {clean_text(file_id)[:80]}", status=404, code="not_found", param="id"
            )
        return stored

    def drop(self, file_id: str) -> None:
        """Forget a file."""
        self._store.delete_file(self.file(file_id).id)

    def lines(self, file_id: str) -> Iterator[bytes]:
        """A file's lines."""
        with self._store.content(self.file(file_id).id).open("rb") as stream:
            yield from stream

    def create(self, body: Mapping[str, object]) -> Batch:
        """A new batch, asked for in OpenAI's words."""
        batch = self._created(body)
        self._worker.wake()
        return batch

    def batch(self, batch_id: str) -> Batch:
        """A batch; a `RefusalError` with 404 if there is none."""
        batch = self._store.batch(batch_id)
        if batch is None:
            name = clean_text(batch_id)[:80]
            raise RefusalError(f"No batch found with id '{name}'.", status=404, code="not_found", param="batch_id")
        return batch

    def page(self, after: str | None, limit: int) -> list[Batch]:
        """Batches, newest first, after one of them."""
        if after is not None:
            self.batch(after)
        return self._store.batches(after=after, limit=limit)

    def shown(self, batch: Batch) -> dict[str, Any]:
        """A batch as OpenAI shows it."""
        return dict(self._conduct.shown(batch))

    def cancel(self, batch_id: str) -> Batch:
        """Stop a batch; a `RefusalError` with 409 if it has ended."""
        batch = self._store.update(self.batch(batch_id).id, self._cancelled)
        self._worker.wake()
        return batch

    def _cancelled(self, batch: Batch) -> Batch:
        if batch.status in TERMINAL:
            raise RefusalError(
                f"Cannot cancel a batch with status '{batch.status}'.", status=409, code="invalid_batch_status"
            )
        # Too late, or asked before: it ends the way it is already ending.
        if batch.status in (Status.CANCELLING, Status.FINALIZING) or batch.overdue:
            return batch
        return move(batch, Status.CANCELLING, self._clock.now())

    def _created(self, body: Mapping[str, object]) -> Batch:
        endpoint = body.get("endpoint")
        if not isinstance(endpoint, str) or endpoint not in self._engine.endpoints:
            known = ", ".join(sorted(self._engine.endpoints))
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
