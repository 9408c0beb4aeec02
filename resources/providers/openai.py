"""OpenAI's Batch API as a Dagster resource."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UserError
from .profile import AT_ONCE, About, Certainty, Profile
from .protocol import BatchProvider
from .resource import BatchResource, clean_key
from .wires.parameters import Parameters
from .wires.responses import RESPONSES_WIRE

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
    endpoints={"chat": "/v1/chat/completions", "embedding": "/v1/embeddings", "moderation": "/v1/moderations"},
    at_once={**AT_ONCE, "moderation": "/moderations"},
    parameters={"chat": CHAT_PARAMETERS, "embedding": Parameters.named(["user"]), "moderation": Parameters()},
)

RESPONSES_PARAMETERS = Parameters(
    {
        **{
            name: name
            for name in (
                *("temperature", "top_p", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"),
                *("store", "service_tier", "truncation", "reasoning", "text"),
            )
        },
        "reasoning_effort": "reasoning.effort",
        "verbosity": "text.verbosity",
    },
    limit="max_output_tokens",
)
"""`ResponseCreateParamsBase` of the same package, but for what makes a conversation of a request, tools and streams."""


def with_responses(profile: Profile, chat_api: str) -> Profile:
    """The profile with the API that answers chats.

    Raises:
        UserError: There is no such API.
    """
    if chat_api == "chat/completions":
        return profile
    if chat_api != "responses":
        raise UserError(f"{profile.name}: chat_api is {chat_api!r}; it is 'chat/completions' or 'responses'.")
    endpoints = {**profile.endpoints, "chat": "/v1/responses"}
    parameters = {**profile.parameters, "chat": RESPONSES_PARAMETERS}
    at_once = {**profile.at_once, "chat": "/responses"}
    return replace(profile, wire=RESPONSES_WIRE, endpoints=endpoints, at_once=at_once, parameters=parameters)


class OpenAIBatch(BatchResource):
    """OpenAI's Batch API: half the price of realtime, answers within 24 hours.

    Args:
        api_key: ``dg.EnvVar("OPENAI_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version. Set it for a gateway in front of OpenAI; any other server is
            `OpenAICompatibleBatch`.
        completion_window: How long the provider may take; OpenAI offers ``24h``.
        chat_api: What answers chats: ``chat/completions``, or ``responses``, the newer one.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
        UserError: There is no such chat_api.
    """

    api_key: str
    base_url: str = "https://api.openai.com/v1"
    completion_window: str = "24h"
    chat_api: str = "chat/completions"

    def provider(self) -> BatchProvider:
        key = clean_key(OPENAI.name, self.api_key, "OPENAI_API_KEY")
        profile = with_responses(OPENAI, self.chat_api)
        return self.client(profile, base_url=self.base_url, api_key=key, window=self.completion_window)
