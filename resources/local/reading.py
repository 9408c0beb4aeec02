"""Reading HTTP requests: bodies, numbers and pages, with OpenAI's words when they are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.requests import Request

from .intake import MAX_LINE_BYTES
from .wire import RefusalError, clean_text, parse_object


async def read_json(request: Request) -> Mapping[str, object]:
    """The request's body, which has to be a JSON object of at most 4 MB.

    Raises:
        RefusalError: It is not.
    """
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_LINE_BYTES:
            raise RefusalError(f"The body is larger than {MAX_LINE_BYTES} bytes.", status=413, code="request_too_large")
    try:
        return parse_object(bytes(body))
    except ValueError as error:
        raise RefusalError(f"We could not parse the JSON body of your request: {error}.") from error


def read_limit(request: Request, *, default: int, largest: int) -> int:
    """The query parameter ``limit``.

    Raises:
        RefusalError: It is not a number from 1 to ``largest``.
    """
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= largest):
        raise RefusalError(f"'limit' has to be a whole number from 1 to {largest}.", param="limit")
    return int(text)


def page(objects: Sequence[Mapping[str, object]], limit: int) -> Mapping[str, object]:
    """A list object of ``limit`` items, made from that many and one more if there is one."""
    shown = objects[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(objects) > limit,
    }


def read_seconds(anchor: object, seconds: object, param: str) -> int:
    """How long a file is to be kept after its creation.

    Raises:
        RefusalError: It is not 1 hour to 30 days from ``created_at``.
    """
    number = int(seconds) if isinstance(seconds, str) and seconds.isascii() and seconds.isdecimal() else seconds
    if anchor == "created_at" and isinstance(number, int) and 3600 <= number <= 2_592_000:
        return number
    raise RefusalError(f"'{param}' needs the anchor 'created_at' and 3600 to 2592000 seconds.", param=param)


def is_text(value: str) -> bool:
    """Whether a JSON string can be written as UTF-8."""
    return clean_text(value) == value
