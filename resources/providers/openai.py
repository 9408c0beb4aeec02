"""OpenAI's Batch API as a Dagster resource."""

from __future__ import annotations

from .profile import AT_ONCE, About, Certainty, Profile
from .protocol import BatchProvider
from .resource import BatchResource, clean_key
from .wires.parameters import Parameters

CHAT_PARAMETERS = Parameters.named(
    (
        *("frequency_penalty", "presence_penalty", "logit_bias", "temperature", "top_p", "seed", "stop"),
        *("reasoning_effort", "verbosity", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"),
        *("store", "service_tier"),
    ),
    limit="max_completion_tokens",
)
"""`CompletionCreateParamsBase` of the openai Python package 3.57.0, but for what changes what an answer is: several
choices, tools, streams, media."""

# Limits: the batches.create docstring of the openai Python package 3.57.0, read 2026-11-24. A limit per line
# is documented nowhere; 20 MB keeps one row from filling a file. Whether a deleted input file stops a late
# create is unverified, so it is not relied upon.
OPENAI = Profile(
    name="openai",
    about=About(
        title="OpenAI",
        found_by="its token or its input file, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-24",
        discount="50 %",
        uncertain=("how long result files are kept; 30 days are assumed",),
    ),
    keeps_seconds=30 * 86_400.0,
    at_once=AT_ONCE,
    parameters={"chat": CHAT_PARAMETERS, "embedding": Parameters.named(["user"])},
)


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
