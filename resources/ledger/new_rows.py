"""Inserting what may be there already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy import insert as plain_insert
from sqlalchemy.dialects import postgresql, sqlite

from .connect import was_cut_off


def insert_new(connection: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless one has its key; gives whether it was new."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    new = insert(table).values(dict(row)).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(new).first() is not None


def insert_own(connection: Connection, table: Table, row: Mapping[str, Any]) -> None:
    """Insert a row that nobody but this very transaction can have made, before it was cut off."""
    if was_cut_off(connection):
        insert_new(connection, table, row)
    else:
        connection.execute(plain_insert(table).values(dict(row)))
