"""Where everything that was asked and answered lies on disk, under one home folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """Paths below the ledger's folder; all names in it are hexadecimal ids of ours.

    ::

        ledger.sqlite3                  unless the ledger is on Postgres
        plans/<plan>/rows.parquet       one line per source row: kept columns, request key, why it isn't asked
        plans/<plan>/requests.parquet   distinct request key and prompt
        manifests/<attempt>.parquet     which keys one request file holds: (row, key)
        results/<attempt>/…             the provider's result files as they came
        answers/<task>/<name>.parquet   one row per request of a batch, never changed
        realtime/<send>/…               what is asked at once, and what it was answered
    """

    folder: Path

    def rows(self, plan: str) -> Path:
        """The plan's source rows."""
        return self.folder / "plans" / plan / "rows.parquet"

    def requests(self, plan: str) -> Path:
        """The plan's distinct requests."""
        return self.folder / "plans" / plan / "requests.parquet"

    def manifest(self, name: str) -> Path:
        """An attempt's manifest, by the name that the ledger has for it."""
        return self.folder / "manifests" / name

    def all_results(self, attempt: str) -> Path:
        """Folder of all result files of an attempt."""
        return self.folder / "results" / attempt

    def results(self, attempt: str, batch: int) -> Path:
        """Folder of one batch's result files; an attempt has more than one batch only after a duplicate."""
        return self.all_results(attempt) / str(batch)

    def late_results(self, attempt: str, batch: str) -> Path:
        """Folder of the result files of a batch that turned up after its attempt was closed."""
        return self.all_results(attempt) / f"late-{batch}"

    def answers(self, name: str) -> Path:
        """An answers file, by the name that the ledger has for it."""
        return self.folder / "answers" / name

    @property
    def realtime(self) -> Path:
        """Folder of what is asked at once, a folder per send."""
        return self.folder / "realtime"

    def request_file(self, token: str) -> Path:
        """A rendered request file, until it is uploaded."""
        return self.folder / "sends" / f"{token}.jsonl"
