"""The ledger's side of a look: which keys are open or answered, and taking the rest without a gap.

A task's fence moves with every insert of attempts. Whoever inserts names the fence it read before its snapshot,
so two lookers can never both take a key; the lease only keeps them from working for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import Connection, func, insert, select, update

from ..request import RequestSpec, TaskHash
from . import schema
from .attempts import Attempt
from .connect import Database, persistent, was_cut_off
from .moments import has_come
from .new_rows import insert_new
from .statements import OPEN_MANIFESTS, TASK_FENCE, TASK_SPEC
from .states import PlanState

LOOK_LEASE_SECONDS = 60.0


@dataclass(frozen=True)
class Snapshot:
    """One moment of a task: the fence, the open attempts' manifests and the answers files, as paths in home.

    Failures in the answers files that are `forgiven`, some of all, don't count: a person wants them asked again.
    """

    fence: int
    open_manifests: Sequence[tuple[str, str]]
    answers_files: Sequence[str]
    forgiven: frozenset[str] = frozenset()


class Looks:
    """Fenced looks at tasks."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @persistent
    def declare(self, spec: RequestSpec) -> TaskHash:
        """Make sure that the task has its row."""
        row = {"hash": spec.task, "spec": spec.to_json(), "fence": 0, "lease_until": 0.0}
        with self._db.write() as c:
            insert_new(c, schema.task, row)
        return spec.task

    @persistent
    def spec(self, task: TaskHash) -> RequestSpec:
        """What the task asks."""
        with self._db.read() as c:
            return RequestSpec.from_json(c.execute(TASK_SPEC, {"of": task}).scalar_one())

    @persistent
    def take(self, task: TaskHash, owner: str) -> bool:
        """Take or renew the task's lease, politely: the fence does not move."""
        t, now = schema.task, self._db.clock.now()
        free = has_come(t.c.lease_until, now, LOOK_LEASE_SECONDS) | (t.c.owner == owner)
        with self._db.write() as c:
            lease = update(t).where(t.c.hash == task, free).values(owner=owner, lease_until=now + LOOK_LEASE_SECONDS)
            return c.execute(lease).rowcount > 0

    @persistent
    def release(self, task: TaskHash, owner: str) -> None:
        """Give the lease back."""
        t = schema.task
        with self._db.write() as c:
            c.execute(update(t).where(t.c.hash == task, t.c.owner == owner).values(owner=None, lease_until=0.0))

    @persistent
    def snapshot(self, task: TaskHash) -> Snapshot:
        """Everything a look may rely on, from one snapshot of the ledger."""
        s = schema.answers
        with self._db.read() as c:
            fence = c.execute(TASK_FENCE, {"of": task}).scalar_one()
            manifests = [(row.id, row.manifest) for row in c.execute(OPEN_MANIFESTS, {"of": task})]
            files = c.execute(select(s.c.file, s.c.at).where(s.c.task == task).order_by(s.c.at, s.c.file)).all()
            retry = schema.retry.c
            moment = c.execute(select(func.max(retry.at)).where(retry.task == task)).scalar_one()
        forgiven = frozenset(row.file for row in files if moment is not None and row.at <= moment)
        return Snapshot(fence, manifests, [row.file for row in files], forgiven)

    @persistent
    def insert(
        self, task: TaskHash, fence: int, plan: str, attempts: Sequence[Attempt], waits_for: Sequence[str]
    ) -> bool:
        """Take the keys: move the fence, insert all attempts and note what the plan waits for; all or nothing.

        Gives False, and changes nothing, if the fence has moved since the snapshot, or the plan has ended: look again.
        """
        t, p = schema.task, schema.plan
        wanted = select(p.c.id).where(p.c.id == plan, p.c.state == PlanState.OPEN).exists()
        with self._db.write() as c:
            moved = update(t).where(t.c.hash == task, t.c.fence == fence, wanted)
            if c.execute(moved.values(fence=fence + 1, owner=None, lease_until=0.0)).rowcount == 0:
                return was_cut_off(c) and _are_there(c, attempts)
            for attempt in attempts:
                c.execute(insert(schema.attempt).values({f.name: getattr(attempt, f.name) for f in fields(attempt)}))
            for waited in [*waits_for, *(attempt.id for attempt in attempts)]:
                insert_new(c, schema.plan_attempt, {"plan": plan, "attempt": waited})
            asked = sum(attempt.rows for attempt in attempts)
            c.execute(update(schema.plan).where(schema.plan.c.id == plan).values(asked=schema.plan.c.asked + asked))
            return True


def _are_there(c: Connection, attempts: Sequence[Attempt]) -> bool:
    """Whether these very attempts were inserted; their ids are random."""
    ids = [attempt.id for attempt in attempts]
    return bool(ids) and c.execute(select(schema.attempt.c.id).where(schema.attempt.c.id.in_(ids))).first() is not None
