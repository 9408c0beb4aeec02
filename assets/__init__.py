"""What a user declares: tables that an LLM fills in."""

from __future__ import annotations

from .classify import classify_asset
from .embed import embed_asset
from .enrich import enrich_asset
from .moderate import moderate_asset
from .outputs import Labels, Text, Vector
from .summarize import summarize_asset
from .table import llm_table

__all__ = [  # noqa: RUF022 - in the order a user meets them
    "classify_asset",
    "enrich_asset",
    "summarize_asset",
    "embed_asset",
    "moderate_asset",
    "llm_table",
    "Labels",
    "Text",
    "Vector",
]
