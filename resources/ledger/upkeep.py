"""What a person changes in the ledger: ending plans, asking again, and what `forget` and `doctor` need."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, insert, select, update

from ..request import TaskHash
from . import schema
from .attempts import AnswersFile, AttemptId, void_unsent
from .connect import Database, persistent
from .high_water import noted_sends, older, sends_in
from .new_rows import insert_new
from .plans import PlanId
from .statements import only_wanted_by, wanted
from .states import OPEN_ATTEMPTS, AttemptState, PlanState

_A, _P = schema.attempt, schema.plan


class Upkeep:
    """Named changes, each in one transaction."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @persistent
    def end(self, plan: PlanId, message: str, *, batches: bool) -> int:
        """End a plan and void what only it wants and was never sent, in one step; gives their number.

        An attempt's fence moves as it is voided, so a worker that is about to send it doesn't. It can be repeated.

        Args:
            plan: Open, or ended with something left.
            message: Why.
            batches: Also mark the batches that only it waits for, so that the provider is asked to cancel them.
        """
        now = self._db.clock.now()
        with self._db.write() as c:
            ended = {"state": PlanState.CANCELLED, "closed_at": now, "message": message, "holder": None}
            c.execute(update(_P).where(_P.c.id == plan, _P.c.state == PlanState.OPEN).values(ended))
            requests = void_unsent(c, plan, now)
            if batches:
                out = (_A.c.state.in_(OPEN_ATTEMPTS), _A.c.unwanted_at.is_(None), *only_wanted_by(plan))
                c.execute(update(_A).where(*out).values(unwanted_at=now))
            return requests

    @persistent
    def is_wanted(self, attempt: AttemptId, *, besides: Sequence[PlanId] = ()) -> bool:
        """Whether an open plan waits for an attempt, besides these."""
        found = select(_A.c.id).where(_A.c.id == attempt, _A.c.id.in_(wanted(*besides)))
        with self._db.read() as c:
            return c.execute(found).first() is not None

    @persistent
    def ask_again(self, task: TaskHash, keys: int) -> None:
        """From now on the failures that a task has in its answers files don't count; its answers do.

        Nor do limits that were refused.
        """
        r, s = schema.retry, schema.answers
        refused = select(func.max(_A.c.closed_at)).where(_A.c.task == task, _A.c.state == AttemptState.REFUSED)
        with self._db.write() as c:
            # A clock that was ahead may have dated either later than now.
            newest = c.execute(select(func.max(s.c.at)).where(s.c.task == task)).scalar_one()
            at = max(self._db.clock.now(), newest or 0.0, c.execute(refused).scalar_one() or 0.0)
            c.execute(insert(r).values(task=task, at=at, keys=keys))

    @persistent
    def move_fences(self) -> None:
        """Make every look that is under way start over: none of the manifests that are there becomes an attempt's."""
        with self._db.write() as c:
            c.execute(update(schema.task).values(fence=schema.task.c.fence + 1))

    @persistent
    def bury(self, plans: Sequence[str]) -> set[str]:
        """Of these plan ids, those that the ledger doesn't have, and from now on never will."""
        f, now = schema.forgotten, self._db.clock.now()
        with self._db.write() as c:
            known = set(c.execute(select(_P.c.id)).scalars())
            gone = set(plans) - known
            for plan in sorted(gone):
                insert_new(c, f, {"plan": plan, "at": now})
            return gone

    @persistent
    def forgotten_sends(self) -> str | None:
        """What is wrong if more request files were sent from here than this ledger knows."""
        noted = noted_sends(self._db.home)  # first: a send is committed before it is noted
        with self._db.read() as c:
            known = sends_in(c)
        return older(self._db.store.name, noted, known) if noted > known else None

    @persistent
    def tokens(self) -> set[str]:
        """Of all sends that were ever made."""
        with self._db.read() as c:
            return set(c.execute(select(schema.send.c.token)).scalars())

    @persistent
    def answers_files(self) -> list[tuple[AttemptId, AnswersFile]]:
        """Every answers file with its attempt, oldest first."""
        s = schema.answers
        with self._db.read() as c:
            found = c.execute(select(s).order_by(s.c.at, s.c.file)).all()
        return [(AttemptId(row.attempt), AnswersFile.of(row)) for row in found]

    @persistent
    def replace_answers(self, old: str, new: str) -> bool:
        """Name a rebuilt answers file, durable already, in the place of a lost one; False if it has been done."""
        s = schema.answers
        with self._db.write() as c:
            return c.execute(update(s).where(s.c.file == old).values(file=new)).rowcount > 0
