"""OpenAI's Batch API, and any server that speaks its protocol, as a Dagster resource."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import dagster as dg

from ..errors import MissingSecretError, UserError
from .http import HttpClient
from .openai_shape import OpenAIShape
from .profile import OPENAI, Profile
from .protocol import BatchProvider


class BatchResource(dg.ConfigurableResource[BatchProvider], ABC):
    """A Dagster resource that an LLM asset names by its key: ``llm="openai"``."""

    max_rows_per_batch: int | None = None

    @abstractmethod
    def provider(self) -> BatchProvider:
        """A client for the provider; made where it is used, never shared between processes."""

    def answering(self, model: str) -> str:
        """What answers when `model` is asked for; it is part of the question, so of what may be reused."""
        return model

    def limited(self, profile: Profile) -> Profile:
        """The profile with this resource's own, smaller limit."""
        wanted = self.max_rows_per_batch
        if wanted is not None and wanted < 1:
            raise UserError(f"{profile.name}: max_rows_per_batch is {wanted}; a batch has at least one row.")
        return replace(profile, max_rows=min(profile.max_rows, wanted or profile.max_rows))


class OpenAIBatch(BatchResource):
    """OpenAI's Batch API: half the price of realtime, answers within 24 hours.

    Args:
        api_key: ``dg.EnvVar("OPENAI_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version, such as ``https://api.openai.com/v1``; set it for any other
            server that offers the same ``/files`` and ``/batches``.
        completion_window: How long the provider may take; OpenAI offers ``24h``.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.openai.com/v1"
    completion_window: str = "24h"

    def provider(self) -> BatchProvider:
        key = self.api_key.strip()  # a key that was read from a file often ends its line
        if not (key and key.isascii() and key.isprintable()):
            wrong = "has characters that no key has" if key else "is empty"
            raise MissingSecretError(
                f"openai: the API key {wrong}. Set OPENAI_API_KEY in the environment of Dagster's code location and "
                'pass api_key=dg.EnvVar("OPENAI_API_KEY"). Nothing was sent.'
            )
        http = HttpClient(name=OPENAI.name, base_url=self.base_url, api_key=key)
        window = self.completion_window
        return OpenAIShape(self.limited(OPENAI), http, account=self.base_url.rstrip("/"), window=window)
