from __future__ import annotations

import pytest


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> str:
    """Every world of this folder once with each kind of ledger."""
    return str(request.param)
