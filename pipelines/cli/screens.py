"""What the commands show, made from the ledger. All text that comes from elsewhere passes through `plain`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ...assets.report import reused, tokens
from ...resources.ledger import OPEN_ATTEMPTS, Attempt, Ledger, Plan, PlanId, PlanState, schema
from ...resources.operations import advice, why_it_waits
from ...resources.providers.catalogue import PROFILES
from ...resources.providers.profile import Profile
from ...resources.visible import visible


@dataclass(frozen=True)
class Line:
    """A table that waits for one batch, or for a run if there is none.

    Attributes:
        table: Asset and partitions.
        llm: Resource key of the provider.
        batch: The provider's id, or ours before there is one.
        state: Where it stands.
        rows: Requests in it.
        done: Answered by the provider.
        failed: Answered with an error.
        age: Seconds since it was made.
        left: Seconds until the provider gives it up; None if there is no such time.
    """

    table: str
    llm: str
    batch: str
    state: str
    rows: int
    done: int
    failed: int
    age: float
    left: float | None


def lines(ledger: Ledger) -> list[Line]:
    """All that is open: plans with their batches, and batches of plans that have ended."""
    now = ledger.clock.now()
    found: list[Line] = []
    shown: set[str] = set()
    for plan in ledger.plans.find(schema.plan.c.state == PlanState.OPEN):
        attempts = ledger.attempts.open_of_plan(plan.id)
        shown |= {attempt.id for attempt in attempts}
        found += [_line(ledger, plan, attempt, now) for attempt in attempts] or [_line(ledger, plan, None, now)]
    for attempt in ledger.attempts.find(schema.attempt.c.state.in_(OPEN_ATTEMPTS)):
        if attempt.id not in shown:
            found.append(_line(ledger, ledger.plans.get(PlanId(attempt.plan)), attempt, now))
    return found


def _line(ledger: Ledger, plan: Plan, attempt: Attempt | None, now: float) -> Line:
    ended = "" if plan.state is PlanState.OPEN else f", table {plan.state}"
    if attempt is None:
        state = "a run works on it" if ledger.plans.is_held(plan) else why_it_waits(ledger, plan)
        return Line(table_of(plan), plan.llm, "-", state, plan.keys, 0, 0, now - plan.created_at, None)
    state = f"{attempt.state} ({attempt.phase})" if attempt.phase and attempt.batch_id else str(attempt.state)
    return Line(
        table=table_of(plan),
        llm=attempt.llm,
        batch=attempt.batch_id or attempt.id,
        state=state + ended + (f": {attempt.message}" if attempt.message else ""),
        rows=attempt.rows,
        done=attempt.completed,
        failed=attempt.failed,
        age=now - (attempt.submitted_at or attempt.created_at),
        left=attempt.expires_at - now if attempt.expires_at else None,
    )


def waiting(ledger: Ledger) -> RenderableType:
    """Open plans and batches with progress bars."""
    found = lines(ledger)
    if not found:
        return Text("No table waits.")
    table = grid("table", "llm", "batch", "state", "progress", ">done", ">failed", ">age", "deadline")
    for line in found:
        ready = min(line.rows, line.done + line.failed)
        bar = ProgressBar(total=max(1, line.rows), completed=ready, width=20)
        cells = (line.table, line.llm, line.batch, line.state)
        numbers = (f"{line.done}/{line.rows}", line.failed, duration(line.age), _deadline(line.left))
        table.add_row(*map(plain, cells), bar, *map(plain, numbers))
    return table


def done(ledger: Ledger, limit: int) -> RenderableType:
    """Tables that came in, the newest first; a request that is asked again counts again, and fails again."""
    plans = sorted(ledger.plans.find(schema.plan.c.state == PlanState.DONE), key=lambda plan: plan.closed_at or 0)
    if not plans:
        return Text("No table has come in yet.")
    table = grid("table", ">rows", ">asked", ">reused", ">failed", ">tokens in", ">tokens out", "when (UTC)")
    for plan in plans[: -limit - 1 : -1]:
        attempts = [attempt.id for attempt in ledger.attempts.all_of_plan(plan.id) if attempt.plan == plan.id]
        files = ledger.attempts.answers(attempts)
        paid = tokens(files)
        shown = (paid.get(f"batch_llm/{kind}_tokens") for kind in ("input", "output"))
        least = "≥ " if "batch_llm/rows_without_tokens" in paid else ""
        known = ("unknown" if count is None else f"{least}{count:,}" for count in shown)
        failed = sum(count for file in files for outcome, count in file.outcomes.items() if outcome != "ok")
        numbers = (plan.rows, plan.asked, reused(ledger, plan), failed)
        ended = moment(plan.closed_at or 0)
        table.add_row(plain(table_of(plan)), *(f"{number:,}" for number in numbers), *known, ended)
    return table


def incidents(ledger: Ledger) -> RenderableType:
    """What was recorded for a person to read."""
    found = ledger.attempts.dated_incidents()
    if not found:
        return Text("No incidents.")
    table = grid("when (UTC)", "kind", "subject", "message", "what to do")
    for at, kind, subject, message in found:
        table.add_row(moment(at), *map(plain, (kind, subject, message, advice(kind))))
    return table


def providers() -> RenderableType:
    """What a provider takes and how long things take, a line per provider."""
    table = grid("provider", *_LIMITS)
    for one in PROFILES:
        table.add_row(plain(one.name), *(plain(said(one)) for said in _LIMITS.values()))
    return table


def faults(known: Mapping[str, Mapping[str, str]]) -> RenderableType:
    """Faults of the emulator; what can happen to every call is said once."""
    table = grid("place", "fault", "what it does")
    for place in sorted(known, key=lambda place: place != "call"):
        for name, says in known[place].items():
            if place == "call" or name not in known["call"]:
                table.add_row(*map(plain, ("any call" if place == "call" else place, name, says)))
    return table


def plain(value: object) -> Text:
    """A text as it is: no markup, and control characters are shown instead of obeyed."""
    return Text(visible(str(value)))


def duration(seconds: float) -> str:
    """A length of time in at most two units.

    Example:
        >>> duration(4), duration(75), duration(7200), duration(180_000)
        ('4 s', '1 min 15 s', '2 h', '2 d 2 h')
    """
    whole = max(0, int(seconds))
    for unit, size, lesser, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {lesser}" if rest else "")
    return f"{whole} s"


def moment(at: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _deadline(left: float | None) -> str:
    if left is None:
        return "-"
    return f"in {duration(left)}" if left > 0 else f"{duration(-left)} ago"


def table_of(plan: Plan) -> str:
    """Asset and partitions of a plan."""
    more = f" and {len(plan.partitions) - 1} more" if len(plan.partitions) > 1 else ""
    return f"{plan.asset} [{plan.partitions[0]}{more}]" if plan.partitions else plan.asset


def grid(*headings: str) -> Table:
    """A table without lines; a heading that begins with ``>`` stands to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(
            heading.removeprefix(">"), justify="right" if heading.startswith(">") else "left", overflow="fold"
        )
    return table


_LIMITS: Mapping[str, Callable[[Profile], str]] = {
    ">requests": lambda one: f"{one.max_rows:,}",
    ">file, MB": lambda one: f"{one.max_bytes / 1e6:g}",
    ">request, MB": lambda one: f"{one.max_line_bytes / 1e6:g}",
    "windows": lambda one: ", ".join(one.windows),
    "looked at every": lambda one: " to ".join(map(duration, one.poll_seconds)),
    "lost create is sent again": lambda one: (
        "when its file is deleted" if one.revocable else f"after {duration(one.settle)}"
    ),
}
