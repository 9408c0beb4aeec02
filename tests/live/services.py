"""The providers that can be asked for real, each by the cheapest model that is known here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dagster_batch_llm.resources import (
    AnthropicBatch,
    AzureOpenAIBatch,
    BatchResource,
    CohereBatch,
    DoublewordBatch,
    FireworksBatch,
    GeminiBatch,
    GroqBatch,
    MistralBatch,
    OpenAIBatch,
    OpenRouterBatch,
    TogetherBatch,
    VertexBatch,
    VoyageBatch,
    XaiBatch,
)


@dataclass(frozen=True)
class Service:
    """One provider's account.

    Attributes:
        resource: Made of the environment.
        needs: Environment variables, the key first.
        model: Asked unless another one is named; empty if there is none that everybody has.
        priced_as: What genai-prices calls the provider; empty if it has no prices of it.
        embeds: Whether it is asked for vectors instead of labels.
    """

    resource: Callable[[Mapping[str, str]], BatchResource]
    needs: tuple[str, ...]
    model: str = ""
    priced_as: str = ""
    embeds: bool = False

    def missing(self) -> list[str]:
        """Variables that aren't set."""
        return [name for name in self.needs if not os.environ.get(name)]


SERVICES: Mapping[str, Service] = {
    "openai": Service(
        lambda env: OpenAIBatch(api_key=env["OPENAI_API_KEY"]), ("OPENAI_API_KEY",), "gpt-5-nano", "openai"
    ),
    "openai-responses": Service(
        lambda env: OpenAIBatch(api_key=env["OPENAI_API_KEY"], chat_api="responses"),
        ("OPENAI_API_KEY",),
        "gpt-5-nano",
        "openai",
    ),
    "azure": Service(
        lambda env: AzureOpenAIBatch(api_key=env["AZURE_OPENAI_API_KEY"], base_url=env["AZURE_OPENAI_BASE_URL"]),
        ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_BASE_URL"),
        priced_as="azure",
    ),
    "anthropic": Service(
        lambda env: AnthropicBatch(api_key=env["ANTHROPIC_API_KEY"]),
        ("ANTHROPIC_API_KEY",),
        "claude-haiku-4-5",
        "anthropic",
    ),
    "gemini": Service(
        lambda env: GeminiBatch(api_key=env["GEMINI_API_KEY"]), ("GEMINI_API_KEY",), "gemini-2.5-flash-lite", "google"
    ),
    "mistral": Service(
        lambda env: MistralBatch(api_key=env["MISTRAL_API_KEY"]),
        ("MISTRAL_API_KEY",),
        "mistral-small-latest",
        "mistral",
    ),
    "groq": Service(
        lambda env: GroqBatch(api_key=env["GROQ_API_KEY"]), ("GROQ_API_KEY",), "llama-3.1-8b-instant", "groq"
    ),
    "together": Service(
        lambda env: TogetherBatch(api_key=env["TOGETHER_API_KEY"]),
        ("TOGETHER_API_KEY",),
        "meta-llama/Llama-3.3-70B-Instruct-Turbo",
        "together",
    ),
    "fireworks": Service(
        lambda env: FireworksBatch(api_key=env["FIREWORKS_API_KEY"], account_id=env["FIREWORKS_ACCOUNT_ID"]),
        ("FIREWORKS_API_KEY", "FIREWORKS_ACCOUNT_ID"),
        "accounts/fireworks/models/llama-v3p1-8b-instruct",
        "fireworks",
    ),
    "cohere": Service(
        lambda env: CohereBatch(api_key=env["CO_API_KEY"]), ("CO_API_KEY",), "command-r7b-12-2024", "cohere"
    ),
    "vertex": Service(
        lambda env: VertexBatch(
            project=env["VERTEX_PROJECT"], location=env["VERTEX_LOCATION"], gcs_folder=env["VERTEX_GCS_FOLDER"]
        ),
        ("VERTEX_PROJECT", "VERTEX_LOCATION", "VERTEX_GCS_FOLDER"),
        "gemini-2.5-flash-lite",
        "google",
    ),
    "xai": Service(lambda env: XaiBatch(api_key=env["XAI_API_KEY"]), ("XAI_API_KEY",), "grok-4-fast", "x-ai"),
    "doubleword": Service(lambda env: DoublewordBatch(api_key=env["DOUBLEWORD_API_KEY"]), ("DOUBLEWORD_API_KEY",)),
    "openrouter": Service(
        lambda env: OpenRouterBatch(api_key=env["OPENROUTER_API_KEY"]),
        ("OPENROUTER_API_KEY",),
        "openai/gpt-4o-mini",
        "openrouter",
    ),
    "voyage": Service(
        lambda env: VoyageBatch(api_key=env["VOYAGE_API_KEY"]),
        ("VOYAGE_API_KEY",),
        "voyage-3.5-lite",
        "voyageai",
        embeds=True,
    ),
}
