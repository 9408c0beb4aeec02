"""What a campaign prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from dagster_batch_llm.resources.ledger import LEGAL

from .campaign import Total, replayed
from .faults import BATCHES, NETWORK, ROWS, Setting, all_faults

_ANY = ("crash", "stop")
_LOOKING = tuple(f"{call} {fate}" for call in ("get", "list") for fate in NETWORK)
_EXPECTED: Mapping[tuple[str, str], Sequence[str]] = {
    ("planned", "creating"): ("none", *_ANY, *(f"upload {fate}" for fate in NETWORK)),
    ("planned", "refused"): ("upload refused",),
    ("planned", "submitted"): ("stop",),
    ("planned", "void"): ("none",),
    ("creating", "ambiguous"): (*_ANY, "create doubled", "create refused", *(f"create {fate}" for fate in NETWORK)),
    ("creating", "planned"): ("stop", "create no connection", "create 429"),
    ("creating", "refused"): ("create refused",),
    ("creating", "submitted"): ("none", "create delayed", "create doubled"),
    ("ambiguous", "planned"): (*_ANY, *(f"{call} {fate}" for call in ("list", "get", "delete") for fate in NETWORK)),
    ("ambiguous", "submitted"): ("none", *_ANY, *(f"list {fate}" for fate in NETWORK)),
    ("ambiguous", "creating"): ("none", *_ANY),
    ("submitted", "answered"): (
        "none",
        *_ANY,
        *_LOOKING,
        *(f"{call} {fate}" for call in ("download", "cancel") for fate in NETWORK),
        "download cut",
        *(fault for fault in BATCHES if not fault.startswith("batch failed")),
    ),
    ("submitted", "planned"): ("batch failed queue", *_ANY, *_LOOKING),
    ("submitted", "refused"): ("batch failed bad", *_ANY, *_LOOKING),
}
"""What can lead to a transition, or hinder it on the way."""
_RARE: Mapping[tuple[str, str], str] = {
    ("planned", "submitted"): "its sender has to sleep until another worker has given its create up",
    ("ambiguous", "planned"): "files are deleted once per lost create, and only where that revokes it",
    ("submitted", "answered"): "only duplicates are cancelled; the next step of who did it has to be to collect",
    ("submitted", "planned"): "one batch in 25 has no place in the queue; who has listed at least three must be next",
    ("submitted", "refused"): "one batch in 50 is rejected for good; who has listed at least three must be next",
}
"""Why few seeds hit some cells."""
_ELSEWHERE: Mapping[tuple[str, str], str] = {
    ("submitted", "ambiguous"): "the network mixes up no replies; tests/resources/test_lost_creates.py does",
}
"""Why no seed makes a transition."""


def lines_of(total: Total, seconds: float) -> Iterator[str]:
    """The whole report."""
    rate = total.seeds / max(seconds, 0.001)
    yield f"seeds      {total.seeds} in {seconds:.0f} s, {rate:.1f} per second; {dict(sorted(total.modes.items()))}"
    yield f"engine     {total.real} of them on DuckDB, SQLAlchemy and httpx, the others on stand-ins"
    yield f"effects    {total.effects} ({total.crashes} crashes, {total.stops} stops before one)"
    yield f"provider   {total.creates} batches of ours, {total.rows} rows"
    rows = {name: total.faults[f"row {name}"] for name in (*ROWS, "unknown")}
    yield f"bad rows   {rows}"
    thin = "less than 3 plans, 2 workers, 2 batches, 50 planned rows, a crash and a fault"
    yield f"thin seeds {sorted(total.thin) or None} ({thin})"
    yield f"violations {len(total.failed)}"
    yield ""
    yield from table_of(total)


def table_of(total: Total) -> Iterator[str]:
    """How often each transition was seen after each fault; then the cells that were never hit."""
    ways = [(start.value, to.value) for start, ends in LEGAL.items() for to in sorted(ends)]
    faults = all_faults()
    yield "A transition, and the faults that its worker met since its last one:"
    width = max(len(fault) for fault in faults)
    for number, (start, to) in enumerate(ways):
        yield f"  [{chr(97 + number)}] {start} → {to}"
    yield " " * width + "".join(f"{f'[{chr(97 + number)}]':>8}" for number in range(len(ways)))
    for fault in faults:
        counts = [total.transitions[start, to, fault] for start, to in ways]
        yield fault.ljust(width) + "".join(f"{count or '.':>8}" for count in counts)
    yield ""
    cells = sum(map(len, _EXPECTED.values()))
    never = {way: [f for f in faults if not total.transitions[*way, f]] for way, faults in _EXPECTED.items()}
    yield f"Never hit, of the {cells} cells in which the fault can matter: {sum(map(len, never.values()))}"
    for (start, to), missed in never.items():
        if missed:
            yield f"  {start} → {to}: {', '.join(missed)} ({_RARE.get((start, to), 'unexplained')})"
    yield from (f"  {start} → {to}: none ({why})" for (start, to), why in _ELSEWHERE.items())
    yield "The other empty cells can't matter: that call, or such a batch, isn't met on the way to the transition."


def failure(setting: Setting, violations: list[str]) -> Iterator[str]:
    """A failing seed: what is broken, how to replay it, and its trace."""
    yield f"seed {setting.seed} ({setting.mode}, {setting.kind}) is broken:"
    yield from (f"  {violation}" for violation in violations)
    yield f"  python -m tests.simulation --seed {setting.seed} --mode {setting.mode} --kind {setting.kind}"
    yield from replayed(setting).trace
