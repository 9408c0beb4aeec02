"""The protocols that the emulator speaks beside OpenAI's."""

from __future__ import annotations

from collections.abc import Mapping

from ....errors import InputError
from .amazon import Bedrock
from .anthropic import Anthropic
from .cohere import Cohere
from .dialect import Dialect
from .family import Azure, Groq, Mistral, Together, Voyage
from .google import Gemini
from .others import Fireworks, OpenRouter, Xai
from .vertex import Vertex

_ALL = (Anthropic, Azure, Bedrock, Cohere, Fireworks, Gemini, Groq, Mistral, OpenRouter, Together, Vertex, Voyage, Xai)

DIALECTS: Mapping[str, type[Dialect]] = {kind.name: kind for kind in _ALL}
"""By the names of their providers."""


def dialect_of(name: str) -> type[Dialect] | None:
    """The protocol of a provider; None for OpenAI's.

    Raises:
        InputError: It isn't spoken here.
    """
    if name != "openai" and name not in DIALECTS:
        raise InputError(f"The emulator speaks openai, {', '.join(DIALECTS)}; not {name!r}.")
    return DIALECTS.get(name)


__all__ = ["DIALECTS", "Dialect", "dialect_of"]
