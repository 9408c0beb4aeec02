"""The demo's settings, all from the environment, so that one switch takes it to a paid provider."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg

from ...resources import BatchResource, LocalBatch, OpenAIBatch, UserError

STATE = Path(os.environ.get("BATCH_LLM_DEMO", ".demo")).absolute()
"""Everything the demo makes; delete the folder to begin anew."""
DUCKDB = STATE / "demo.duckdb"
PARQUET = STATE / "warehouse"
ROWS = int(os.environ.get("ROWS", "400"))
PROVIDER = os.environ.get("BATCH_LLM_PROVIDER", "local")
_DEFAULTS = {
    "local": ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
    "openai": ("gpt-5-mini", "text-embedding-3-small"),
}
if PROVIDER not in _DEFAULTS:
    raise UserError(f"BATCH_LLM_PROVIDER is {PROVIDER!r}; the demo knows {sorted(_DEFAULTS)}.")
MODEL = os.environ.get("BATCH_LLM_MODEL", _DEFAULTS[PROVIDER][0])
EMBED_MODEL = os.environ.get("BATCH_LLM_EMBED_MODEL", _DEFAULTS[PROVIDER][1])


def provider() -> BatchResource:
    """The resource that the demo's LLM tables name as ``llm``."""
    if PROVIDER == "local":
        return LocalBatch(max_rows_per_batch=250)
    base_url = os.environ.get("BATCH_LLM_BASE_URL", "https://api.openai.com/v1")
    return OpenAIBatch(api_key=dg.EnvVar("OPENAI_API_KEY"), base_url=base_url)


def environment() -> dict[str, str]:
    """The environment of every process of the demo: its own Dagster instance and its own ledger."""
    home = STATE / "dagster_home"
    return {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "BATCH_LLM_HOME": os.environ.get("BATCH_LLM_HOME", str(STATE / "batch_llm")),
        "BATCH_LLM_LEDGER": "",  # a file in that folder, whatever your own ledger is
        "BATCH_LLM_DEMO": str(STATE),
        "ROWS": str(ROWS),
    }
