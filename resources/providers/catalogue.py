"""All providers, in the order in which people are shown them."""

from __future__ import annotations

from collections.abc import Mapping

from .anthropic import ANTHROPIC
from .azure import AZURE
from .bedrock import BEDROCK, INVOCATIONS
from .cohere import COHERE
from .compatible import COMPATIBLE
from .doubleword import DOUBLEWORD
from .fireworks import FIREWORKS
from .gemini import GEMINI
from .groq import GROQ
from .local import LOCAL
from .mistral import MISTRAL
from .openai import OPENAI, with_responses
from .openrouter import OPENROUTER
from .profile import Profile
from .together import TOGETHER
from .vertex import VERTEX
from .voyage import VOYAGE
from .xai import XAI

RESOURCES: Mapping[str, Profile] = {
    "OpenAIBatch": OPENAI,
    "AzureOpenAIBatch": AZURE,
    "AnthropicBatch": ANTHROPIC,
    "GeminiBatch": GEMINI,
    "VertexBatch": VERTEX,
    "BedrockBatch": BEDROCK,
    "CohereBatch": COHERE,
    "MistralBatch": MISTRAL,
    "GroqBatch": GROQ,
    "TogetherBatch": TOGETHER,
    "FireworksBatch": FIREWORKS,
    "XaiBatch": XAI,
    "DoublewordBatch": DOUBLEWORD,
    "OpenRouterBatch": OPENROUTER,
    "VoyageBatch": VOYAGE,
    "OpenAICompatibleBatch": COMPATIBLE,
    "LocalBatch": LOCAL,
}
"""The resource that a user names → its facts."""

VARIANTS: Mapping[str, Mapping[str, Profile]] = {
    "OpenAIBatch": {'chat_api="responses"': with_responses(OPENAI, "responses")},
    "AzureOpenAIBatch": {'chat_api="responses"': with_responses(AZURE, "responses")},
    "BedrockBatch": {'invocation="InvokeModel"': INVOCATIONS["InvokeModel"]},
}
"""The facts where an option of a resource has other chats made."""

PROFILES: tuple[Profile, ...] = tuple(RESOURCES.values())
