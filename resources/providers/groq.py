"""Groq's batches as a Dagster resource."""

from __future__ import annotations

from typing import ClassVar

from .openai_shape import OpenAIShape
from .profile import About, Certainty, Profile
from .protocol import BatchProvider
from .resource import BatchResource, clean_key
from .wires.parameters import Parameters

# The groq Python package 1.7.0, read 2026-11-25: windows, the one endpoint, 100 MB a file, a listing that takes no
# parameters. 50,000 rows are what its documentation is remembered to say.
GROQ = Profile(
    name="groq",
    about=About(
        title="Groq",
        found_by="its token or its input file, in a listing without pages",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="50 %",
        uncertain=("rows per file", "whether a long listing is cut: one of 20 batches or more has to reach far enough"),
    ),
    max_bytes=100_000_000,
    windows=("24h", "48h", "72h", "96h", "120h", "144h", "7d"),
    endpoints={"chat": "/v1/chat/completions"},
    at_once={"chat": "/chat/completions"},
    parameters={
        "chat": Parameters.named(
            (
                *("frequency_penalty", "presence_penalty", "logit_bias", "temperature", "top_p", "seed", "stop"),
                *("reasoning_effort", "reasoning_format", "include_reasoning", "user"),
            ),
            limit="max_completion_tokens",
        )
    },
)


class GroqBatch(BatchResource):
    """Open models on Groq, which speaks OpenAI's files and batches.

    Args:
        api_key: ``dg.EnvVar("GROQ_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version.
        completion_window: From ``24h`` to ``7d``.
        max_rows_per_batch: Cut into smaller batches than 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.groq.com/openai/v1"
    completion_window: str = "24h"

    def provider(self) -> BatchProvider:
        key = clean_key(GROQ.name, self.api_key, "GROQ_API_KEY")
        return self.client(GROQ, base_url=self.base_url, api_key=key, window=self.completion_window, shape=GroqShape)


class GroqShape(OpenAIShape):
    """`OpenAIShape`, but the listing is one page."""

    paged: ClassVar[bool] = False
