"""What was asked at once, and what it was answered: one file per send, to which lines are only added."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ..duck import flush
from ..errors import StorageError
from .replies import count, loaded

_ROOM_BYTES = 2 * 1024 * 1024
"""Set aside before anything is asked, so that the replies that are on their way find a place on a full disk."""


@dataclass(frozen=True)
class Told:
    """What a journal says.

    Attributes:
        rows: How many requests there are.
        created_at: When it was begun, Unix seconds.
        answered: Row id → its result line.
        ok: How many of these are answers, not errors.
        lost: Rows that were asked and have no reply; they may be paid.
        why: Why rows were left unasked.
    """

    rows: int = 0
    created_at: float | None = None
    answered: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    ok: int = 0
    lost: tuple[str, ...] = ()
    why: str | None = None


class Journal:
    """A journal that is being written; safe to be used by many threads.

    Each call is on the disk when it returns.

    Args:
        path: The file.
        rows: How many requests there are.
        now: Unix seconds.

    Raises:
        StorageError: There is no room for it; here, and in each call.
    """

    def __init__(self, path: Path, *, rows: int, now: float) -> None:
        self._path = path
        self._room = path.with_name("room")
        self._lock = threading.Lock()
        try:
            self._room.write_bytes(os.urandom(_ROOM_BYTES))  # zeros may take no room
            self._out = path.open("ab", buffering=0)
        except OSError as error:
            self._give_room()
            raise _unwritable(path, error, "Nothing was asked.") from error
        try:
            self._add({"rows": rows, "at": now})
            flush(path.parent)  # what is paid must not be noted in a file that is gone after a power cut
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _unwritable(path, error, "Nothing was asked.") from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing more is noted."""
        self._out.close()
        self._give_room()

    def begin(self, row: str) -> None:
        """A row is about to be asked, and may be paid from now on."""
        self._add({"begun": row})

    def was_not_asked(self, row: str) -> None:
        """A row that was begun is certain not to have been carried out."""
        self._add({"unasked": row})

    def answer(self, row: str, line: Mapping[str, Any], *, ok: bool) -> None:
        """A row's result line. It is what was paid for, so on a full disk it gets the room that was set aside."""
        said = {"row": row, "ok": ok, "line": line}
        try:
            self._add(said)
        except StorageError:
            self._give_room()  # if it isn't there, another thread has given it meanwhile
            self._add(said)
            raise

    def leave(self, why: str) -> None:
        """Why the rest isn't asked."""
        self._add({"why": why})

    def _give_room(self) -> None:
        with suppress(OSError):
            self._room.unlink()

    def _add(self, said: Mapping[str, Any]) -> None:
        # A line that was cut off is ended by the next one.
        line = b"\n" + json.dumps(said, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                while line:
                    line = line[self._out.write(line) :]
                os.fsync(self._out.fileno())
            except OSError as error:
                raise _unwritable(self._path, error, "No more is asked.") from error


def read_journal(path: Path) -> Told:
    """Read a journal, which may end anywhere: what isn't whole was never said.

    Raises:
        StorageError: It can't be read.
    """
    about: Mapping[str, Any] = {}
    answered: dict[str, Mapping[str, Any]] = {}
    begun: dict[str, None] = {}
    ok: set[str] = set()
    why: str | None = None
    try:
        with path.open("rb") as lines:
            for line in lines:
                said: Mapping[str, Any] = {}
                if line.endswith(b"\n"):
                    said = loaded(line.decode(errors="replace"))
                if "rows" in said:
                    about = said
                elif "begun" in said:
                    begun[said["begun"]] = None
                elif "unasked" in said:
                    begun.pop(said["unasked"], None)
                elif "line" in said:
                    answered.setdefault(said["row"], said["line"])
                    if said["ok"]:
                        ok.add(said["row"])
                elif "why" in said:
                    why = said["why"]
    except OSError as error:
        raise StorageError(f"{path} can't be read ({error}). What it says may be paid; put it back.") from error
    lost = tuple(row for row in begun if row not in answered)
    return Told(count(about.get("rows")), about.get("at"), answered, len(ok), lost, why)


def _unwritable(path: Path, error: OSError, end: str) -> StorageError:
    return StorageError(f"{path} can't be written ({error}). {end} Free some space, and run again.")
