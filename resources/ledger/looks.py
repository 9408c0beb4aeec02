"""The ledger's side of a look: which keys are open or answered, and taking the rest without a gap.

A task's fence moves with every insert of attempts. Whoever inserts names the fence it read before its snapshot,
so two lookers can never both take a key; the lease only keeps them from working for nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from sqlalchemy import Connection, select, update

from ..request import MAX_DOUBLINGS, RequestSpec, Room, TaskHash
from . import schema
from .attempts import Attempt
from .connect import Database, persistent, was_cut_off
from .moments import LOOK_LEASE_SECONDS
from .new_rows import insert_new, insert_own
from .statements import (
    ANSWERS_OF_TASK,
    COUNT_ASKED,
    LAST_RETRY,
    LIMITS_REFUSED,
    MOVE_TASK_FENCE,
    OPEN_MANIFESTS,
    TAKE_TASK,
    TASK_FENCE,
    TASK_SPEC,
)


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
    def room(self, task: TaskHash) -> Room:
        """How much more room there is for answers that were cut off.

        A provider that has refused a limit isn't asked for that again, but after a person's `retry`.
        """
        if self.spec(task).limit is None:
            return Room()
        with self._db.read() as c:
            refused = [row.limit_factor for row in c.execute(LIMITS_REFUSED, {"of": task})]
        least = min((factor.bit_length() - 2 for factor in refused), default=MAX_DOUBLINGS)
        return Room(least, is_all=bool(refused))

    @persistent
    def take(self, task: TaskHash, owner: str) -> bool:
        """Take or renew the task's lease, politely: the fence does not move."""
        now = self._db.clock.now()
        values = {"of": task, "by": owner, "now": now, "until": now + LOOK_LEASE_SECONDS}
        with self._db.write() as c:
            return c.execute(TAKE_TASK, values).rowcount > 0

    @persistent
    def release(self, task: TaskHash, owner: str) -> None:
        """Give the lease back."""
        t = schema.task
        with self._db.write() as c:
            c.execute(update(t).where(t.c.hash == task, t.c.owner == owner).values(owner=None, lease_until=0.0))

    @persistent
    def snapshot(self, task: TaskHash) -> Snapshot:
        """Everything a look may rely on, from one snapshot of the ledger."""
        of = {"of": task}
        with self._db.read() as c:
            fence = c.execute(TASK_FENCE, of).scalar_one()
            manifests = [(row.id, row.manifest) for row in c.execute(OPEN_MANIFESTS, of)]
            files = c.execute(ANSWERS_OF_TASK, of).all()
            moment = c.execute(LAST_RETRY, of).scalar_one()
        forgiven = frozenset(row.file for row in files if moment is not None and row.at <= moment)
        return Snapshot(fence, manifests, [row.file for row in files], forgiven)

    @persistent
    def insert(
        self, task: TaskHash, fence: int, plan: str, attempts: Sequence[Attempt], waits_for: Sequence[str]
    ) -> bool:
        """Take the keys: move the fence, insert all attempts and note what the plan waits for; all or nothing.

        Gives False, and changes nothing, if the fence has moved since the snapshot, or the plan has ended: look again.
        """
        with self._db.write() as c:
            if c.execute(MOVE_TASK_FENCE, {"of": task, "fence_is": fence, "plan_is": plan}).rowcount == 0:
                return was_cut_off(c) and _are_there(c, attempts)
            for attempt in attempts:
                insert_own(c, schema.attempt, {field.name: getattr(attempt, field.name) for field in fields(attempt)})
            for waited in [*waits_for, *(attempt.id for attempt in attempts)]:
                insert_new(c, schema.plan_attempt, {"plan": plan, "attempt": waited})
            asked = sum(attempt.rows for attempt in attempts)
            c.execute(COUNT_ASKED, {"of": plan, "more": asked})
            return True


def _are_there(c: Connection, attempts: Sequence[Attempt]) -> bool:
    """Whether these very attempts were inserted; their ids are random."""
    ids = [attempt.id for attempt in attempts]
    return bool(ids) and c.execute(select(schema.attempt.c.id).where(schema.attempt.c.id.in_(ids))).first() is not None
