"""The statements that are made most often, built once: building one takes longer than SQLite takes to run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cache

from sqlalchemy import (
    ColumnElement,
    Float,
    Insert,
    Select,
    String,
    Table,
    Update,
    bindparam,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from . import schema
from .moments import HOLD_SECONDS, LEASE_SECONDS, LOOK_LEASE_SECONDS, has_come
from .records import Link, Send
from .states import OPEN_ATTEMPTS, AttemptState, PlanState

_A, _T, _P, _K = schema.answers, schema.attempt, schema.plan, schema.task
_L, _S = schema.link, schema.send
_OF, _AT, _BY = bindparam("of", type_=String), bindparam("at", type_=String), bindparam("by", type_=String)
_UNTIL = bindparam("until", type_=Float)
_NOW: ColumnElement[float] = bindparam("now", type_=Float[float]())

ATTEMPT = select(_T).where(_T.c.id == _OF)
ATTEMPTS_OF_PLAN = (
    select(_T)
    .where(_T.c.id.in_(select(schema.plan_attempt.c.attempt).where(schema.plan_attempt.c.plan == _OF)))
    .where(_T.c.state.in_(OPEN_ATTEMPTS))
    .order_by(_T.c.created_at, _T.c.id)
)
TAKE_ATTEMPT = (
    update(_T)
    .where(_T.c.id == _OF, has_come(_T.c.lease_until, _NOW, LEASE_SECONDS))
    .values(fence=_T.c.fence + 1, owner=_BY, lease_until=_UNTIL)
)

SENDS = select(_S).where(_S.c.attempt == _OF).order_by(_S.c.n)
SETTLED_SENDS = (
    select(*(_S.c[field.name] for field in fields(Send)))
    .join(_T, _T.c.id == _S.c.attempt)
    .where(_T.c.account == _OF, _S.c.t0 >= bindparam("since"))
    .where(_T.c.state.not_in([AttemptState.CREATING, AttemptState.AMBIGUOUS]))
    .order_by(_S.c.t0)
)
NUMBER_OF_SENDS = select(func.count()).select_from(_S)

_LINK = select(*(_L.c[field.name] for field in fields(Link)))
# A submission's links are written with it, so older ones are of a submission that was taken back.
_SUBMITTED = select(_T.c.submitted_at).where(_T.c.id == _OF, _T.c.batch_id.is_not(None)).scalar_subquery()
_IS_CURRENT = func.coalesce(_L.c.linked_at >= _SUBMITTED, False)
LINKS = _LINK.where(_L.c.attempt == _OF, _IS_CURRENT).order_by(_L.c.extra, _L.c.linked_at)
REJECTED_LINKS = _LINK.where(_L.c.attempt == _OF, ~_IS_CURRENT).order_by(_L.c.extra, _L.c.linked_at)
BATCHES_OF = (
    select(_L.c.attempt, _L.c.batch_id)
    .join(_T, _T.c.id == _L.c.attempt)
    .where(_T.c.id.in_(bindparam("these", expanding=True)), _T.c.batch_id.is_not(None))
    .where(_L.c.linked_at >= _T.c.submitted_at)
    .order_by(_L.c.extra, _L.c.linked_at)
)
LAST_LINKED = select(func.max(_L.c.linked_at)).where(_L.c.attempt == _OF)
LINK = select(_L.c.batch_id).where(_L.c.account == _AT, _L.c.batch_id == _OF)
LINKED = select(_L.c.batch_id).where(_L.c.account == _AT)
LATE_LINKS = (
    _LINK.join(_T, _T.c.id == _L.c.attempt)
    .where(_L.c.account == _AT, _L.c.extra, _T.c.state.not_in(OPEN_ATTEMPTS))
    .where(_L.c.linked_at > func.coalesce(_T.c.closed_at, 0.0))
)

PLAN = select(_P).where(_P.c.id == _OF)
UNFINISHED = (_P.c.state == PlanState.OPEN) | _P.c.id.in_(
    select(schema.plan_attempt.c.plan)
    .join(_T, _T.c.id == schema.plan_attempt.c.attempt)
    .where(_T.c.state.in_(OPEN_ATTEMPTS))
)
PLANS_WITH_WORK = select(_P).where(_P.c.location == _AT, UNFINISHED).order_by(_P.c.seq)
HOLD_PLAN = (
    update(_P)
    .where(_P.c.id == _OF)
    .where(_P.c.holder.is_(None) | (_P.c.holder == _BY) | has_come(_P.c.holder_until, _NOW, HOLD_SECONDS))
    .values(holder=_BY, holder_until=_UNTIL)
)
LET_PLAN_GO = update(_P).where(_P.c.id == _OF, _P.c.holder == _BY).values(holder=None, holder_until=0.0)

TASK_SPEC = select(_K.c.spec).where(_K.c.hash == _OF)
TASK_FENCE = select(_K.c.fence).where(_K.c.hash == _OF)
TAKE_TASK = (
    update(_K)
    .where(_K.c.hash == _OF, has_come(_K.c.lease_until, _NOW, LOOK_LEASE_SECONDS) | (_K.c.owner == _BY))
    .values(owner=_BY, lease_until=_UNTIL)
)
MOVE_TASK_FENCE = (
    update(_K)
    .where(_K.c.hash == _OF, _K.c.fence == bindparam("fence_is"))
    .where(select(_P.c.id).where(_P.c.id == bindparam("plan_is"), _P.c.state == PlanState.OPEN).exists())
    .values(fence=_K.c.fence + 1, owner=None, lease_until=0.0)
)
COUNT_ASKED = update(_P).where(_P.c.id == _OF).values(asked=_P.c.asked + bindparam("more"))
OPEN_MANIFESTS = select(_T.c.id, _T.c.manifest).where(_T.c.task == _OF, _T.c.state.in_(OPEN_ATTEMPTS))
ANSWERS_OF_TASK = select(_A.c.file, _A.c.at).where(_A.c.task == _OF).order_by(_A.c.at, _A.c.file)
LAST_RETRY = select(func.max(schema.retry.c.at)).where(schema.retry.c.task == _OF)
_I = schema.incident
_REFUSED = select(_I.c.subject).where(_I.c.kind == "limit refused")
LIMITS_REFUSED = (
    select(_T.c.limit_factor)
    .where(_T.c.task == _OF, _T.c.state == AttemptState.REFUSED, _T.c.limit_factor > 1)
    .where(func.coalesce(_T.c.batch_id, _T.c.id).in_(_REFUSED))
    .where(_T.c.closed_at > func.coalesce(LAST_RETRY.scalar_subquery(), 0.0))
)


def wanted(*besides: str) -> Select[tuple[str]]:
    """Attempts for which an open plan waits, besides these."""
    w, p = schema.plan_attempt, schema.plan
    open_ = select(w.c.attempt).join(p, p.c.id == w.c.plan).where(p.c.state == PlanState.OPEN)
    return open_.where(p.c.id.not_in(besides))


def only_wanted_by(plan: str) -> tuple[ColumnElement[bool], ...]:
    """The conditions that a plan waits for an attempt, and no other open one does."""
    mine = select(schema.plan_attempt.c.attempt).where(schema.plan_attempt.c.plan == plan)
    return _T.c.id.in_(mine), _T.c.id.not_in(wanted(plan))


@cache
def due_attempts(states: Sequence[AttemptState], *, of_one: bool) -> Select[tuple[object, ...]]:
    """Attempts in these states that are due ``now`` and that nobody holds; all, or ``of`` one resource key."""
    free = has_come(_T.c.lease_until, _NOW, LEASE_SECONDS)
    found = select(_T).where(_T.c.state.in_(states), has_come(_T.c.due, _NOW), free)
    if of_one:
        found = found.where(_T.c.llm == _OF)
    return found.order_by(_T.c.due, _T.c.created_at, _T.c.id)


@cache
def fenced_update(columns: tuple[str, ...]) -> Update:
    """An update of these columns, if an attempt still has a fence and a state: ``of``, ``fence_is``, ``state_is``."""
    guard = (_T.c.id == _OF, _T.c.fence == bindparam("fence_is"), _T.c.state == bindparam("state_is"))
    return update(_T).where(*guard).values(new_values(columns))


@cache
def plain_insert(table: Table, columns: tuple[str, ...]) -> Insert:
    """A row with these columns; see `new_values`."""
    return insert(table).values(new_values(columns))


@cache
def insert_unless_there(table: Table, columns: tuple[str, ...], dialect: str) -> Insert:
    """Likewise, unless one has its key; gives the key if it was new."""
    new = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(table).values(new_values(columns))
    return new.on_conflict_do_nothing().returning(*table.primary_key)


def new_values(columns: Sequence[str]) -> dict[str, ColumnElement[object]]:
    """Each column gets its value under a name of its own, since SQLAlchemy keeps the column's to itself."""
    return {name: bindparam(f"new_{name}") for name in columns}
