"""What a stranger's JSON says, read with care: unknown fields, odd types and missing parts are never an accident."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

from ..errors import AmbiguousError, RefusedError
from .protocol import Batch

_END_OF_TIME = 253_402_300_800
_MOST = 2**31  # what the ledger keeps of a count


def an_object(body: object) -> dict[str, Any]:
    """A reply that has to be an object, as one."""
    if not isinstance(body, dict):
        raise AmbiguousError(f"The server answered {str(body)[:100]!r} where an object was expected.")
    return cast("dict[str, Any]", body)


def mapping(body: object) -> Mapping[str, Any]:
    """An object if it is one: a strange field of a stranger's batch must not hide all the others."""
    return cast("Mapping[str, Any]", body) if isinstance(body, dict) else {}


def id_of(body: Mapping[str, Any]) -> str:
    """The one field that a reply can't do without."""
    found: object = body.get("id")
    name = str(found) if isinstance(found, str | int) and found else ""
    if not name.isprintable() or name in {"", ".", ".."}:
        raise AmbiguousError(f"The server answered {str(body)[:100]!r}, which has no id.")
    return name


def path_part(name: str) -> str:
    """A stranger's id as one part of a path."""
    return quote(name, safe="")


def listed(page: Mapping[str, Any]) -> list[object]:
    """A page's items. A reply that has none isn't an empty listing: what is not listed is asked again."""
    items: object = page.get("data", page)
    if items is not None and not isinstance(items, list):
        raise AmbiguousError(f"The server answered {str(page)[:100]!r} where a list of batches was expected.")
    return cast("list[object]", items or [])


def items_of(body: Mapping[str, Any]) -> list[object]:
    """The items of a list object; none if it isn't one."""
    items: object = body.get("data")
    return cast("list[object]", items) if isinstance(items, list) else []


def seconds(value: object) -> float | None:
    """A time that can be one: Unix seconds before the year 10000."""
    return float(value) if isinstance(value, int | float) and 0 <= value < _END_OF_TIME else None


def count(value: object) -> int:
    """A number of things, if it can be one."""
    return value if isinstance(value, int) and 0 <= value < _MOST else 0


def custom_id_of(line: bytes, batch: Batch) -> str:
    """Whose a result line is."""
    try:
        found: object = mapping(json.loads(line)).get("custom_id")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise RefusedError(f"The first result line of batch {batch.id} can't be read.")
    return found
