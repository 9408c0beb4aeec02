"""The ledger's statements on SQLite without SQLAlchemy's machinery around each of them.

SQLAlchemy makes every statement and compiles it once; what it compiled is kept, and sqlite3 runs it. A result
answers what the ledger asks of one.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUntypedNamedTuple=false

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import BindParameter, Boolean
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

_DIALECT = SQLiteDialect_pysqlite(paramstyle="qmark")


class Result:
    """The rows of one statement."""

    def __init__(self, found: list[Any], row: Any, rowcount: int) -> None:
        self._found = found
        self._row = row
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return map(self._row._make, self._found)

    def all(self) -> list[Any]:
        return list(self)

    def first(self) -> Any:
        return next(iter(self), None)

    def one(self) -> Any:
        (row,) = self
        return row

    def one_or_none(self) -> Any:
        return self.one() if self._found else None

    def scalar_one(self) -> Any:
        ((value, *_),) = self._found
        return value

    def scalar_one_or_none(self) -> Any:
        return self.scalar_one() if self._found else None

    def scalars(self) -> list[Any]:
        return [row[0] for row in self._found]

    def mappings(self) -> Mappings:
        names = self._row._fields
        return Mappings(dict(zip(names, row, strict=True)) for row in self._found)


class Mappings(list[dict[str, Any]]):
    """The rows as dictionaries."""

    def one(self) -> dict[str, Any]:
        (row,) = self
        return row

    def one_or_none(self) -> dict[str, Any] | None:
        return self.one() if self else None

    def first(self) -> dict[str, Any] | None:
        return self[0] if self else None

    def all(self) -> list[dict[str, Any]]:
        return self


class _Compiled:
    """A statement's text, where its values come from, and what its rows are called."""

    def __init__(self, statement: Any, key: Any, given: Mapping[str, Any]) -> None:
        wanting = [bind for bind in key.bindparams if bind.required]
        for bind in wanting:  # it gets its value at each execution; a list has to be as long
            bind.required, bind.value = False, given[bind.key] if bind.expanding else None
        compiled = statement.compile(dialect=_DIALECT, cache_key=key, compile_kwargs={"render_postcompile": True})
        for bind in wanting:
            bind.required, bind.value = True, None
        self.text = str(compiled)
        found = (d for d in compiled._cache_key_bind_match if isinstance(next(iter(d.values()), None), list))
        copies: Any = next(found, {})
        places = {id(copy): number for number, bind in enumerate(key.bindparams) for copy in copies[bind]}
        state = compiled._post_compile_expanded_state
        parts: dict[str, tuple[str, int]] = {}
        for name, names in (state.parameter_expansion if state else {}).items():
            parts |= {one: (name, number) for number, one in enumerate(names)}
        prefetched = {column.key: column.default.arg for column in getattr(compiled, "insert_prefetch", ())}
        self.values: list[tuple[int, int | None, Any]] = []
        """Per place: the number of the parameter and of its element, or a column's own default."""
        for name in compiled.positiontup or ():
            whole, element = parts.get(name, (name, None))
            bind = compiled.binds[whole]
            if id(bind) in places:
                self.values.append((places[id(bind)], element, None))
            else:
                self.values.append((-1, None, prefetched.get(name, bind.effective_value)))
        columns = compiled._result_columns
        self.row: Any = namedtuple("Row", [column.keyname for column in columns]) if columns else None
        self.flags = [number for number, column in enumerate(columns) if isinstance(column.type, Boolean)]

    def plan(self, binds: list[BindParameter[Any]], given: Mapping[str, Any]) -> _Plan:
        """Where the values come from when this is executed for a statement with these parameters."""
        found: _Plan = []
        for place, element, default in self.values:
            if place < 0:
                found.append((None, None, default))
            elif binds[place].key in given:
                found.append((binds[place].key, element, None))
            else:
                value: Any = binds[place].effective_value
                found.append((None, None, value if element is None else list(value)[element]))
        return found


_Plan = list[tuple[str | None, int | None, Any]]
"""Per place in the text: the name of what is given, and of its element, or the value."""
_KNOWN: dict[Any, _Compiled] = {}
_PREPARED: dict[int, tuple[Any, list[str], dict[Any, tuple[_Compiled, _Plan]]]] = {}
"""By identity: the statement, which is kept, so that no other one gets its id; the names of the lists that are given to
it, and what was compiled for lists of these lengths."""


class QuickConnection:
    """As much of a `sqlalchemy.Connection` as the ledger uses."""

    dialect = _DIALECT

    def __init__(self, memory: sqlite3.Connection) -> None:
        self._memory = memory

    def get_execution_options(self) -> Mapping[str, Any]:
        return {}

    def execute(self, statement: Any, given: Mapping[str, Any] | None = None) -> Result:
        given = given or {}
        compiled, plan = self._compiled(statement, given)
        values: list[Any] = [
            fixed if name is None else given[name] if element is None else given[name][element]
            for name, element, fixed in plan
        ]
        cursor = self._memory.execute(compiled.text, values)
        found = cursor.fetchall() if compiled.row is not None else []
        if compiled.flags:
            found = [self._flagged(row, compiled.flags) for row in found]
        return Result(found, compiled.row, cursor.rowcount)

    @staticmethod
    def _compiled(statement: Any, given: Mapping[str, Any]) -> tuple[_Compiled, _Plan]:
        if id(statement) in _PREPARED:
            _, lists, compiled = _PREPARED[id(statement)]
            lengths = tuple(len(given[name]) for name in lists)
            if lengths in compiled:
                return compiled[lengths]
        key = statement._generate_cache_key()
        binds = [bind for bind in key.bindparams if bind.expanding]
        known = key.key, tuple(len(given.get(bind.key, bind.value)) for bind in binds)
        if known not in _KNOWN:
            _KNOWN[known] = _Compiled(statement, key, given)
        found = _KNOWN[known], _KNOWN[known].plan(key.bindparams, given)
        if given:
            lists = [bind.key for bind in binds if bind.key in given]
            prepared = _PREPARED.setdefault(id(statement), (statement, lists, {}))
            prepared[2][tuple(len(given[name]) for name in lists)] = found
        return found

    @staticmethod
    def _flagged(row: Any, flags: list[int]) -> list[Any]:
        return [bool(value) if number in flags else value for number, value in enumerate(row)]
