"""The worker: takes the oldest open batch one step further at a time."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import replace

from ..clock import Clock
from .answer import Engine, EngineAwayError
from .batch import Batch, Progress, Status, move
from .conduct import Conduct, Written
from .intake import Chunk, Row, check_input, read_chunk
from .store import Store
from .wire import Answer, dump_line, error_body, is_object

_DRAIN_ROWS = 2000
_POLL_SECONDS = 0.2
_DISK_SECONDS = 5.0
_SWEEP_SECONDS = 60.0

_log = logging.getLogger(__name__)

_LEFT_OVER = {
    "batch_cancelled": "This request was not answered because the batch was cancelled.",
    "batch_expired": "This request was not answered before the completion window passed.",
}


class Worker:
    """Answers batches in chunks of rows.

    Args:
        store: Where batches are.
        engine: What answers.
        clock: Says when a window has passed.
        chunk_rows: Rows answered together; a killed process repeats at most one chunk.
        min_batch_seconds: A batch is not completed sooner than this after its creation.
        conduct: How it behaves; as it should if not given.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        clock: Clock,
        *,
        chunk_rows: int = 64,
        min_batch_seconds: float = 0.0,
        conduct: Conduct | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._clock = clock
        self._chunk_rows = chunk_rows
        self._min_batch_seconds = min_batch_seconds
        self._conduct = conduct or Conduct()
        self._wake = threading.Event()
        self._swept = clock.monotonic()

    def wake(self) -> None:
        """Say that there is something new to do."""
        self._wake.set()

    def run(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set."""
        while not stop.is_set():
            self._wake.clear()
            try:
                busy = self.run_once()
            except (OSError, sqlite3.Error):
                # A full disk is mended by people; until then the batch stays where it is.
                _log.exception("The state can't be written; trying again in %s seconds.", _DISK_SECONDS)
                stop.wait(_DISK_SECONDS)
                continue
            if not busy:
                self._sweep()
                self._wake.wait(_POLL_SECONDS)

    def run_once(self) -> bool:
        """Do one step of one batch; False if there is nothing to do now."""
        batches = self._store.open_batches()
        # Giving up is quick, so cancelled batches don't wait for the ones before them.
        batches.sort(key=lambda batch: batch.status is not Status.CANCELLING)
        return any(self._step(batch) for batch in batches)

    def _step(self, batch: Batch) -> bool:
        match batch.status:
            case Status.VALIDATING:
                self._validate(batch)
            case Status.CANCELLING if batch.answered:
                self._store.finish(batch, Status.CANCELLED)
            case Status.CANCELLING:
                self._leave(batch, "batch_cancelled")
            case Status.FINALIZING:
                self._store.finish(batch, Status.COMPLETED)
            case _:
                return self._proceed(batch)
        return True

    def _proceed(self, batch: Batch) -> bool:
        now = self._clock.now()
        if self._conduct.holds(batch, now):
            return False
        cut_off = self._conduct.cut_off(batch)
        ended = cut_off[0] if cut_off and _finished(batch.progress) >= cut_off[1] else None
        if batch.overdue:
            if batch.answered:
                self._store.finish(batch, Status.EXPIRED)
            else:
                self._leave(batch, "batch_expired")
        elif batch.answered:
            if now < batch.created_at + self._min_batch_seconds:
                return False
            self._move(batch, Status.FINALIZING)
        elif ended is Status.CANCELLED:
            self._move(batch, Status.CANCELLING)
        elif ended is Status.EXPIRED or now >= batch.expires_at:
            self._store.update(batch.id, lambda current: replace(current, overdue=True))
        else:
            left = cut_off[1] - _finished(batch.progress) if cut_off else self._chunk_rows
            return self._answer(batch, min(self._chunk_rows, left))
        return True

    def _validate(self, batch: Batch) -> None:
        path = self._store.input_path(batch)
        found = self._conduct.checked(batch, check_input(path, batch.endpoint))
        if found.problems:
            known = replace(batch, problems=found.problems)
            following = Status.FAILED
        else:
            known = replace(batch, total=found.rows, model=found.model, input_size=path.stat().st_size)
            following = Status.IN_PROGRESS

        def decide(current: Batch) -> Batch:
            # It may have been cancelled while its input was read.
            merged = replace(known, status=current.status, reached=current.reached)
            return move(merged, following, self._clock.now()) if current.status is batch.status else merged

        if self._store.update(batch.id, decide).status is Status.FAILED:
            self._store.discard_work(batch)

    def _move(self, batch: Batch, status: Status) -> None:
        def advance(current: Batch) -> Batch:
            return move(current, status, self._clock.now()) if current.status is batch.status else current

        self._store.update(batch.id, advance)

    def _answer(self, batch: Batch, limit: int) -> bool:
        chunk = read_chunk(self._store.input_path(batch), batch.progress.input_bytes, limit)
        try:
            answers = self._ask(chunk.rows, batch.endpoint)
        except EngineAwayError as error:
            _log.warning("Batch %s waits: %s", batch.id, error)
            return False
        written = [_writable(batch, row, answer) for row, answer in zip(chunk.rows, answers, strict=True)]
        good, bad = self._conduct.lines(batch, written)
        self._store.append(batch, good, bad, _advance(batch.progress, chunk, [one.answer for one in written]))
        return True

    def _ask(self, rows: Sequence[Row], endpoint: str) -> Sequence[Answer]:
        try:
            return self._engine.answer([row.body for row in rows], endpoint)
        except EngineAwayError:
            raise  # nothing is wrong with the rows
        except Exception:  # noqa: BLE001 - one row must not stop a batch, whatever it did to the engine
            if len(rows) > 1:
                return [answer for row in rows for answer in self._ask([row], endpoint)]
            _log.exception("The engine failed on the row %.80r.", rows[0].custom_id)
            body = error_body("The local engine failed on this request.", status=500, code="engine_failure")
            return [Answer(500, body)]

    def _leave(self, batch: Batch, code: str) -> None:
        chunk = read_chunk(self._store.input_path(batch), batch.progress.input_bytes, _DRAIN_ROWS)
        lines = [_left_line(batch, row, code) for row in chunk.rows]
        progress = replace(batch.progress, input_bytes=chunk.end, failed=batch.progress.failed + len(chunk.rows))
        self._store.append(batch, b"", b"".join(lines), progress)

    def _sweep(self) -> None:
        if self._clock.monotonic() - self._swept > _SWEEP_SECONDS:
            self._swept = self._clock.monotonic()
            self._store.delete_expired()


def _finished(progress: Progress) -> int:
    return progress.completed + progress.failed


def _advance(progress: Progress, chunk: Chunk, answers: Sequence[Answer]) -> Progress:
    good = sum(answer.ok for answer in answers)
    return replace(
        progress,
        input_bytes=chunk.end,
        completed=progress.completed + good,
        failed=progress.failed + len(answers) - good,
        prompt_tokens=progress.prompt_tokens + sum(_tokens(answer, "prompt_tokens") for answer in answers),
        completion_tokens=progress.completion_tokens + sum(_tokens(answer, "completion_tokens") for answer in answers),
    )


def _tokens(answer: Answer, name: str) -> int:
    usage = answer.body.get("usage")
    count = usage.get(name) if is_object(usage) else None
    return count if isinstance(count, int) else 0


def _answer_line(batch: Batch, row: Row, answer: Answer) -> bytes:
    number = _row_number(batch, row)
    response = {"status_code": answer.status, "request_id": f"req_{number}", "body": answer.body}
    return dump_line({"id": f"batch_req_{number}", "custom_id": row.custom_id, "response": response, "error": None})


def _writable(batch: Batch, row: Row, answer: Answer) -> Written:
    """The answer and its line; an answer that is no JSON becomes an error."""
    try:
        return Written(row, answer, _answer_line(batch, row, answer))
    except ValueError as error:
        message = f"The answer can't be written as JSON: {error}."
        failed = Answer(502, error_body(message, status=502, code="invalid_answer"))
        return Written(row, failed, _answer_line(batch, row, failed))


def _left_line(batch: Batch, row: Row, code: str) -> bytes:
    error = {"code": code, "message": _LEFT_OVER[code]}
    identity = f"batch_req_{_row_number(batch, row)}"
    return dump_line({"id": identity, "custom_id": row.custom_id, "response": None, "error": error})


def _row_number(batch: Batch, row: Row) -> str:
    text = f"{batch.id}/{row.custom_id}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]
