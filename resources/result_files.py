"""The result files of one attempt: kept as they came, and read into one answers file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from .answers import Absent, Parsed, parse_attempt, readable
from .home import Home
from .ledger import Attempt, Ledger
from .providers.protocol import Batch, BatchProvider, Phase


class ResultFiles:
    """What is on disk of an attempt's batches.

    Args:
        ledger: Where the attempt is.
        attempt: One whose batches have ended.
    """

    def __init__(self, ledger: Ledger, attempt: Attempt) -> None:
        self._ledger = ledger
        self._attempt = attempt
        self._home = Home(ledger.home)
        self.folder = self._home.all_results(attempt.id)

    @property
    def paths(self) -> list[Path]:
        """Files that have been fetched, all of them whole."""
        return sorted(self.folder.glob("[0-9]*/*.jsonl"))

    def fetch(self, provider: BatchProvider, batches: Sequence[Batch]) -> list[Path]:
        """Download what isn't there yet; see `BatchProvider.fetch`."""
        folders = [self._home.results(self._attempt.id, number) for number in range(len(batches))]
        return [path for batch, folder in zip(batches, folders, strict=True) for path in provider.fetch(batch, folder)]

    def read(self, paths: Sequence[Path], absent: Absent) -> Parsed:
        """Write a new answers file; it counts only when the ledger names it.

        Raises:
            StorageError: A file of ours can't be read or written.
        """
        name = f"{self._attempt.task}/{self._attempt.id}-{self._ledger.clock.token()}.parquet"
        try:
            return parse_attempt(self._ledger, self._attempt, paths, name=name, absent=absent)
        except (duckdb.Error, OSError) as error:
            raise readable(error, self._home.folder) from error

    def remove(self, parsed: Parsed, paths: Sequence[Path] = ()) -> None:
        """Remove an answers file that the ledger doesn't name, and what it was read from."""
        for path in (self._home.answers(parsed.file.file), *paths):
            path.unlink(missing_ok=True)


def outcome_of_absent(batches: Sequence[Batch]) -> Absent:
    """What became of a row that no result of these batches speaks of."""
    return "expired" if any(batch.phase in {Phase.EXPIRED, Phase.CANCELLED} for batch in batches) else "missing"
