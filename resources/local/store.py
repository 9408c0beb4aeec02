"""What the server knows, on disk: killed at any moment, it goes on where it was.

Objects are rows of one SQLite database, contents are files beside it. A change counts from the moment its
transaction commits; bytes on disk that no row knows of do not count and are removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter

from ..clock import Clock
from ..errors import StorageError
from .batch import TERMINAL, Batch, Progress, Status, move

FILE_SECONDS = 30 * 86400
"""How long a file is kept when nothing else was asked for, as at OpenAI."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    created_at REAL NOT NULL,
    expires_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    is_open INTEGER NOT NULL,
    record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS open_batches ON batches (seq) WHERE is_open = 1;
"""

_BATCH = TypeAdapter(Batch)


@dataclass(frozen=True)
class StoredFile:
    """A file's facts; times are Unix seconds."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: float
    expires_at: float


class Store:
    """Files and batches of one server; safe to use from several threads of one process.

    Args:
        home: A folder of its own.
        clock: Gives times and ids.
    """

    def __init__(self, home: Path, clock: Clock) -> None:
        self._clock = clock
        self._files = home / "files"
        self._work = home / "work"
        self._lock = threading.RLock()
        try:
            for folder in (self._files, self._work):
                folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                home / "state.sqlite", isolation_level=None, check_same_thread=False, timeout=30
            )
            self._database.execute("PRAGMA journal_mode = WAL")
            # A commit has to survive a power cut, not only a killed process.
            self._database.execute("PRAGMA synchronous = FULL")
            self._database.executescript(_SCHEMA)
            self._remove_unknown()
        except (OSError, sqlite3.Error) as error:
            raise StorageError(f"The local server can't keep its state in {home}: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def add_file(self, source: BinaryIO, filename: str, seconds: int = FILE_SECONDS) -> StoredFile:
        """Keep an uploaded file: complete on disk before anyone can see it."""
        now = self._clock.now()
        file_id = f"file-{self._clock.token()}"
        part = self._work / f"{file_id}.upload"
        try:
            with part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                _sync(target)
                size = target.tell()
            part.replace(self._files / file_id)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(self._files)
        stored = StoredFile(file_id, filename, "batch", size, now, now + seconds)
        with self._transaction():
            self._insert_file(stored)
        return stored

    def file(self, file_id: str) -> StoredFile | None:
        """The file, unless it is unknown, deleted or past its time."""
        query = "SELECT id, filename, purpose, bytes, created_at, expires_at FROM files WHERE id = ? AND expires_at > ?"
        with self._lock:
            row = self._database.execute(query, (file_id, self._clock.now())).fetchone()
        return StoredFile(*row) if row else None

    def files(self, *, purpose: str | None, after: str | None, limit: int, newest_first: bool) -> list[StoredFile]:
        """A page of files after the file ``after``; ``limit`` many at most."""
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        query = f"""
            SELECT id, filename, purpose, bytes, created_at, expires_at FROM files
            WHERE expires_at > :now AND (:purpose IS NULL OR purpose = :purpose)
            AND (:after IS NULL OR seq {beyond} (SELECT seq FROM files WHERE id = :after))
            ORDER BY seq {order} LIMIT :limit
        """
        bound = {"now": self._clock.now(), "purpose": purpose, "after": after, "limit": limit}
        with self._lock:
            return [StoredFile(*row) for row in self._database.execute(query, bound)]

    def content(self, file_id: str) -> Path:
        """Where a file's bytes are."""
        return self._files / file_id

    def delete_file(self, file_id: str) -> None:
        """Forget a file; a batch that reads it goes on with its own copy."""
        with self._transaction():
            self._database.execute("DELETE FROM files WHERE id = ?", (file_id,))
        self.content(file_id).unlink(missing_ok=True)

    def delete_expired(self) -> None:
        """Forget the files whose time has passed."""
        with self._lock:
            rows = self._database.execute("SELECT id FROM files WHERE expires_at <= ?", (self._clock.now(),)).fetchall()
        for (file_id,) in rows:
            self.delete_file(file_id)

    def add_batch(
        self,
        source: StoredFile,
        endpoint: str,
        window: tuple[str, int],
        *,
        metadata: dict[str, str] | None = None,
        output_seconds: int | None = None,
    ) -> Batch:
        """A new batch over a stored file.

        Args:
            source: Its input.
            endpoint: The path that answers its requests.
            window: The completion window as text and in seconds.
            metadata: The caller's own pairs.
            output_seconds: How long the result files are kept.
        """
        now = self._clock.now()
        batch = Batch(
            id=f"batch_{self._clock.token()}",
            endpoint=endpoint,
            input_file_id=source.id,
            completion_window=window[0],
            created_at=now,
            expires_at=now + window[1],
            metadata=metadata,
            output_seconds=output_seconds,
        )
        _link(self.content(source.id), self.input_path(batch))
        _sync_folder(self._work)
        with self._transaction():
            self._database.execute(
                "INSERT INTO batches (id, is_open, record) VALUES (?, 1, ?)", (batch.id, _dump(batch))
            )
        return batch

    def batch(self, batch_id: str) -> Batch | None:
        with self._lock:
            row = self._database.execute("SELECT record FROM batches WHERE id = ?", (batch_id,)).fetchone()
        return _BATCH.validate_json(row[0]) if row else None

    def batches(self, *, after: str | None, limit: int) -> list[Batch]:
        """A page of batches, newest first, after the batch ``after``."""
        query = """
            SELECT record FROM batches
            WHERE :after IS NULL OR seq < (SELECT seq FROM batches WHERE id = :after)
            ORDER BY seq DESC LIMIT :limit
        """
        with self._lock:
            rows = self._database.execute(query, {"after": after, "limit": limit}).fetchall()
        return [_BATCH.validate_json(record) for (record,) in rows]

    def count_batches(self) -> int:
        """How many batches were ever created."""
        with self._lock:
            return self._database.execute("SELECT count(*) FROM batches").fetchone()[0]

    def open_batches(self) -> list[Batch]:
        """The batches that are not in a final state, oldest first."""
        with self._lock:
            rows = self._database.execute("SELECT record FROM batches WHERE is_open = 1 ORDER BY seq").fetchall()
        return [_BATCH.validate_json(record) for (record,) in rows]

    def update(self, batch_id: str, change: Callable[[Batch], Batch]) -> Batch:
        """Change a batch in one transaction: ``change`` gets it as it is now."""
        with self._transaction():
            (record,) = self._database.execute("SELECT record FROM batches WHERE id = ?", (batch_id,)).fetchone()
            changed = change(_BATCH.validate_json(record))
            self._database.execute(
                "UPDATE batches SET is_open = ?, record = ? WHERE id = ?",
                (changed.status not in TERMINAL, _dump(changed), batch_id),
            )
        return changed

    def input_path(self, batch: Batch) -> Path:
        """The batch's own copy of its input, there until it is finished."""
        return self._work / f"{batch.id}.input"

    def append(self, batch: Batch, answered: bytes, failed: bytes, progress: Progress) -> Batch:
        """Add finished rows to a batch's results.

        The bytes reach the disk before the transaction that counts them, and bytes beyond the counted ones (of a
        process that died in between) are cut off first: each row is in the results once.

        Args:
            batch: As it was when the rows were read.
            answered: Lines for the output file.
            failed: Lines for the error file.
            progress: Where the batch is with these lines, but for the lengths of the files.
        """
        before = batch.progress
        counted = replace(
            progress,
            output_bytes=_append(self._part(batch, "output"), before.output_bytes, answered),
            error_bytes=_append(self._part(batch, "error"), before.error_bytes, failed),
        )
        return self.update(batch.id, lambda current: replace(current, progress=counted))

    def finish(self, batch: Batch, status: Status) -> Batch:
        """Publish a batch's result files and put it in a final state, at once."""
        now = self._clock.now()
        expires_at = now + (batch.output_seconds or FILE_SECONDS)
        results: list[StoredFile] = []
        for part, file_id, size in (
            ("output", batch.output_file_id, batch.progress.output_bytes),
            ("error", batch.error_file_id, batch.progress.error_bytes),
        ):
            if size:
                self._publish(self._part(batch, part), file_id, size)
                name = f"{batch.id}_{part}.jsonl"
                results.append(StoredFile(file_id, name, "batch_output", size, now, expires_at))
        with self._transaction():
            for result in results:
                self._insert_file(result)
            finished = self.update(batch.id, lambda current: move(current, status, now))
        self.discard_work(batch)
        return finished

    def discard_work(self, batch: Batch) -> None:
        """Remove what was only needed while the batch was open."""
        for path in (self.input_path(batch), self._part(batch, "output"), self._part(batch, "error")):
            path.unlink(missing_ok=True)

    def _part(self, batch: Batch, part: str) -> Path:
        return self._work / f"{batch.id}.{part}"

    def _publish(self, part: Path, file_id: str, size: int) -> None:
        # The part is gone when an earlier process came this far and died before its transaction.
        if part.exists():
            os.truncate(part, size)
            part.replace(self._files / file_id)
            _sync_folder(self._files)

    def _insert_file(self, stored: StoredFile) -> None:
        self._database.execute(
            "INSERT INTO files (id, filename, purpose, bytes, created_at, expires_at) VALUES (?, ?, ?, ?, ?, ?)",
            (stored.id, stored.filename, stored.purpose, stored.bytes, stored.created_at, stored.expires_at),
        )

    def _remove_unknown(self) -> None:
        known = {str(row[0]) for row in self._database.execute("SELECT id FROM files")}
        running = self.open_batches()
        # A finished part may have been moved without its transaction; the batch will want it again.
        known.update(file_id for batch in running for file_id in (batch.output_file_id, batch.error_file_id))
        for path in self._files.iterdir():
            if path.name not in known:
                path.unlink()
        ids = {batch.id for batch in running}
        for path in self._work.iterdir():
            if path.stem not in ids:
                path.unlink()

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        with self._lock:
            if self._database.in_transaction:
                yield
                return
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def _dump(batch: Batch) -> str:
    return _BATCH.dump_json(batch).decode()


def _append(path: Path, size: int, lines: bytes) -> int:
    if not lines:
        return size
    with path.open("ab") as stream:
        stream.truncate(size)
        stream.write(lines)
        _sync(stream)
    return size + len(lines)


def _sync(stream: BinaryIO) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows can't open a folder
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # not every file system has hard links
        shutil.copyfile(source, target)
