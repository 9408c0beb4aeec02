"""A few seeds with every test run; `make simulate` runs many, `make mutations` shows that they notice something."""

from __future__ import annotations

import pytest

from .campaign import replayed, several
from .faults import Setting
from .mutations import RULES, settings_for, try_rule
from .report import failure

_AT_ONCE = 100


@pytest.mark.parametrize("first", range(0, 2_000, _AT_ONCE))
def test_whatever_happens_each_answer_is_paid_once_kept_and_in_its_place(first: int) -> None:
    total = several([Setting.of(seed) for seed in range(first, first + _AT_ONCE)])
    assert total.seeds == _AT_ONCE
    assert len(total.thin) <= _AT_ONCE / 20
    assert not total.failed, "\n".join(failure(*total.failed[0]))


def test_a_seed_is_always_the_same() -> None:
    first, second = (replayed(Setting.of(3)) for _ in range(2))
    assert first.trace == second.trace
    assert len(first.trace) > 50


@pytest.mark.parametrize(
    "name",
    [
        "no intent before the create",
        "a lost reply is taken for a no",
        "settles after the HTTP time-out",
        "results are matched by their order",
        "the last line wins",
    ],
)
def test_a_rule_that_is_removed_is_missed(name: str) -> None:
    (rule,) = (rule for rule in RULES if rule.name == name)
    assert try_rule(rule, settings_for(rule, 6)).violation
