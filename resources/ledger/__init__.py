"""What was asked: plans, attempts, sends, links and incidents, in one database."""

from __future__ import annotations

from pathlib import Path

from ..clock import Clock
from .attempts import AnswersFile, Attempt, AttemptId, Attempts, Incident, Link, Send
from .connect import Database, default_home
from .looks import Looks, Snapshot
from .moments import LEASE_SECONDS, LONGEST_WAIT, has_come
from .plans import Origin, Plan, PlanId, Plans
from .states import LEGAL, OPEN_ATTEMPTS, AttemptState, PlanState, Tier
from .upkeep import Upkeep

__all__ = [
    "LEASE_SECONDS",
    "LEGAL",
    "LONGEST_WAIT",
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
    "Tier",
    "Upkeep",
    "default_home",
    "has_come",
]


class Ledger:
    """The ledger of a home folder: ``home/ledger.sqlite3`` beside ``home/answers/``, or a Postgres database.

    Args:
        home: The folder; `default_home` if not given.
        clock: Where time comes from.
        url: A Postgres database, such as ``postgresql+psycopg://user@host:5432/database``, or an empty text for the
            file; by default what ``BATCH_LLM_LEDGER`` says.
        read_only: Only look at a ledger that is there; whatever would write fails.

    Raises:
        StorageError: See `resources.ledger.connect.Database`.
        MissingExtraError: The extra ``postgres`` is not installed.
    """

    def __init__(
        self,
        home: Path | None = None,
        clock: Clock | None = None,
        *,
        url: str | None = None,
        read_only: bool = False,
    ) -> None:
        database = Database(home or default_home(), clock, url=url, read_only=read_only)
        self.home = database.home
        self.id = database.id
        self.clock = database.clock
        self.attempts = Attempts(database)
        self.plans = Plans(database)
        self.looks = Looks(database)
        self.upkeep = Upkeep(database)
