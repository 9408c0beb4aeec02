"""What a user declares: tables that an LLM fills in."""

from __future__ import annotations

from .classify import classify_asset
from .embed import embed_asset
from .outputs import Labels, Text, Vector
from .table import llm_table

__all__ = ["Labels", "Text", "Vector", "classify_asset", "embed_asset", "llm_table"]
