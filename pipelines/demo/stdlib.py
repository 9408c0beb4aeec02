"""The demo's real input: what Python's own standard library says about its functions and classes."""

from __future__ import annotations

import builtins
import hashlib
import heapq
import importlib
import inspect
import itertools
import operator
import re
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, cast

import pyarrow as pa

from .topics import CHAPTER_OF_MODULE, GROUP_OF_MODULE, TOPIC_OF_MODULE

DOCSTRING_LIMIT: Final = 400
SCHEMA: Final = pa.schema(
    [
        pa.field(column, pa.string(), nullable=False)
        for column in (
            "function_id",
            "module",
            "module_group",
            "name",
            "kind",
            "signature",
            "docstring",
            "gold_topic",
        )
    ]
)
# A host may replace these (pytest and debuggers do), and the list must not depend on who runs it.
_HOOKS: Final = frozenset(
    {
        "pdb.set_trace",
        "sys.breakpointhook",
        "sys.displayhook",
        "sys.excepthook",
        "sys.unraisablehook",
        "threading.excepthook",
        "warnings.formatwarning",
        "warnings.showwarning",
    }
)
_PLAIN: Final = (bool, int, float, str, bytes, type(None))


class _Unshown:
    def __repr__(self) -> str:
        return "..."


_UNSHOWN: Final = _Unshown()


class _Export(NamedTuple):
    """A function or class under a name by which a documented module offers it."""

    module: str
    name: str
    value: object


def stdlib_functions(rows: int | None = None) -> pa.Table:
    """List the documented functions and classes of the running interpreter's standard library.

    Modules that this version or platform lacks are left out, so the list differs a little between interpreters;
    on one interpreter it is always the same.

    Args:
        rows: How many to take: those with the smallest SHA-256 of their id, so that a smaller sample is part of
            every larger one. All of them if not given.

    Returns:
        One row for each function or class, sorted by ``function_id``, with the columns of `SCHEMA`.

    Example:
        >>> table = stdlib_functions(rows=400)
        >>> table.num_rows, table.column_names[:2]
        (400, ['function_id', 'module'])
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated modules and names say so when touched
        functions = [row for export in _one_name_each(_exports()) if (row := _row(export))]
    if rows is not None:
        functions = heapq.nsmallest(rows, functions, key=_place_in_sample)
    return pa.Table.from_pylist(sorted(functions, key=operator.itemgetter("function_id")), schema=SCHEMA)


def _exports() -> Iterator[_Export]:
    for module in CHAPTER_OF_MODULE:
        try:
            namespace = importlib.import_module(module)
        except ImportError:
            continue
        declared = cast("list[str] | None", getattr(namespace, "__all__", None))
        for name in dir(namespace) if declared is None else declared:
            export = _Export(module, name, getattr(namespace, name, None))
            # Without __all__, what a module imports for its own use looks like what it offers.
            if _is_public(export) and (declared is not None or not _is_documented_elsewhere(export)):
                yield export


def _is_public(export: _Export) -> bool:
    if export.name.startswith("_") or f"{export.module}.{export.name}" in _HOOKS:
        return False
    if not (inspect.isclass(export.value) or inspect.isroutine(export.value)):
        return False
    # socket.timeout is TimeoutError, os.error is OSError.
    return getattr(builtins, export.value.__name__, None) is not export.value


def _is_documented_elsewhere(export: _Export) -> bool:
    home = _home(export.value)
    return home in CHAPTER_OF_MODULE and home != export.module and not home.startswith(f"{export.module}.")


def _one_name_each(exports: Iterator[_Export]) -> Iterator[_Export]:
    """Keep one name for each object: in the module that defines it, or else the one documented first."""
    names: dict[int, list[_Export]] = {}
    for export in exports:
        names.setdefault(id(export.value), []).append(export)
    for same in names.values():
        yield min(same, key=_distance_from_home)


def _distance_from_home(export: _Export) -> tuple[bool, bool, bool]:
    home = _home(export.value)
    return (
        home != export.module,
        not home.startswith(f"{export.module}."),
        export.name != getattr(export.value, "__name__", None),
    )


def _home(value: object) -> str:
    # C code may leave __module__ empty: random.random is a method of a hidden instance.
    return cast("str | None", getattr(value, "__module__", None)) or ""


def _row(export: _Export) -> dict[str, str] | None:
    usage, prose = _read_docstring(export)
    if " " not in prose:  # nothing, or only the name again
        return None
    return {
        "function_id": f"{export.module}.{export.name}",
        "module": export.module,
        "module_group": GROUP_OF_MODULE[export.module],
        "name": export.name,
        "kind": "class" if inspect.isclass(export.value) else "function",
        "signature": _signature(export.value) or usage,
        "docstring": textwrap.shorten(prose, DOCSTRING_LIMIT, placeholder=" ..."),
        "gold_topic": TOPIC_OF_MODULE[export.module],
    }


def _read_docstring(export: _Export) -> tuple[str, str]:
    """Return the call that a C function's docstring starts with, if it does, and the first paragraph of prose.

    Named tuples, data classes and syntax tree nodes get a docstring that is a call and nothing else.
    """
    docstring = getattr(export.value, "__doc__", None)
    if not isinstance(docstring, str):
        return "", ""
    lines = inspect.cleandoc(docstring).splitlines()
    call = f"{export.name}("
    calls = list(itertools.takewhile(lambda line: line.startswith((call, " ")), lines))
    prose = re.split(r"\n\s*\n", "\n".join(lines[len(calls) :]).strip(), maxsplit=1)[0]
    if not calls:
        return "", prose
    usage, _, result = calls[0].removeprefix(export.name).partition(" -")
    return usage, prose or result.lstrip("-> ")


def _signature(value: object) -> str:
    try:
        signature = inspect.signature(cast("Callable[..., object]", value))
    except (TypeError, ValueError):
        return ""
    plain = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_shown(parameter.default))
        for parameter in signature.parameters.values()
    ]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def _shown(default: object) -> object:
    if default is inspect.Parameter.empty:
        return default
    # platform.architecture has sys.executable as a default; other objects may show their address.
    plain = isinstance(default, _PLAIN) and not (isinstance(default, str) and Path(default).is_absolute())
    return default if plain else _UNSHOWN


def _place_in_sample(row: dict[str, str]) -> str:
    return hashlib.sha256(row["function_id"].encode()).hexdigest()
