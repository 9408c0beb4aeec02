"""The result files of one attempt: kept as they came, and read into one answers file."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import duckdb

from .answers import Absent, Parsed, parse_attempt, readable
from .errors import ProviderError
from .home import Home
from .ledger import Attempt, Ledger
from .providers.protocol import Batch, BatchProvider, Phase
from .result_lines import lines_of

Missing = dict[str, ProviderError]
"""What can't be had of an attempt's batches, by their names: the survivor's only if it isn't there, a duplicate's
whatever the provider said."""

OF_DUPLICATE = "Duplicate"
"""How an error about one that can't be had begins."""


_ASIDE = ".short.jsonl"


def missing(name: str, error: ProviderError, *, survives: bool) -> ProviderError:
    """The error to note of a batch, or of its files, that can't be had.

    Raises:
        ProviderError: The survivor's, unless it isn't there: refused or busy, it is waited for as long as it takes; and
            a duplicate's, where the time was too short to say that it can't be had.
    """
    if error.in_haste:
        raise error
    if not survives:
        return ProviderError(
            f"{OF_DUPLICATE} {name} can't be had: {error.message}", status=error.status, retry_after=error.retry_after
        )
    if not error.is_gone:
        raise error
    return error


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
    ) -> tuple[list[Path], Missing]:
        """Download what isn't there yet; also gives what can't be had.

        Args:
            provider: Who has them.
            batches: Those that are to be found.
            names: Of all batches of the attempt, the survivor first: their places name the folders.
        """
        paths: list[Path] = []
        lacking: Missing = {}
        for batch in batches:
            folder = self._home.results(self._attempt.id, names.index(batch.id))
            try:
                paths += provider.fetch(batch, folder)
            except ProviderError as error:
                lacking[batch.id] = missing(batch.id, error, survives=batch.id == names[0])
                paths += sorted(folder.glob("*.jsonl"))
        return paths, lacking

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

    def set_aside(self, paths: Sequence[Path]) -> None:
        """Make room for files to be fetched once more; see `aside`."""
        for path in paths:
            if not path.name.endswith(_ASIDE):
                with suppress(FileNotFoundError):  # another worker, which slept beyond its lease, was here before
                    path.replace(path.with_name(f"{path.stem}.{self._ledger.clock.token()}{_ASIDE}"))

    def aside(self) -> list[Path]:
        """What came before of files that were fetched once more, and may be more than what came last."""
        return sorted(self.folder.rglob(f"*{_ASIDE}"))

    def merged(self, paths: Sequence[Path]) -> Path:
        """One file with each line of these once."""
        merged = self.folder / f"{self._ledger.clock.token()}{_ASIDE}"
        seen: set[bytes] = set()
        try:
            with merged.open("wb") as out:
                for line in (line.rstrip(b"\r\n") for path in paths for line in lines_of(path)):
                    known = blake2b(line, digest_size=16).digest()
                    if known not in seen:
                        seen.add(known)
                        out.write(line + b"\n")
        except OSError as error:
            raise readable(error, self._home.folder) from error
        return merged

    def remove(self, parsed: Parsed, paths: Sequence[Path] = ()) -> None:
        """Remove an answers file that the ledger doesn't name, and what it was read from."""
        for path in (self._home.answers(parsed.file.file), *paths):
            path.unlink(missing_ok=True)


def outcome_of_absent(batches: Sequence[Batch]) -> Absent:
    """What became of a row that no result of these batches speaks of."""
    return "expired" if any(batch.phase in {Phase.EXPIRED, Phase.CANCELLED} for batch in batches) else "missing"
