"""The statements that are made most often, built once: building one takes longer than SQLite takes to run it."""

from __future__ import annotations

from functools import cache

from sqlalchemy import ColumnElement, Float, Update, bindparam, select, update

from . import schema
from .moments import has_come
from .states import OPEN_ATTEMPTS

_T, _P, _K = schema.attempt, schema.plan, schema.task
_NOW: ColumnElement[float] = bindparam("now", type_=Float[float]())

LEASE_SECONDS = 180.0
"""Longest create (120 s) + longest wait before its last byte (30 s) + 30 s; renewed before each call."""
HOLD_SECONDS = 120.0
"""A run that works on a plan renews its hold well within this; then the sensor may send another run."""

ATTEMPT = select(_T).where(_T.c.id == bindparam("of"))
ATTEMPTS_OF_PLAN = (
    select(_T)
    .where(_T.c.id.in_(select(schema.plan_attempt.c.attempt).where(schema.plan_attempt.c.plan == bindparam("of"))))
    .where(_T.c.state.in_(OPEN_ATTEMPTS))
    .order_by(_T.c.created_at, _T.c.id)
)
TAKE_ATTEMPT = (
    update(_T)
    .where(_T.c.id == bindparam("of"), has_come(_T.c.lease_until, _NOW, LEASE_SECONDS))
    .values(fence=_T.c.fence + 1, owner=bindparam("by"), lease_until=bindparam("until"))
)

PLAN = select(_P).where(_P.c.id == bindparam("of"))
HOLD_PLAN = (
    update(_P)
    .where(_P.c.id == bindparam("of"))
    .where(_P.c.holder.is_(None) | (_P.c.holder == bindparam("by")) | has_come(_P.c.holder_until, _NOW, HOLD_SECONDS))
    .values(holder=bindparam("by"), holder_until=bindparam("until"))
)

TASK_SPEC = select(_K.c.spec).where(_K.c.hash == bindparam("of"))
TASK_FENCE = select(_K.c.fence).where(_K.c.hash == bindparam("of"))
OPEN_MANIFESTS = select(_T.c.id, _T.c.manifest).where(_T.c.task == bindparam("of"), _T.c.state.in_(OPEN_ATTEMPTS))


@cache
def fenced_update(columns: tuple[str, ...]) -> Update:
    """An update of these columns, if an attempt still has a fence and a state: ``of``, ``fence_is``, ``state_is``."""
    guard = (_T.c.id == bindparam("of"), _T.c.fence == bindparam("fence_is"), _T.c.state == bindparam("state_is"))
    return update(_T).where(*guard).values({name: bindparam(f"new_{name}") for name in columns})
