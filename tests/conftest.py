"""What all tests share: a home of their own, and one thread for linear algebra, which is faster on two cores."""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported, so before anything else

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's ledger."""
    folder = tmp_path / "batch_llm"
    monkeypatch.setenv("BATCH_LLM_HOME", str(folder))
    monkeypatch.delenv("BATCH_LLM_LEDGER", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return folder
