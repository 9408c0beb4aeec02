"""The rules of the protocol, removed one by one: the campaign has to notice each of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from .broken_answers import ANSWERS
from .broken_looks import LOOKS
from .broken_rule import Patch, Rule
from .broken_sends import SENDS
from .campaign import run
from .faults import Setting
from .seams import home_folder, installed

_ENOUGH = 20
"""Seeds for a rule whose removal nobody expects to see."""

RULES: Sequence[Rule] = (*SENDS, *LOOKS, *ANSWERS)


@dataclass(frozen=True)
class Found:
    """What became of one mutation: the first seed that notices it, if any does."""

    rule: Rule
    seeds: int
    setting: Setting | None
    violation: str


def settings_for(rule: Rule, most: int) -> list[Setting]:
    """The seeds to try: all kinds and timings that the rule is about, in turn."""
    most = min(most, _ENOUGH) if rule.harmless else most
    every = [Setting.of(seed, mode, kind) for seed in range(most) for mode in rule.modes for kind in rule.kinds]
    return [replace(setting, **rule.tuned) for setting in every[:most]]


def try_rule(rule: Rule, settings: Sequence[Setting]) -> Found:
    """Run seeds without one rule until one of them is broken."""
    with home_folder() as folder, installed(quick=not rule.real) as seams, ExitStack() as stack:
        patches: list[Patch] = rule.remove(seams)
        for place, name, new in patches:
            stack.enter_context(mock.patch.object(place, name, new))
        for number, setting in enumerate(settings, 1):
            try:
                violations = run(setting, seams, folder).violations
            except Exception as error:  # noqa: BLE001 - a mutant may break in any way
                violations = [f"raised {type(error).__name__}: {error}"]
            if violations:
                return Found(rule, number, setting, violations[0])
    return Found(rule, len(settings), None, "")


def _try(number_and_most: tuple[int, int]) -> tuple[int, int, Setting | None, str]:
    number, most = number_and_most
    found = try_rule(RULES[number], settings_for(RULES[number], most))
    return number, found.seeds, found.setting, found.violation


def hunt(only: str, most: int, processes: int, tell: Callable[[str], Any] = print) -> int:
    """Remove the rules whose names contain `only`; a row each. The status is 1 if one that should be noticed isn't."""
    chosen = [(number, most) for number, rule in enumerate(RULES) if only in rule.name]
    missed: list[str] = []
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for number, seeds, setting, violation in pool.imap(_try, chosen):
            rule = RULES[number]
            where = f"seed {setting.seed} {setting.mode} {setting.kind}" if setting else "-"
            when = f"after {seeds}" if setting else f"not in {seeds}"
            tell(f"{rule.rule:4} {rule.name:58} {when:>12}  {where:26} {violation[:90]}")
            if not setting and not rule.harmless:
                missed.append(rule.name)
    tell(f"{len(chosen)} rules removed, {len(missed)} not noticed: {missed}")
    return bool(missed)
