"""Asking again what was given up: rows that were refused, or came back unusable too often."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from ..answers import answers_of, given_up_sql, readable
from ..duck import connect, rows
from ..errors import InputError
from ..home import Home
from ..ledger import Ledger, schema
from ..request import TaskHash


@dataclass(frozen=True)
class GivenUp:
    """Requests of one question that won't be asked again by themselves.

    Attributes:
        task: The question.
        model: Who was asked.
        tables: Tables that ask it; their rows share its answers.
        keys: How many requests.
    """

    task: TaskHash
    model: str
    tables: tuple[str, ...]
    keys: int


def given_up(ledger: Ledger, table: str) -> list[GivenUp]:
    """What a table asks, as it was planned last; one question, or one per code location that has such a table.

    Raises:
        InputError: The table was never planned.
        StorageError: An answers file can't be read.
    """
    plans = ledger.plans.find(schema.plan.c.asset == table)
    if not plans:
        known = sorted({plan.asset for plan in ledger.plans.find()})
        raise InputError(f"No table called {table!r} was ever asked for. These were: {', '.join(known) or 'none'}.")
    newest = {plan.location: plan for plan in plans}
    tries = {plan.task: plan.max_attempts for plan in newest.values()}
    return [_of_task(ledger, task, most) for task, most in tries.items()]


def _of_task(ledger: Ledger, task: TaskHash, tries: int) -> GivenUp:
    home, snapshot, spec = Home(ledger.home), ledger.looks.snapshot(task), ledger.looks.spec(task)
    keys_sql = given_up_sql(*answers_of(home, snapshot), room=ledger.looks.room(task), tries=tries)
    try:
        keys = rows(connect(), f"SELECT count(*) FROM ({keys_sql})")[0][0]
    except duckdb.Error as error:
        raise readable(error, home.folder) from error
    tables = sorted({plan.asset for plan in ledger.plans.find(schema.plan.c.task == task)})
    return GivenUp(task, spec.model, tuple(tables), int(keys))


def ask_again(ledger: Ledger, found: GivenUp) -> None:
    """Let the next run of any of its tables ask these requests again, as often as it says, as if for the first time."""
    ledger.upkeep.ask_again(found.task, found.keys)
