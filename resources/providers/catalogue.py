"""All providers, in the order in which people are shown them."""

from __future__ import annotations

from .anthropic import ANTHROPIC
from .azure import AZURE
from .bedrock import BEDROCK
from .compatible import COMPATIBLE
from .doubleword import DOUBLEWORD
from .fireworks import FIREWORKS
from .gemini import GEMINI
from .groq import GROQ
from .local import LOCAL
from .mistral import MISTRAL
from .openai import OPENAI
from .openrouter import OPENROUTER
from .profile import Profile
from .together import TOGETHER
from .voyage import VOYAGE
from .xai import XAI

PROFILES: tuple[Profile, ...] = (
    OPENAI,
    AZURE,
    ANTHROPIC,
    GEMINI,
    BEDROCK,
    MISTRAL,
    GROQ,
    TOGETHER,
    FIREWORKS,
    XAI,
    OPENROUTER,
    DOUBLEWORD,
    VOYAGE,
    COMPATIBLE,
    LOCAL,
)
