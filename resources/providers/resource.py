"""What every provider's Dagster resource has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace

import dagster as dg

from ..errors import MissingSecretError, UserError
from ..request import BYTES_PER_TOKEN
from .http import HttpClient
from .openai_shape import OpenAIShape
from .profile import Profile
from .protocol import BatchProvider


class BatchResource(dg.ConfigurableResource[BatchProvider], ABC):
    """A Dagster resource that an LLM asset names by its key: ``llm="openai"``.

    Args:
        max_rows_per_batch: Cut into smaller batches than the provider's limit.
        max_open_batches: Have so many batches of the account under way at most; further ones wait.
        max_queued_tokens: Have so many input tokens of one model under way at most: the limit that your account has in
            the provider's queue. They are estimated, 4 bytes each. Further batches wait, and none is larger than that.
    """

    max_rows_per_batch: int | None = None
    max_open_batches: int | None = None
    max_queued_tokens: int | None = None

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
        """The profile with this resource's own, smaller limits."""
        for name in ("max_rows_per_batch", "max_open_batches", "max_queued_tokens"):
            wanted: int | None = getattr(self, name)
            if wanted is not None and wanted < 1:
                raise UserError(f"{profile.name}: {name} is {wanted}; it is at least 1.")
        return replace(
            profile,
            max_rows=_smaller(profile.max_rows, self.max_rows_per_batch),
            max_bytes=_smaller(profile.max_bytes, self.max_queued_tokens and self.max_queued_tokens * BYTES_PER_TOKEN),
            max_open=_smallest(profile.max_open, self.max_open_batches),
            max_queued_tokens=_smallest(profile.max_queued_tokens, self.max_queued_tokens),
        )

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


def _smaller(limit: int, wanted: int | None) -> int:
    return limit if wanted is None else min(limit, wanted)


def _smallest(limit: int | None, wanted: int | None) -> int | None:
    return wanted if limit is None else _smaller(limit, wanted)


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
