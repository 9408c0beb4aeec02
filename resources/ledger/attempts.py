"""Attempts, their sends and links: every write names the fence and the state that it expects."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, select

from ..errors import ProtocolError, StaleFenceError, StorageError
from ..request import TaskHash
from . import schema
from .connect import Database, persistent, was_cut_off
from .high_water import note_sends, sends_in
from .moments import LEASE_SECONDS
from .new_rows import insert_new, insert_own
from .records import AnswersFile, AttemptId, Incident, Link, Send
from .statements import (
    ATTEMPT,
    ATTEMPTS_OF_PLAN,
    BATCHES_OF,
    LAST_LINKED,
    LAST_RETRY,
    LATE_LINKS,
    LINK,
    LINKED,
    LINKS,
    REJECTED_LINKS,
    SENDS,
    SETTLED_SENDS,
    TAKE_ATTEMPT,
    due_attempts,
    fenced_update,
    only_wanted_by,
)
from .states import LEGAL, AttemptState, Tier

_T = schema.attempt


@dataclass(frozen=True)
class Attempt:
    """One request file's row in the ledger; the fields are the columns of `schema.attempt`."""

    id: AttemptId
    state: AttemptState
    task: TaskHash
    plan: str
    llm: str
    account: str
    manifest: str
    rows: int
    created_at: float
    fence: int = 0
    owner: str | None = None
    lease_until: float = 0.0
    due: float = 0.0
    waits: int = 0
    send_no: int = 0
    file_id: str | None = None
    revoked_at: float | None = None
    batch_id: str | None = None
    phase: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    expires_at: float | None = None
    ended_at: float | None = None
    submitted_at: float | None = None
    closed_at: float | None = None
    message: str | None = None
    unwanted_at: float | None = None
    limit_factor: int = 1
    gone_since: float | None = None
    slow_since: float | None = None
    wire: str = "openai"
    tier: Tier = Tier.BATCH
    bytes: int = 0


class Attempts:
    """Named transitions of attempts."""

    def __init__(self, database: Database) -> None:
        self._db = database

    @persistent
    def get(self, attempt: AttemptId) -> Attempt:
        """One attempt as it is now."""
        with self._db.read() as c:
            return _attempt(c.execute(ATTEMPT, {"of": attempt}).mappings().one())

    @persistent
    def find(self, *where: ColumnElement[bool]) -> list[Attempt]:
        """Attempts that satisfy all conditions, oldest first."""
        with self._db.read() as c:
            found = c.execute(select(_T).where(*where).order_by(_T.c.created_at, _T.c.id))
            return [_attempt(row) for row in found.mappings()]

    @persistent
    def open_of_plan(self, plan: str) -> list[Attempt]:
        """The open attempts whose keys a plan waits for, its own and other plans'."""
        with self._db.read() as c:
            return [_attempt(row) for row in c.execute(ATTEMPTS_OF_PLAN, {"of": plan}).mappings()]

    def all_of_plan(self, plan: str) -> list[Attempt]:
        """Every attempt a plan ever waited for."""
        return self.find(_T.c.id.in_(select(schema.plan_attempt.c.attempt).where(schema.plan_attempt.c.plan == plan)))

    @persistent
    def due(self, states: Sequence[AttemptState], llm: str | None = None) -> list[Attempt]:
        """Attempts in one of `states` whose next look is due and that nobody holds, the longest due first."""
        statement = due_attempts(tuple(states), of_one=llm is not None)
        with self._db.read() as c:
            found = c.execute(statement, {"now": self._db.clock.now(), "of": llm})
            return [_attempt(row) for row in found.mappings()]

    @persistent
    def take(self, attempt: AttemptId, owner: str) -> Attempt | None:
        """Take a free or expired lease; the fence moves, so an earlier owner's writes fail from now on."""
        now = self._db.clock.now()
        values = {"of": attempt, "now": now, "by": owner, "until": now + LEASE_SECONDS}
        with self._db.write() as c:
            if c.execute(TAKE_ATTEMPT, values).rowcount == 0:
                return None
            return _attempt(c.execute(ATTEMPT, {"of": attempt}).mappings().one())

    def renew(self, attempt: Attempt) -> Attempt:
        """Extend the lease before a call to the provider."""
        return self.note(attempt, lease_until=self._db.clock.now() + LEASE_SECONDS)

    def release(self, attempt: Attempt, **values: Any) -> Attempt:
        """Give the lease back, so that anybody may take the next step."""
        return self.note(attempt, lease_until=0.0, owner=None, **values)

    @persistent
    def note(self, attempt: Attempt, **values: Any) -> Attempt:
        """Write fields without a transition."""
        with self._db.write() as c:
            return _fenced(c, attempt, values)

    @persistent
    def note_each(self, notes: Sequence[tuple[Attempt, Mapping[str, Any]]]) -> list[Attempt]:
        """`note` for many in one transaction; those that another worker has moved meanwhile are left out."""
        noted: list[Attempt] = []
        with self._db.write() as c:
            for attempt, values in notes:
                with suppress(StaleFenceError):
                    noted.append(_fenced(c, attempt, values))
        return noted

    @persistent
    def move(self, attempt: Attempt, to: AttemptState, **values: Any) -> Attempt:
        """Perform one legal transition."""
        with self._db.write() as c:
            return _move(c, attempt, to, values)

    def begin_send(self, attempt: Attempt, send: Send) -> Attempt:
        """planned → creating: the intent is durable, and counted beside the answers, before the create can leave."""
        begun = self._intend(attempt, send)
        try:
            self._count_sends()
        except StorageError:
            self.move(begun, AttemptState.PLANNED, lease_until=0.0)
            raise
        return begun

    @persistent
    def _intend(self, attempt: Attempt, send: Send) -> Attempt:
        with self._db.write() as c:
            # The fence comes first: the successor's send has the same number.
            fields_ = {"send_no": send.n, "file_id": send.file_id, "revoked_at": None}  # that was an earlier file
            moved = _move(c, attempt, AttemptState.CREATING, fields_)
            insert_own(c, schema.send, _columns(send))
            return moved

    @persistent
    def _count_sends(self) -> None:
        with self._db.read() as c:
            note_sends(self._db.home, sends_in(c))

    @persistent
    def adopt(
        self, attempt: Attempt, links: Sequence[Link], incident: Incident | None = None, /, **values: Any
    ) -> Attempt:
        """→ submitted: the first link survives, the others are duplicates that are collected too."""
        with self._db.write() as c:
            now = max(self._db.clock.now(), math.nextafter(_last_linked(c, attempt), math.inf))
            new = [insert_new(c, schema.link, {**_columns(link), "linked_at": now}) for link in links]
            if not new[0] and not was_cut_off(c):
                raise StaleFenceError(f"Batch {links[0].batch_id} is known already; it isn't attempt {attempt.id}'s.")
            if incident is not None:
                self._note(c, incident)
            fields_ = {"batch_id": links[0].batch_id, "submitted_at": now, "waits": 0, **values}
            return _move(c, attempt, AttemptState.SUBMITTED, fields_)

    @persistent
    def settled_sends(self, account: str, since: float) -> list[Send]:
        """Sends since then, but for those of attempts whose creates are being looked for."""
        with self._db.read() as c:
            return [Send(**row) for row in c.execute(SETTLED_SENDS, {"of": account, "since": since}).mappings()]

    @persistent
    def used_since(self, since: float, location: str) -> set[str]:
        """Resource keys by which a code location's tables have sent something since then."""
        query = (
            select(_T.c.llm)
            .distinct()
            .join(schema.send, schema.send.c.attempt == _T.c.id)
            .join(schema.plan, schema.plan.c.id == _T.c.plan)
            .where(schema.send.c.t0 >= since, schema.plan.c.location == location)
        )
        with self._db.read() as c:
            return set(c.execute(query).scalars())

    @persistent
    def is_linked(self, account: str, batch_id: str) -> bool:
        """Whether a batch is known to be ours already."""
        with self._db.read() as c:
            return c.execute(LINK, {"at": account, "of": batch_id}).first() is not None

    @persistent
    def linked(self, account: str) -> set[str]:
        """Ids of all batches of an account that are known to be ours."""
        with self._db.read() as c:
            return set(c.execute(LINKED, {"at": account}).scalars())

    @persistent
    def link_late(self, attempt: Attempt, link: Link, incident: Incident) -> bool:
        """Note a batch that turned up late, once; an attempt that is being collected at the moment begins anew with it.

        Gives whether it is new.
        """
        values = {"fence": attempt.fence + 1}
        if attempt.state is AttemptState.SUBMITTED:
            values |= {"ended_at": None, "lease_until": 0.0, "due": self._db.clock.now()}
        last = max(attempt.submitted_at or 0.0, attempt.closed_at or 0.0)  # the clock may have been set back since
        row = {**_columns(link), "linked_at": max(self._db.clock.now(), math.nextafter(last, math.inf))}
        with self._db.write() as c:
            if not insert_new(c, schema.link, row):
                return False
            _fenced(c, attempt, values)
            self._note(c, incident)
            return True

    @persistent
    def late(self, account: str) -> list[Link]:
        """Batches that turned up when their attempts were closed already."""
        with self._db.read() as c:
            return [Link(**row) for row in c.execute(LATE_LINKS, {"at": account}).mappings()]

    @persistent
    def index_late(self, attempt: Attempt, answers: AnswersFile) -> None:
        """Name the answers file of a late arrival, which must be durable; once, however often it is done."""
        with self._db.write() as c:
            insert_new(c, schema.answers, _answers_row(c, attempt, answers, self._db.clock.now()))

    @persistent
    def refuse(self, attempt: Attempt, message: str) -> Attempt:
        """→ refused: the provider's final no, unpaid; later than any `retry`, which forgives what is older."""
        with self._db.write() as c:
            ended = {"closed_at": _after_retries(c, attempt, self._db.clock.now()), "lease_until": 0.0}
            return _move(c, attempt, AttemptState.REFUSED, {"message": message, **ended})

    @persistent
    def close(self, attempt: Attempt, answers: AnswersFile) -> Attempt:
        """submitted → answered; the answers file must be durable already."""
        now = self._db.clock.now()
        with self._db.write() as c:
            insert_own(c, schema.answers, _answers_row(c, attempt, answers, now))
            ended = {"closed_at": max(now, _last_linked(c, attempt)), "lease_until": 0.0, "owner": None}
            return _move(c, attempt, AttemptState.ANSWERED, ended)

    @persistent
    def sends(self, attempt: AttemptId) -> list[Send]:
        """All sends of an attempt, oldest first."""
        with self._db.read() as c:
            return [Send(**row) for row in c.execute(SENDS, {"of": attempt}).mappings()]

    @persistent
    def links(self, attempt: AttemptId, *, rejected: bool = False) -> list[Link]:
        """An attempt's batches, the survivor first; or the earlier ones, which the provider rejected unpaid."""
        statement = REJECTED_LINKS if rejected else LINKS
        with self._db.read() as c:
            return [Link(**row) for row in c.execute(statement, {"of": attempt}).mappings()]

    @persistent
    def batches_of(self, attempts: Sequence[AttemptId]) -> dict[AttemptId, list[str]]:
        """The batches of submitted attempts, as `links` has them; one that another worker took back has none."""
        found: dict[AttemptId, list[str]] = {}
        with self._db.read() as c:
            for attempt, name in c.execute(BATCHES_OF, {"these": attempts}):
                found.setdefault(attempt, []).append(name)
        return found

    @persistent
    def answers(self, attempts: Sequence[AttemptId]) -> list[AnswersFile]:
        """What the answers of these attempts came to."""
        table = schema.answers
        with self._db.read() as c:
            rows = c.execute(select(table).where(table.c.attempt.in_(attempts)))
            return [AnswersFile.of(row) for row in rows]

    @persistent
    def void_unsent(self, plan: str) -> int:
        """End the requests that only this plan wants and that were never sent; gives their number."""
        with self._db.write() as c:
            return void_unsent(c, plan, self._db.clock.now())

    @persistent
    def incident(self, kind: str, subject: str, message: str) -> bool:
        """Record something a person should know; the same one is recorded once. Gives whether it is new."""
        with self._db.write() as c:
            return self._note(c, Incident(kind, subject, message))

    def _note(self, c: Connection, incident: Incident) -> bool:
        row = {"at": self._db.clock.now(), **_columns(incident)}
        return insert_new(c, schema.incident, row)

    def incidents(self) -> list[tuple[str, str, str]]:
        """(kind, subject, message), oldest first."""
        return [(kind, subject, message) for _, kind, subject, message in self.dated_incidents()]

    @persistent
    def dated_incidents(self) -> list[tuple[float, str, str, str]]:
        """(Unix seconds, kind, subject, message), oldest first."""
        table = schema.incident
        columns = (table.c.at, table.c.kind, table.c.subject, table.c.message)
        with self._db.read() as c:
            rows = c.execute(select(*columns).order_by(table.c.id))
            return [(row.at, row.kind, row.subject, row.message) for row in rows]


def void_unsent(c: Connection, plan: str, now: float) -> int:
    """End what only this plan wants and was never sent; the fence moves, so who is about to send it doesn't."""
    unsent = select(_T).where(_T.c.state == AttemptState.PLANNED, *only_wanted_by(plan))
    attempts = [_attempt(row) for row in c.execute(unsent).mappings()]
    for attempt in attempts:
        values = {"closed_at": now, "fence": attempt.fence + 1, "lease_until": 0.0, "owner": None}
        _move(c, attempt, AttemptState.VOID, values)
    return sum(attempt.rows for attempt in attempts)


def _last_linked(c: Connection, attempt: Attempt) -> float:
    """When an attempt got its newest batch, which may be later than now: what is read from the order has to hold."""
    return c.execute(LAST_LINKED, {"of": attempt.id}).scalar_one() or 0.0


def _after_retries(c: Connection, attempt: Attempt, now: float) -> float:
    """Now, but after any `retry`: it forgives what is older, and one that a clock ahead has dated must not for days."""
    retried = c.execute(LAST_RETRY, {"of": attempt.task}).scalar_one() or 0.0
    return max(now, math.nextafter(retried, math.inf))


def _answers_row(c: Connection, attempt: Attempt, answers: AnswersFile, now: float) -> dict[str, Any]:
    return {
        "file": answers.file,
        "task": attempt.task,
        "attempt": attempt.id,
        "outcomes": json.dumps(dict(answers.outcomes), sort_keys=True),
        "input_tokens": answers.input_tokens,
        "output_tokens": answers.output_tokens,
        "unmetered": answers.unmetered,
        "at": _after_retries(c, attempt, now),
    }


def _move(c: Connection, attempt: Attempt, to: AttemptState, values: Mapping[str, Any]) -> Attempt:
    if to not in LEGAL[attempt.state]:
        raise ProtocolError(f"Attempt {attempt.id}: {attempt.state} → {to} is not a legal transition.")
    return _fenced(c, attempt, {**values, "state": to})


def _fenced(c: Connection, attempt: Attempt, values: Mapping[str, Any]) -> Attempt:
    guard = {"of": attempt.id, "fence_is": attempt.fence, "state_is": attempt.state}
    new = {f"new_{name}": value for name, value in values.items()}
    if c.execute(fenced_update(tuple(values)), guard | new).rowcount == 0:
        # Only who holds this fence moves the attempt with it: if it has moved as wanted, this very write did it.
        moved = (_T.c.fence == values.get("fence", attempt.fence), _T.c.state == values.get("state"))
        if was_cut_off(c) and c.execute(select(_T.c.id).where(_T.c.id == attempt.id, *moved)).first():
            return replace(attempt, **values)
        raise StaleFenceError(f"Attempt {attempt.id} was taken over by another worker; this one lets it go.")
    return replace(attempt, **values)


def _attempt(row: RowMapping) -> Attempt:
    columns: dict[str, Any] = {**row, "state": AttemptState(row["state"]), "tier": Tier(row["tier"])}
    return Attempt(**columns)


def _columns(record: Send | Link | Incident) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record)}
