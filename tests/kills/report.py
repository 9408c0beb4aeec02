"""What a campaign came to, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median

from .campaign import Result


def table(results: Sequence[Result]) -> str:
    """Scenario, role, kind of step: how many were struck there, and violations."""
    struck = [result for result in results if result.struck and result.point is not None]

    def row(result: Result) -> tuple[str, str, str, str]:
        return (
            result.scenario,
            result.point.role if result.point else "",
            result.action,
            result.point.step if result.point else "",
        )

    lines = ["| scenario | role | action | step | struck | violations |", "|---|---|---|---|---|---|"]
    for names, group in groupby(sorted(struck, key=row), key=row):
        found = list(group)
        broken = sum(bool(result.violations) for result in found)
        lines.append(f"| {' | '.join(names)} | {len(found)} | {broken} |")
    missed = sum(result.point is not None and not result.struck for result in results)
    seconds = [result.seconds for result in results]
    broken = sum(bool(result.violations) for result in results)
    lines.append("")
    lines.append(
        f"{len(struck)} struck, {missed} times the point was not reached, {broken} worlds with a violation; "
        f"{sum(seconds):.0f} s, {median(seconds or [0.0]):.1f} s a world."
    )
    return "\n".join(lines)


def distinct(results: Sequence[Result]) -> int:
    """How many steps were struck, each counted once per role and action."""
    struck = [result for result in results if result.struck and result.point is not None]
    return len({(result.point.role, result.action, result.point.step) for result in struck if result.point})
