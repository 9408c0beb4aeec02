"""What a campaign came to, as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from statistics import median

from .agenda import Agenda, Distinct, same
from .campaign import Result


def table(agenda: Agenda) -> str:
    """Scenario, role, action: how many were struck; then what wasn't, and violations."""
    results = agenda.results
    struck = Counter(
        (result.scenario, strike.point.role, strike.action) for result in results for strike in result.struck
    )
    lines = ["| scenario | role | action | struck |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(names)} | {number} |" for names, number in sorted(struck.items())]
    distinct = agenda.struck()
    by_role = Counter((role, action) for role, action, _ in distinct)
    lines += [
        "",
        "distinct steps: " + ", ".join(f"{role} {action} {n}" for (role, action), n in sorted(by_role.items())),
    ]
    lines += [f"not reached: {text}" for text in sorted(_unreached(agenda, distinct))]
    worlds = [result for result in results if result.strikes]
    seconds = [result.seconds for result in results]
    lines.append(
        f"{sum(struck.values())} struck in {len(worlds)} worlds, {len(distinct)} of them distinct; "
        f"{len(agenda.targets)} left, {len(agenda.missed)} not reached, "
        f"{sum(bool(result.violations) for result in results)} worlds with a violation; "
        f"{sum(seconds):.0f} s, {median(seconds or [0.0]):.1f} s a world."
    )
    return "\n".join(lines)


def story(result: Result) -> str:
    """How a world can be played again, and what was wrong in it."""
    strikes = " ".join(f"--strike {str(strike)!r}" for strike in result.strikes)
    postgres = "--postgres " if any(strike.action == "restart" for strike in result.strikes) else ""
    again = f"python -m tests.kills {postgres}--scenario {result.scenario!r} {strikes}"
    return "\n".join([again, f"struck: {[str(strike) for strike in result.struck]}", *result.violations, result.log])


def _unreached(agenda: Agenda, distinct: Collection[Distinct]) -> set[str]:
    found = {f"{t.scenario}: {t.strike}" for t in agenda.missed if same(t.strike) not in distinct}
    return found | {f"{t.scenario}: {t.strike} (no time)" for t in agenda.targets if same(t.strike) not in distinct}
