"""OpenAI's Batch API as a Dagster resource."""

from __future__ import annotations

from .profile import OPENAI
from .protocol import BatchProvider
from .resource import BatchResource, clean_key


class OpenAIBatch(BatchResource):
    """OpenAI's Batch API: half the price of realtime, answers within 24 hours.

    Args:
        api_key: ``dg.EnvVar("OPENAI_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version. Set it for a gateway in front of OpenAI; any other server is
            `OpenAICompatibleBatch`.
        completion_window: How long the provider may take; OpenAI offers ``24h``.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.openai.com/v1"
    completion_window: str = "24h"

    def provider(self) -> BatchProvider:
        key = clean_key(OPENAI.name, self.api_key, "OPENAI_API_KEY")
        return self.client(OPENAI, base_url=self.base_url, api_key=key, window=self.completion_window)
