"""The wires by their names, as the ledger has them."""

from __future__ import annotations

from collections.abc import Mapping

from .anthropic import ANTHROPIC_WIRE
from .bedrock import CLAUDE_WIRE, CONVERSE_WIRE
from .cohere import COHERE_WIRE
from .family import FIREWORKS_WIRE, MISTRAL_WIRE, OPENROUTER_WIRE, TOGETHER_WIRE, VOYAGE_WIRE, XAI_WIRE
from .google import GEMINI_WIRE, VERTEX_WIRE
from .openai import OPENAI_WIRE
from .responses import RESPONSES_WIRE
from .wire import Wire

_ALL = (
    *(OPENAI_WIRE, RESPONSES_WIRE, ANTHROPIC_WIRE, GEMINI_WIRE, VERTEX_WIRE, CONVERSE_WIRE, CLAUDE_WIRE, COHERE_WIRE),
    *(MISTRAL_WIRE, TOGETHER_WIRE, VOYAGE_WIRE, XAI_WIRE, OPENROUTER_WIRE, FIREWORKS_WIRE),
)

WIRES: Mapping[str, Wire] = {wire.name: wire for wire in _ALL}
