"""What a provider would have charged for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paid:
    """One request, and how often it was paid.

    Attributes:
        request: Digest of its body: 16 hexadecimal characters.
        prompt: The row's own text, its first 1,000 characters.
        times: In how many rows of batches it was answered, whatever became of the answer.
        custom_ids: Of those rows.
    """

    request: str
    prompt: str
    times: int
    custom_ids: tuple[str, ...]


@dataclass(frozen=True)
class Bill:
    """All that was paid since the emulator's folder was new.

    Attributes:
        batches: Batches that were created, also those that failed validation, which cost nothing.
        requests: Each request that was paid, the most often paid first.
    """

    batches: int
    requests: tuple[Paid, ...]

    @property
    def rows(self) -> int:
        """Rows that were paid, each time counted."""
        return sum(paid.times for paid in self.requests)

    @property
    def most_paid(self) -> Paid | None:
        """The request that was paid most often; None if nothing was paid."""
        return self.requests[0] if self.requests else None

    def times(self, text: str) -> int:
        """How often requests were paid whose prompt has this text in it."""
        return sum(paid.times for paid in self.requests if text in paid.prompt)
