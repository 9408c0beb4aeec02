"""Plans (a table that was asked for), the runs they came from, and the keepers of backfills."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

from sqlalchemy import ColumnElement, RowMapping, select, update

from ..errors import StorageError
from ..request import MAX_TRIES, TaskHash
from . import schema
from .connect import Database, persistent, was_cut_off
from .moments import HOLD_SECONDS, has_come
from .new_rows import insert_new, insert_own
from .statements import HOLD_PLAN, LET_PLAN_GO, PLAN, PLANS_WITH_WORK, UNFINISHED
from .states import PlanState

PlanId = NewType("PlanId", str)

_P = schema.plan


@dataclass(frozen=True)
class Plan:
    """One planned table, or some partitions of it."""

    id: PlanId
    state: PlanState
    asset: str
    partitions: tuple[str, ...]
    task: TaskHash
    llm: str
    spec: str
    code_version: str
    inputs: Mapping[str, str]
    origin: str
    run: str
    location: str | None
    backfill: str | None
    rows: int
    keys: int
    created_at: float
    max_attempts: int = MAX_TRIES
    asked: int = 0
    holder: str | None = None
    holder_until: float = 0.0
    closed_at: float | None = None
    message: str | None = None
    seq: int = 0


@dataclass(frozen=True)
class Origin:
    """The run that a user, schedule or backfill started; collect runs continue it, one at a time."""

    id: str
    selection: tuple[str, ...]
    tags: Mapping[str, str]
    generation: int = 0
    failures: int = 0
    due: float = 0.0


class Plans:
    """Named transitions of plans, origins and keepers."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @persistent
    def open(self, plan: Plan, origin: Origin) -> Plan:
        """Record a plan, held by its run, and its origin if that is new.

        Raises:
            StorageError: Its files were taken for a killed run's and removed; nothing was asked.
        """
        row = {name: getattr(plan, name) for name in _PLAIN}
        row |= {
            "partitions": json.dumps(plan.partitions),
            "inputs": json.dumps(dict(plan.inputs)),
            "holder": plan.run,
        }
        row["holder_until"] = self._db.clock.now() + HOLD_SECONDS
        first = {
            "selection": json.dumps(origin.selection),
            "tags": json.dumps(dict(origin.tags)),
            "id": origin.id,
        }
        f = schema.forgotten
        with self._db.write() as c:
            if c.execute(select(f.c.plan).where(f.c.plan == plan.id)).first():
                raise StorageError(
                    f"The files of plan {plan.id} were removed as those of a killed run, because this one stood still "
                    "for so long. Nothing was asked; run it again."
                )
            insert_new(c, schema.origin, first)
            insert_own(c, _P, row)
            return _plan(c.execute(PLAN, {"of": plan.id}).mappings().one())

    @persistent
    def get(self, plan: PlanId) -> Plan:
        """One plan as it is now.

        Raises:
            StorageError: There is none: the one who knows its id writes to another ledger.
        """
        with self._db.read() as c:
            found = c.execute(PLAN, {"of": plan}).mappings().one_or_none()
        if found is None:
            raise StorageError(
                f"The ledger in {self._db.home} has no plan {plan}. Runs, daemon and CLI must all have the same "
                "BATCH_LLM_HOME and BATCH_LLM_LEDGER."
            )
        return _plan(found)

    @persistent
    def find(self, *where: ColumnElement[bool]) -> list[Plan]:
        """Plans that satisfy all conditions, oldest first."""
        with self._db.read() as c:
            return [_plan(row) for row in c.execute(select(_P).where(*where).order_by(_P.c.seq)).mappings()]

    @persistent
    def with_work(self, location: str) -> list[Plan]:
        """A code location's open plans, and ended ones whose batches are still out."""
        with self._db.read() as c:
            return [_plan(row) for row in c.execute(PLANS_WITH_WORK, {"at": location}).mappings()]

    @staticmethod
    def unfinished() -> ColumnElement[bool]:
        """The condition that a plan is open, or has ended while its batches are still out."""
        return UNFINISHED

    def of_origin(self, origin: str) -> list[Plan]:
        """All plans that one origin led to."""
        return self.find(_P.c.origin == origin)

    def of_origin_or_backfill(self, name: str) -> list[Plan]:
        """All plans that one run or one backfill led to."""
        return self.find((_P.c.origin == name) | (_P.c.backfill == name))

    @persistent
    def hold(self, plan: PlanId, run: str) -> bool:
        """Take or renew the hold on a plan; False while another run has it."""
        now = self._db.clock.now()
        values = {"of": plan, "by": run, "now": now, "until": now + HOLD_SECONDS}
        with self._db.write() as c:
            return c.execute(HOLD_PLAN, values).rowcount > 0

    @persistent
    def let_go(self, plan: PlanId, run: str) -> None:
        """Give the hold back: from now on the sensor looks after the plan."""
        with self._db.write() as c:
            c.execute(LET_PLAN_GO, {"of": plan, "by": run})

    @persistent
    def close(self, plan: PlanId, state: PlanState, message: str | None = None) -> bool:
        """Open → a final state; False if it was final already."""
        values = {"state": state, "closed_at": self._db.clock.now(), "message": message, "holder": None}
        with self._db.write() as c:
            closed = c.execute(update(_P).where(_P.c.id == plan, _P.c.state == PlanState.OPEN).values(values))
            if closed.rowcount == 0 and was_cut_off(c):
                mine = select(_P.c.id).where(
                    _P.c.id == plan, _P.c.state == state, _P.c.closed_at == values["closed_at"]
                )
                return c.execute(mine).first() is not None
            return closed.rowcount > 0

    def is_outdated(self, plan: Plan) -> bool:
        """Whether a later plan of the same table and partitions is done already."""
        later = self.find(
            _P.c.asset == plan.asset,
            _P.c.seq > plan.seq,
            _P.c.state == PlanState.DONE,
            _P.c.location.is_not_distinct_from(plan.location),
        )
        mine = set(plan.partitions)
        return any(mine <= set(other.partitions) and bool(mine) == bool(other.partitions) for other in later)

    def left_behind(self, plan: Plan) -> list[Plan]:
        """Older open plans of the same table, of no code location and held by nobody: a killed notebook's.

        No sensor looks after them; those of a code location are ended by a collect run.
        """
        free = _P.c.holder.is_(None) | has_come(_P.c.holder_until, self._db.clock.now(), HOLD_SECONDS)
        older = (_P.c.asset == plan.asset, _P.c.seq < plan.seq, _P.c.state == PlanState.OPEN, _P.c.location.is_(None))
        mine = set(plan.partitions)
        found = self.find(*older, free) if plan.location is None else []
        return [other for other in found if set(other.partitions) <= mine and bool(other.partitions) == bool(mine)]

    def is_held(self, plan: Plan) -> bool:
        """Whether a run works on a plan now."""
        return plan.holder is not None and not has_come(plan.holder_until, self._db.clock.now(), HOLD_SECONDS)

    @persistent
    def origin(self, origin: str) -> Origin:
        """One origin as it is now."""
        o = schema.origin
        with self._db.read() as c:
            row = c.execute(select(o).where(o.c.id == origin)).one()
        selection, tags = json.loads(row.selection), json.loads(row.tags)
        return Origin(row.id, tuple(selection), tags, row.generation, row.failures, row.due)

    @persistent
    def next_generation(self, origin: Origin, *, failures: int, due: float) -> bool:
        """Compare-and-swap: whoever gets True may send the origin's next collect run."""
        o = schema.origin
        with self._db.write() as c:
            current = update(o).where(o.c.id == origin.id, o.c.generation == origin.generation)
            values = {"generation": origin.generation + 1, "failures": failures, "due": due}
            return c.execute(current.values(values)).rowcount > 0

    @persistent
    def keep(self, backfill: str, run: str) -> bool:
        """Become or stay the keeper of a backfill; False while another run is."""
        k, now = schema.keeper, self._db.clock.now()
        row = {"backfill": backfill, "run": run, "lease_until": now + HOLD_SECONDS}
        free = (k.c.run == run) | has_come(k.c.lease_until, now, HOLD_SECONDS)
        with self._db.write() as c:
            mine = update(k).where(k.c.backfill == backfill, free).values(run=run, lease_until=row["lease_until"])
            return c.execute(mine).rowcount > 0 or insert_new(c, k, row)

    @persistent
    def is_kept(self, backfill: str) -> bool:
        """Whether some run keeps a backfill now."""
        k = schema.keeper
        with self._db.read() as c:
            until = c.execute(select(k.c.lease_until).where(k.c.backfill == backfill)).scalar_one_or_none()
        return until is not None and not has_come(until, self._db.clock.now(), HOLD_SECONDS)

    @persistent
    def resign(self, backfill: str, run: str) -> None:
        """Leave the keeper's place to whoever comes."""
        k = schema.keeper
        with self._db.write() as c:
            c.execute(update(k).where(k.c.backfill == backfill, k.c.run == run).values(lease_until=0.0))

    @persistent
    def stop_keeping(self, backfill: str, run: str) -> bool:
        """Leave the keeper's place if no plan of the backfill is open, in one step; False if one is."""
        k = schema.keeper
        waiting = select(_P.c.id).where(_P.c.backfill == backfill, _P.c.state == PlanState.OPEN)
        with self._db.write() as c:
            left = update(k).where(k.c.backfill == backfill, k.c.run == run, ~waiting.exists())
            return c.execute(left.values(lease_until=0.0)).rowcount > 0


_PLAIN = (
    "id", "state", "asset", "task", "llm", "spec", "code_version", "origin", "run", "location", "backfill",
    "rows", "keys", "created_at", "max_attempts",
)  # fmt: skip


def _plan(row: RowMapping) -> Plan:
    columns: dict[str, Any] = dict(row)
    columns["state"] = PlanState(columns["state"])
    columns["partitions"] = tuple(json.loads(columns["partitions"]))
    columns["inputs"] = json.loads(columns["inputs"])
    return Plan(**columns)
