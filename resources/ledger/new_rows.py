"""Inserting what may be there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table

from .connect import was_cut_off
from .statements import insert_unless_there, plain_insert


def insert_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless one has its key; gives whether it was new."""
    statement = insert_unless_there(table, tuple(row), connection.dialect.name)
    return connection.execute(statement, _new(row)).first() is not None


def insert_own(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row that nobody but this very transaction can have made, before it was cut off."""
    if was_cut_off(connection):
        insert_new(connection, table, row)
    else:
        connection.execute(plain_insert(table, tuple(row)), _new(row))


def _new(row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"new_{name}": value for name, value in row.items()}
