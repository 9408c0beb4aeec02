"""What was asked: plans, attempts, sends, links and incidents, in one SQLite database."""

from __future__ import annotations

from pathlib import Path

from ..clock import Clock
from .attempts import AnswersFile, Attempt, AttemptId, Attempts, Incident, Link, Send
from .connect import Database, default_home
from .looks import Looks, Snapshot
from .plans import Origin, Plan, PlanId, Plans
from .states import LEGAL, OPEN_ATTEMPTS, AttemptState, PlanState
from .upkeep import Upkeep

__all__ = [
    "LEGAL",
    "OPEN_ATTEMPTS",
    "AnswersFile",
    "Attempt",
    "AttemptId",
    "AttemptState",
    "Attempts",
    "Incident",
    "Ledger",
    "Link",
    "Looks",
    "Origin",
    "Plan",
    "PlanId",
    "PlanState",
    "Plans",
    "Send",
    "Snapshot",
    "Upkeep",
    "default_home",
]


class Ledger:
    """The ledger in a home folder: ``home/ledger.sqlite3`` beside ``home/answers/``.

    Args:
        home: The folder; `default_home` if not given.
        clock: Where time comes from.
        read_only: Only look at a ledger that is there; whatever would write fails.

    Raises:
        StorageError: See `resources.ledger.connect.Database`.
    """

    def __init__(self, home: Path | None = None, clock: Clock | None = None, *, read_only: bool = False) -> None:
        database = Database(home or default_home(), clock, read_only=read_only)
        self.home = database.home
        self.id = database.id
        self.clock = database.clock
        self.attempts = Attempts(database)
        self.plans = Plans(database)
        self.looks = Looks(database)
        self.upkeep = Upkeep(database)
