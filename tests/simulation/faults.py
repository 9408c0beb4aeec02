"""Which faults a seed meets, and how often; all numbers are of virtual seconds."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

from dagster_batch_llm.resources.providers.profile import Profile, Recovery

Mode = Literal["random", "edge"]
Kind = Literal["settle", "revoke", "results", "idempotent"]
MODES: tuple[Mode, ...] = ("random", "edge")
KINDS: tuple[Kind, ...] = ("settle", "revoke", "results", "idempotent")

LONGEST_DELAY = 300.0
"""D: the longest from a create's last byte to what it does."""
LONGEST_LAG = 60.0
"""L: the longest from a create to its place in the listing."""
LONGEST_STOP = 900.0
HTTP_SECONDS = 60.0
CALM = 4000.0
"""No fault begins later; then everything has to come to its end."""
HORIZON = 90_000.0

ROWS_PER_BATCH = 16

SETTLE = Profile(
    name="settle",
    max_rows=ROWS_PER_BATCH,
    settle=LONGEST_DELAY + LONGEST_LAG,
    listing_lag=LONGEST_LAG,
    poll_seconds=(20.0, 300.0),
)
PROFILES: dict[Kind, Profile] = {
    "settle": SETTLE,
    "revoke": replace(SETTLE, name="revoke", revocable=True),
    "results": replace(SETTLE, name="results", recovery=Recovery.RESULTS),
    "idempotent": replace(SETTLE, name="idempotent", recovery=Recovery.IDEMPOTENT),
}
MEMORY_SECONDS = SETTLE.remembers + SETTLE.send_seconds + LONGEST_DELAY
"""How long an idempotent provider knows a token: also when the last repetition that is allowed arrives late."""

CALLS = ("upload", "create", "list", "get", "download", "cancel", "delete")
_RARELY = 0.3
"""The chance of a fault of calls that are seldom made."""
NETWORK = ("request lost", "reply lost", "delayed", "5xx after", "5xx", "no connection", "429")
BATCHES = (
    "batch failed queue",
    "batch failed bad",
    "batch expired",
    "batch cancelled",
    "files late",
    "unknown status",
    "404 after create",
    "counts lie",
)
ROWS = ("errored", "invalid", "truncated", "refused", "refusal", "missing", "doubled")


def all_faults() -> list[str]:
    """Every fault that a transition can be seen with."""
    network = [f"{call} {fate}" for call in CALLS for fate in NETWORK]
    return [
        "none",
        "crash",
        "stop",
        *network,
        "upload refused",
        "create refused",
        "create doubled",
        "download cut",
        *BATCHES,
    ]


@dataclass(frozen=True)
class Setting:
    """One seed's world; what the seed draws is drawn in a fixed order, so that it can be replayed.

    `crash`, `stop` and so on are chances; `crash_at` is the effect before which somebody dies in any case,
    `page` the longest page of a listing.
    """

    seed: int
    mode: Mode
    kind: Kind
    gap: bool
    workers: int
    plans: int
    keys: int
    crash_at: int
    crash: float
    stop: float
    network: float
    create: float
    row: float
    skew: float
    twin: float = 0.0
    batch: float = 0.1
    late: float = 0.2
    lies: float = 0.1
    page: int = 100

    @classmethod
    def of(cls, seed: int, mode: Mode | None = None, kind: Kind | None = None) -> Setting:
        """What a seed means; without a mode and kind the seed's own."""
        dice = random.Random(f"setting {seed}")
        mode = mode or ("edge" if seed % 4 == 3 else "random")
        kind = kind or KINDS[seed // 4 % 4]
        edge = mode == "edge"
        return cls(
            seed=seed,
            mode=mode,
            kind=kind,
            gap=kind == "revoke" and dice.random() < 0.6,
            workers=dice.choice((2, 2, 3)),
            plans=dice.choice((3, 3, 3, 4)),
            keys=dice.randrange(50, 65),
            crash_at=dice.randrange(20, 250),
            crash=dice.choice((0.004, 0.01, 0.02)),
            stop=dice.choice((0.005, 0.02, 0.04)),
            network=dice.choice((0.02, 0.06, 0.15)),
            create=dice.choice((0.3, 0.6) if edge else (0.2, 0.4, 0.7)),
            row=dice.choice((0.0, 0.08, 0.25)),
            skew=dice.uniform(-3600.0, 3600.0),
            twin=0.3 if seed % 7 == 5 and kind != "results" else 0.0,
            page=3 if seed % 5 == 2 else 100,
        )

    @property
    def profile(self) -> Profile:
        return PROFILES[self.kind]

    def delay(self, dice: random.Random) -> float:
        """How long a held-up request is on its way."""
        return LONGEST_DELAY * (dice.uniform(0.97, 1.0) if self.mode == "edge" else dice.random())

    def lag(self, dice: random.Random) -> float:
        """How long a new batch isn't listed."""
        return LONGEST_LAG * (dice.uniform(0.97, 1.0) if self.mode == "edge" else dice.choice((0.0, dice.random())))

    def sent_after(self, dice: random.Random) -> float | None:
        """In edge timing: how long after its intent a create leaves."""
        return SETTLE.send_seconds * dice.uniform(0.9, 0.99) if self.mode == "edge" else None

    def fate(self, call: str, dice: random.Random) -> str | None:
        """What the network does to a request; None for nothing."""
        if call == "create":
            if dice.random() >= self.create:
                return None
            if self.mode == "edge":
                return dice.choice(("delayed", "delayed", "delayed", "request lost", "reply lost"))
            return dice.choice((*NETWORK, "delayed", "reply lost", "request lost", "refused"))
        if dice.random() >= (_RARELY if call in {"cancel", "delete"} else self.network):
            return None
        if call == "upload" and dice.random() < 0.05:
            return "refused"
        if call == "list" and self.mode == "edge":
            return dice.choice((*NETWORK, *["delayed"] * 5))
        return dice.choice((*NETWORK, "cut") if call == "download" else NETWORK)
