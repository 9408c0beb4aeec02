"""Which side of which provider an attempt is asked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import ProtocolError
from .home import Home
from .ledger import Attempt, Tier
from .providers.protocol import BatchProvider


class Sides:
    """The providers by resource key, each with its realtime side.

    Args:
        providers: By resource key.
        home: The ledger's folder.
    """

    def __init__(self, providers: Mapping[str, BatchProvider], home: Path) -> None:
        self._batch = providers
        self._folder = Home(home).realtime

    def of(self, attempt: Attempt) -> BatchProvider:
        """Where an attempt is asked; to be called where it is known."""
        found = self._find(attempt)
        if found is None:
            raise ProtocolError(f"Attempt {attempt.id} is of {attempt.account}, which nobody here can speak to.")
        return found

    def know(self, attempt: Attempt) -> bool:
        """Whether the account that an attempt belongs to can be spoken to."""
        found = self._find(attempt)
        return found is not None and found.account == attempt.account

    def parted(self, attempts: Sequence[Attempt]) -> list[tuple[BatchProvider, list[Attempt]]]:
        """Attempts of one resource by the side at which they are asked, in their order."""
        parts = {tier: [attempt for attempt in attempts if attempt.tier is tier] for tier in Tier}
        return [(self.of(part[0]), part) for part in parts.values() if part]

    def _find(self, attempt: Attempt) -> BatchProvider | None:
        provider = self._batch.get(attempt.llm)
        if provider is None or attempt.tier is Tier.BATCH:
            return provider
        return provider.realtime(self._folder)
