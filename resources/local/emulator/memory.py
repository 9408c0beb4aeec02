"""What the emulator remembers, on disk: its script, what it has struck, and the bill."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ...errors import StorageError
from ..wire import is_array, is_object
from .fault import Fault, lot
from .faults import Faults

_SCHEMA = """
CREATE TABLE IF NOT EXISTS setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (rule INTEGER, subject TEXT, count INTEGER NOT NULL, PRIMARY KEY (rule, subject));
CREATE TABLE IF NOT EXISTS struck (rule INTEGER, subject TEXT, scope TEXT, PRIMARY KEY (rule, subject, scope));
CREATE TABLE IF NOT EXISTS fate (rule INTEGER, batch TEXT, struck INTEGER NOT NULL, PRIMARY KEY (rule, batch));
CREATE TABLE IF NOT EXISTS paid (
    batch TEXT, custom_id TEXT, request TEXT NOT NULL, prompt TEXT NOT NULL, PRIMARY KEY (batch, custom_id)
);
CREATE INDEX IF NOT EXISTS paid_request ON paid (request);
"""
_PROMPT_CHARACTERS = 1000


@dataclass(frozen=True)
class Billed:
    """One row of a batch that was answered, and so is paid."""

    custom_id: str
    request: str
    prompt: str


class Memory:
    """The emulator's own database; safe to use from several threads.

    Args:
        folder: The server's.
        given: The script that the server is started with; when it is another one than last time, it replaces the
            one that was in force, and counting starts anew.
    """

    def __init__(self, folder: Path, given: Faults) -> None:
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(folder / "emulator.sqlite", isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.executescript(_SCHEMA)
        except sqlite3.Error as error:
            raise StorageError(f"The emulator can't keep its state in {folder}: {error}") from error
        if self._setting("given") != given.to_json():
            self._set("given", given.to_json())
            self.script(given)
        self.faults = Faults.from_json(self._setting("script") or "{}")

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def script(self, faults: Faults) -> None:
        """Put another script in force; what the rules have struck is forgotten, the bill is not."""
        with self._lock, self._database:
            self._set("script", faults.to_json())
            self._database.execute("DELETE FROM seen")
            self._database.execute("DELETE FROM struck")
            self._database.execute("DELETE FROM fate")
            self.faults = faults

    @property
    def ahead(self) -> float:
        """Seconds that the provider's clock was put forward."""
        return float(self._setting("ahead") or 0.0)

    def advance(self, seconds: float) -> None:
        """Put the provider's clock forward."""
        with self._lock:
            self._set("ahead", str(self.ahead + seconds))

    def striking(self, places: tuple[str, ...]) -> list[Fault]:
        """The faults of the call that comes now; each call is asked for once."""
        with self._lock:
            faults = self.faults
            return [
                rule
                for number, rule in enumerate(faults.rules)
                if rule.place in places and self._falls(number, rule, self._count(number, "calls"))
            ]

    def of_batch(self, batch_id: str) -> list[Fault]:
        """The faults of a batch; always the same ones under one script."""
        with self._lock:
            return [
                rule
                for number, rule in enumerate(self.faults.rules)
                if rule.place == "batch" and self._strikes_batch(number, rule, batch_id)
            ]

    def looks(self, batch_id: str) -> int:
        """How often the batch was shown before under this script; this time counts."""
        with self._lock:
            return self._count(-1, batch_id)

    def of_row(self, batch_id: str, row: Billed) -> Fault | None:
        """The fault of a row, if it has one; the same one when the batch goes on after a crash."""
        with self._lock:
            for number, rule in enumerate(self.faults.rules):
                if rule.place == "row" and rule.only in row.prompt and self._strikes_row(number, rule, batch_id, row):
                    return rule
        return None

    def pay(self, batch_id: str, rows: Iterable[Billed]) -> None:
        """Put rows on the bill; one that is there already stays there once."""
        lines = [(batch_id, row.custom_id, row.request, row.prompt[:_PROMPT_CHARACTERS]) for row in rows]
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR IGNORE INTO paid VALUES (?, ?, ?, ?)", lines)

    def bill(self) -> list[Mapping[str, object]]:
        """Each request that was paid, the most often paid first."""
        query = """
            SELECT request, min(prompt), count(*), json_group_array(custom_id) FROM paid
            GROUP BY request ORDER BY count(*) DESC, min(rowid)
        """
        with self._lock:
            found = self._database.execute(query).fetchall()
        return [{"request": r, "prompt": p, "times": n, "custom_ids": json.loads(ids)} for r, p, n, ids in found]

    def _falls(self, number: int, rule: Fault, before: int) -> bool:
        """Whether a rule strikes its next subject, of which there were so many before."""
        if before < rule.skip or lot(self.faults.seed, number, str(before)) >= rule.share:
            return False
        if rule.times is not None and self._struck(number) >= rule.times:
            return False
        self._database.execute("INSERT OR IGNORE INTO struck VALUES (?, ?, '')", (number, str(before)))
        return True

    def _strikes_batch(self, number: int, rule: Fault, batch_id: str) -> bool:
        query = "SELECT struck FROM fate WHERE rule = ? AND batch = ?"
        row = self._database.execute(query, (number, batch_id)).fetchone()
        if row is not None:
            return bool(row[0])
        strikes = self._falls(number, rule, self._count(number, "batches"))
        self._database.execute("INSERT INTO fate VALUES (?, ?, ?)", (number, batch_id, strikes))
        return strikes

    def _strikes_row(self, number: int, rule: Fault, batch_id: str, row: Billed) -> bool:
        if lot(self.faults.seed, number, row.request) >= rule.share:
            return False
        scopes = "SELECT count(*) FROM struck WHERE rule = ? AND subject = ? AND scope <> ?"
        (others,) = self._database.execute(scopes, (number, row.request, batch_id)).fetchone()
        if rule.times is not None and others >= rule.times:
            return False
        self._database.execute("INSERT OR IGNORE INTO struck VALUES (?, ?, ?)", (number, row.request, batch_id))
        return True

    def _struck(self, number: int) -> int:
        return self._database.execute("SELECT count(*) FROM struck WHERE rule = ?", (number,)).fetchone()[0]

    def _count(self, number: int, subject: str) -> int:
        """How often it was counted before; this time counts."""
        self._database.execute(
            "INSERT INTO seen VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1", (number, subject)
        )
        found = self._database.execute("SELECT count FROM seen WHERE rule = ? AND subject = ?", (number, subject))
        return found.fetchone()[0] - 1

    def _setting(self, name: str) -> str | None:
        with self._lock:
            row = self._database.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def _set(self, name: str, value: str) -> None:
        with self._lock:
            self._database.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))


def request_hash(body: Mapping[str, object]) -> str:
    """What makes two requests the same: 16 hexadecimal characters of their body's digest."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def prompt_of(body: Mapping[str, object]) -> str:
    """The row's own text in a request: its last message, or its input."""
    messages = body.get("messages")
    last = messages[-1] if is_array(messages) and messages else None
    found = last.get("content") if is_object(last) else body.get("input", "")
    return found if isinstance(found, str) else json.dumps(found)
