"""What makes LLM tables go: the sensor, and the demo code location."""

from __future__ import annotations

from .defs import batch_llm_defs
from .sensor import batch_llm_sensor

__all__ = ["batch_llm_defs", "batch_llm_sensor"]
