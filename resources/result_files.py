"""The result files of one attempt: kept as they came, and read into one answers file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb

from .answers import Absent, Parsed, parse_attempt, readable
from .errors import ProviderError
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

    def fetch(
        self, provider: BatchProvider, batches: Sequence[Batch], names: Sequence[str]
    ) -> tuple[list[Path], ProviderError | None]:
        """Download what isn't there yet; also gives the error about one that isn't to be found, if there is one.

        Args:
            provider: Who has them.
            batches: Those that are to be found.
            names: Of all batches of the attempt, the survivor first: their places name the folders.
        """
        paths: list[Path] = []
        gone: ProviderError | None = None
        for batch in batches:
            folder = self._home.results(self._attempt.id, names.index(batch.id))
            try:
                paths += provider.fetch(batch, folder)
            except ProviderError as error:
                if not error.is_gone:
                    raise
                gone = error
                paths += sorted(folder.glob("*.jsonl"))
        return paths, gone

    def read(self, paths: Sequence[Path], absent: Absent | None, *, name: str | None = None) -> Parsed:
        """Write an answers file, a new one unless it is named; it counts only when the ledger names it.

        Raises:
            StorageError: A file of ours can't be read or written.
        """
        name = name or f"{self._attempt.task}/{self._attempt.id}-{self._ledger.clock.token()}.parquet"
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
