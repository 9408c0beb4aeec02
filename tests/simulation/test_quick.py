"""The stand-ins of the simulation do what they stand in for: the same seed tells the same story with and without."""

from __future__ import annotations

import pytest

from .campaign import replayed
from .faults import Setting


@pytest.mark.parametrize("seed", [5, 7, 13])
def test_a_seed_tells_the_same_story_with_duckdb_sqlalchemy_and_httpx(seed: int) -> None:
    quick, real = replayed(Setting.of(seed)), replayed(Setting.of(seed), quick=False)
    assert quick.trace == real.trace
    assert quick.effects == real.effects
    assert quick.violations == real.violations
