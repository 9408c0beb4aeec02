"""What a stranger's JSON says, read with care: unknown fields, odd types and missing parts are never an accident."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import quote

from ..errors import AmbiguousError, RefusedError
from ..visible import visible
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


def name_of(body: Mapping[str, Any]) -> str:
    """The last part of a resource's name, such as ``batches/abc``, which is what Google calls its id."""
    return id_of({"id": str(body.get("name", "")).rpartition("/")[2]})


def loaded(text: str) -> Mapping[str, Any]:
    """A reply's text as an object; empty if it is none."""
    try:
        return mapping(json.loads(text))
    except (ValueError, RecursionError):
        return {}


def no_address(name: str, text: str) -> AmbiguousError:
    """What to raise where a provider should have said to which address a file goes, and said this."""
    said = visible(text[:200])
    return AmbiguousError(
        f"{name}: the reply to an upload names no address for the file, but says {said!r}. Is base_url right, or a "
        "proxy in between?"
    )


def path_part(name: str, *, keep: str = "") -> str:
    """A stranger's id as one part of a path, or as several that are parted by what is to be kept."""
    return quote(name, safe=keep)


def listed(page: object, field: str, *, empty: bool = False) -> list[object]:
    """A page's items, in a field of it; without a name for that, the page itself.

    A reply that has none isn't an empty listing, unless the server leaves out what is `empty`: what is not listed is
    asked again.
    """
    items: object = an_object(page).get(field, None if empty else page) if field else page
    if (items is None and not field) or (items is not None and not isinstance(items, list)):
        raise AmbiguousError(f"The server answered {str(page)[:100]!r} where a list of batches was expected.")
    return cast("list[object]", items or [])


_OF_PAGES = {
    *("nextPageToken", "next_page_token", "nextToken", "pagination_token", "totalSize", "total", "kind", "object"),
    *("has_more", "prefixes", "etag", "unreachable"),
}
"""What stands on a page beside its items."""


def page_of(page: object, field: str, *, omits_empty: bool) -> list[object]:
    """The items of a listing's page, see `listed`.

    Where JSON is made of protocol buffers, an empty list isn't there; but then nothing else is either: an object that
    says something else, such as an error that comes with a 200, is no page. Nor is one that lacks places which couldn't
    be reached.
    """
    if missing := mapping(page).get("unreachable"):
        raise AmbiguousError(f"A listing is without {str(missing)[:100]!r}, which the server couldn't reach.")
    said: set[str] = set(mapping(page))
    return listed(page, field, empty=omits_empty and isinstance(page, dict) and said <= _OF_PAGES)


def items_of(body: Mapping[str, Any]) -> list[object]:
    """The items of a list object; none if it isn't one."""
    items: object = body.get("data")
    return cast("list[object]", items) if isinstance(items, list) else []


def moment(value: object) -> float | None:
    """A time in ISO 8601, if it can be one: Unix seconds. One without a time zone is UTC."""
    try:
        found = datetime.fromisoformat(str(value))
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def seconds(value: object) -> float | None:
    """A time that can be one: Unix seconds before the year 10000."""
    return float(value) if isinstance(value, int | float) and 0 <= value < _END_OF_TIME else None


def count(value: object) -> int:
    """A number of things, if it can be one."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():  # 64-bit numbers are texts in JSON at Google
        value = int(value[:20])
    return value if isinstance(value, int) and 0 <= value < _MOST else 0


def row_id_of(line: bytes, field: str, batch: Batch) -> str:
    """Whose a result line is."""
    try:
        found: object = mapping(json.loads(line)).get(field)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise RefusedError(f"The first result line of batch {batch.id} can't be read.")
    return found
