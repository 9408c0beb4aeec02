"""What the commands that change something say before and after, made from `resources.operations`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.console import RenderableType

from ...resources.errors import InputError
from ...resources.ledger import Attempt
from ...resources.operations import Cost, Finding, GivenUp, Kind, Leftover, Level, Repair
from .screens import grid, plain, table_of

_AGE = re.compile(r"([0-9]{1,6})([hdw])")
_SECONDS = {"h": 3600.0, "d": 86400.0, "w": 604800.0}


def age(text: str) -> float:
    """Seconds of an age.

    Example:
        >>> age("30d"), age("12h")
        (2592000.0, 43200.0)
    """
    found = _AGE.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--older-than is a number and h, d or w, such as 30d; got {text!r}.")
    return int(found[1]) * _SECONDS[found[2]]


def ending(cost: Cost, *, batches: bool) -> str:
    """What `cancel` is about to do, and what it costs."""
    lines = [f"{table_of(plan)}: its table will not come (plan {plan.id})." for plan in cost.open_plans]
    lines += [f"{_requests(cost.unsent)} not sent yet: given up, nothing is paid for them."]
    if cost.out and batches:
        lines.append(
            f"{_requests(cost.out)} out in {len(cost.out)} batch(es): the provider is asked to cancel them, by the "
            "sensor or the next run that speaks to it. What it answers until then is paid, is fetched and kept."
        )
    elif cost.out:
        lines.append(
            f"{_requests(cost.out)} out in {len(cost.out)} batch(es): they go on and are paid; their answers are "
            "fetched and kept. With --batches the provider is asked to cancel them."
        )
    if cost.shared:
        lines.append(f"{_requests(cost.shared)} that another open plan waits for too: nothing happens to them.")
    lines.append("Answers that are here already stay.")
    return "\n".join(lines)


def asking_again(found: Sequence[GivenUp]) -> str:
    """What `retry` is about to do."""
    return "\n".join(
        f"{one.keys:,} request(s) to {one.model} of {', '.join(one.tables)} were given up: refused, or failed too "
        "often. The next materialization asks those of them that are still in the source, and pays for them."
        for one in found
    )


def removing(found: Sequence[Leftover]) -> RenderableType:
    """What `forget` deletes, by kind."""
    table = grid("what", ">number", ">bytes")
    for kind in Kind:
        of_kind = [one.bytes for one in found if one.kind is kind]
        if of_kind:
            table.add_row(kind.value, f"{len(of_kind):,}", f"{sum(of_kind):,}")
    table.add_row("together", f"{len(found):,}", f"{sum(one.bytes for one in found):,}")
    return table


def findings(found: Sequence[Finding]) -> RenderableType:
    """What `doctor` found, the worst first."""
    if not found:
        return plain("Nothing is wrong.")
    table = grid("", "what", "is wrong", "what to do")
    for one in sorted(found, key=lambda finding: list(Level).index(finding.level)):
        table.add_row(*map(plain, (one.level.value, one.subject, one.wrong, one.advice)))
    return table


def repairs(done: Sequence[Repair]) -> RenderableType:
    """What `doctor --repair` did."""
    table = grid("", "what", "how")
    for one in done:
        table.add_row(*map(plain, ("mended" if one.done else "not mended", one.subject, one.said)))
    return table if done else plain("There was nothing to repair.")


def lines_of(text: str) -> Iterator[RenderableType]:
    """A text of several lines, each shown as it is."""
    yield from map(plain, text.splitlines())


def _requests(attempts: Sequence[Attempt]) -> str:
    return f"{sum(attempt.rows for attempt in attempts):,} request(s)"
