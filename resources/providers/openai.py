"""OpenAI's Batch API, and any server that speaks its protocol, as a Dagster resource."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import dagster as dg

from ..errors import MissingSecretError
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
        return replace(profile, max_rows=min(profile.max_rows, self.max_rows_per_batch or profile.max_rows))


class OpenAIBatch(BatchResource):
    """OpenAI's Batch API: half the price of realtime, answers within 24 hours.

    Args:
        api_key: ``dg.EnvVar("OPENAI_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version, such as ``https://api.openai.com/v1``; set it for any other
            server that offers the same ``/files`` and ``/batches``.
        completion_window: How long the provider may take; OpenAI offers ``24h``.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 50,000 rows.

    Raises:
        MissingSecretError: The key is empty.
    """

    api_key: str
    base_url: str = "https://api.openai.com/v1"
    completion_window: str = "24h"

    def provider(self) -> BatchProvider:
        if not self.api_key.strip():
            raise MissingSecretError(
                "openai: the API key is empty. Set OPENAI_API_KEY in the environment of Dagster's code location and "
                'pass api_key=dg.EnvVar("OPENAI_API_KEY"). Nothing was sent.'
            )
        http = HttpClient(name=OPENAI.name, base_url=self.base_url, api_key=self.api_key)
        window = self.completion_window
        return OpenAIShape(self.limited(OPENAI), http, account=self.base_url.rstrip("/"), window=window)
