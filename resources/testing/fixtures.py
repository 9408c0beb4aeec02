"""The pytest fixture.

Name it in your outermost conftest.py::

    pytest_plugins = ["dagster_batch_llm.resources.testing.fixtures"]

It is no entry point, because then every test run of an environment would import Dagster.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from . import Emulator


@pytest.fixture
def batch_llm_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Emulator]:
    """A running emulator without faults, in a folder of the test's own, and a ledger of the test's own."""
    monkeypatch.setenv("BATCH_LLM_HOME", str(tmp_path / "batch_llm"))
    with Emulator(tmp_path / "emulator") as emulator:
        yield emulator
