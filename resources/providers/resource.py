"""What every provider's Dagster resource has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import dagster as dg

from ..errors import MissingSecretError, UserError
from .http import HttpClient
from .openai_shape import OpenAIShape
from .profile import Profile
from .protocol import BatchProvider


class BatchResource(dg.ConfigurableResource[BatchProvider], ABC):
    """A Dagster resource that an LLM asset names by its key: ``llm="openai"``."""

    max_rows_per_batch: int | None = None

    @abstractmethod
    def provider(self) -> BatchProvider:
        """A client for the provider; made where it is used, never shared between processes."""

    def check_ready(self) -> None:
        """Raise `ProviderError` if it is known already that nothing could be answered; called before planning."""

    @property
    def can_be_late(self) -> bool:
        """Whether a batch may turn up after its create was given up, so that it has to be looked for."""
        return True

    def answering(self, model: str) -> str:
        """What answers when `model` is asked for; it is part of the question, so of what may be reused."""
        return model

    def limited(self, profile: Profile) -> Profile:
        """The profile with this resource's own, smaller limit."""
        wanted = self.max_rows_per_batch
        if wanted is not None and wanted < 1:
            raise UserError(f"{profile.name}: max_rows_per_batch is {wanted}; a batch has at least one row.")
        return replace(profile, max_rows=min(profile.max_rows, wanted or profile.max_rows))

    def client(
        self,
        profile: Profile,
        *,
        base_url: str,
        api_key: str,
        window: str | None = None,
        account: str | None = None,
        when_away: Callable[[], str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        shape: type[OpenAIShape] = OpenAIShape,
    ) -> BatchProvider:
        """A client for one address, whose batches belong to that address unless `account` says otherwise."""
        http = HttpClient(name=profile.name, base_url=base_url, api_key=api_key, when_away=when_away, headers=headers)
        return shape(self.limited(profile), http, account=account or base_url.rstrip("/"), window=window)


def clean_key(name: str, key: str, variable: str) -> str:
    """An API key as it is sent.

    Args:
        name: The provider's, for the message.
        key: As it was configured; a key that was read from a file often ends its line.
        variable: The environment variable that the message proposes.

    Raises:
        MissingSecretError: It is empty, or can't be a key.
    """
    key = key.strip()
    if key and key.isascii() and key.isprintable():
        return key
    wrong = "has characters that no key has" if key else "is empty"
    raise MissingSecretError(
        f"{name}: the API key {wrong}. Set {variable} in the environment of Dagster's code location and "
        f'pass api_key=dg.EnvVar("{variable}"). Nothing was sent.'
    )
