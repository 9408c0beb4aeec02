"""What the batch state machine asks of a provider; a provider is anything that does these few things."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ..request import RequestSpec
from .profile import Profile

TOKEN_KEY = "batch_llm_token"  # noqa: S105 - the metadata key that marks a batch as ours, not a secret


class Phase(StrEnum):
    """Where a batch stands, whatever its provider calls it."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"

    @property
    def ended(self) -> bool:
        """Whether the provider is through with it; an unknown status is waited out, never taken as an end."""
        return self in {Phase.COMPLETED, Phase.FAILED, Phase.EXPIRED, Phase.CANCELLED}


@dataclass(frozen=True)
class Problem:
    """One reason why a provider rejected a whole batch."""

    code: str
    message: str
    line: int | None = None

    @property
    def words(self) -> str:
        """For a message."""
        return f"{self.code}: {self.message!r}" + (f" (line {self.line})" if self.line else "")


@dataclass(frozen=True)
class Batch:
    """What a provider says of one batch. Counts are the provider's word: shown, never trusted."""

    id: str
    phase: Phase
    status: str
    created_at: float | None = None
    expires_at: float | None = None
    input_file_id: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    total: int = 0
    completed: int = 0
    failed: int = 0
    result_files: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    in_one_file: bool = False
    note: str | None = None
    """What a person should know of how it goes."""

    @property
    def progress(self) -> dict[str, object]:
        """What the ledger notes of it."""
        counts = {"total": self.total, "completed": self.completed, "failed": self.failed}
        return {"phase": self.phase.value, **counts, "expires_at": self.expires_at}

    @property
    def counted(self) -> int:
        """How many rows are said to have ended."""
        return self.completed + self.failed

    @property
    def lacks_files(self) -> bool:
        """Whether there is no file, or the counts speak of rows whose file isn't there: it may trail the status."""
        if not self.result_files and not self.problems and (self.phase is Phase.COMPLETED or not self.counted):
            return True
        kinds = (self.completed > 0) + (self.failed > 0)
        return len(self.result_files) < (min(kinds, 1) if self.in_one_file else kinds)


@dataclass(frozen=True)
class Listing:
    """A provider's batches, as it lists them.

    Attributes:
        batches: All that were created at or after the asked time, and perhaps some that are older.
        complete: Whether the listing reached back that far.
        started_at: When the first page was asked for, our clock.
        clock_offset: The provider's clock minus ours, as an interval (low, high), if it sent a Date header.
    """

    batches: tuple[Batch, ...]
    complete: bool
    started_at: float
    clock_offset: tuple[float, float] | None


class TooLateError(Exception):
    """A request was held up until it was no longer allowed to leave."""


class BatchProvider(Protocol):
    """A batch provider's account, spoken to over one wire protocol.

    Every method raises `ProviderError`: `RefusedError` and `BusyError` mean that nothing was done.
    """

    @property
    def profile(self) -> Profile:
        """The facts that differ between providers."""
        ...

    @property
    def account(self) -> str:
        """Whose batches these are; two providers with the same account see the same batches."""
        ...

    @property
    def clock_offset(self) -> tuple[float, float] | None:
        """How far its clock is ahead of ours, as an interval, by its last reply; None if that didn't tell."""
        ...

    def upload(self, path: Path, filename: str) -> str:
        """Upload a request file; gives its id. Safe to repeat: a second copy is never asked."""
        ...

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        """Create a batch with exactly one POST, which is never repeated here; equal arguments give equal bytes.

        `still_allowed` is called in the last moment before the body leaves; if it raises, nothing was sent.
        """
        ...

    def check(self, batch_id: str) -> Batch:
        """Ask for one batch."""
        ...

    def list(self, since: float, there: float | None = None) -> Listing:
        """The batches created since then (our clock; the provider's may differ and is allowed for).

        Where the same moment was noted by the provider's clock, too, what was created since the earlier of the two.
        """
        ...

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        """Download every result file of an ended batch into `folder`; a file that is there is whole.

        If one is gone for good, the others are fetched nevertheless before the error is raised.
        """
        ...

    def first_custom_id(self, batch: Batch) -> str | None:
        """The custom_id of an ended batch's first result line, without fetching the rest; None if it has no line."""
        ...

    def cancel(self, batch_id: str) -> None:
        """Ask the provider to stop a batch; what already ran is paid and can be fetched."""
        ...

    def has_file(self, file_id: str) -> bool:
        """Whether the account has an uploaded file; a server that can't say so is believed to have it."""
        ...

    def shows_files(self) -> bool:
        """Whether it would say that it has a file; found out by uploading one of no use, and deleting it again."""
        ...

    def delete_file(self, file_id: str) -> None:
        """Delete an uploaded file; one that is gone already is fine."""
        ...

    def realtime(self, folder: Path) -> BatchProvider | None:
        """Where the same requests are asked at once, with what becomes of them in a folder; None if there is no such.

        It is closed with this one.
        """
        ...

    def close(self) -> None:
        """Give connections back; the object is not used any more."""
        ...
