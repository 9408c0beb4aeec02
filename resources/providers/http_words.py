"""What a reply says beside its answer: why it was refused, how long to wait, and what time it is there."""

from __future__ import annotations

import email.utils
import json
import math
import re
from contextlib import suppress
from datetime import UTC
from typing import Any, cast

import httpx

from ..errors import AmbiguousError, BusyError, UnreachableError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_MAX_RETRY_AFTER = 120.0
_DELAY = re.compile(r'"retryDelay":\s*"([0-9]{1,6}(?:\.[0-9]+)?)s"')
"""`google.rpc.RetryInfo` in an error's details."""


def quoted(text: str) -> str:
    """A stranger's words on one line, without control characters, at most 300 long."""
    return repr(_CONTROL.sub(" ", text)[:300])


def paired(body: Any) -> Any:
    """A reply in which a half of a surrogate pair, which no file or database takes, is a replacement character."""
    text = json.dumps(body, ensure_ascii=False).encode("utf-16", "surrogatepass")
    return json.loads(text.decode("utf-16", "replace"))


def words_of(response: httpx.Response) -> tuple[str | None, str]:
    """The provider's error code and message."""
    try:
        body: object = response.json()
    except (ValueError, RecursionError):
        return None, quoted(response.text)
    for wrapper in ("detail", "error"):  # FastAPI's, around OpenAI's
        inner = cast("dict[str, object]", body).get(wrapper) if isinstance(body, dict) else None
        body = cast("object", inner if isinstance(inner, dict) else body)
    if not isinstance(body, dict):
        return None, quoted(str(body))
    found = cast("dict[str, object]", body)
    # AWS names what went wrong in a header, with an address behind a colon.
    code = found.get("code", response.headers.get("x-amzn-errortype", "").split(":")[0] or None)
    said = next((found[name] for name in ("message", "Message", "detail", "error") if found.get(name)), found)
    return (str(code) if code is not None else None), quoted(_sentence(said))


def _sentence(said: object) -> str:
    """FastAPI says what is wrong with a body as a list of places and messages."""
    if not isinstance(said, list):
        return str(said)
    parts: list[str] = []
    for one in cast("list[object]", said):
        fields = cast("dict[str, object]", one) if isinstance(one, dict) else {"msg": one}
        place = fields.get("loc")
        where = ".".join(map(str, cast("list[object]", place))) + ": " if isinstance(place, list) else ""
        parts.append(f"{where}{fields.get('msg', fields)}")
    return "; ".join(parts)


def retry_after(response: httpx.Response, now: float) -> float | None:
    """How long a server wants to be left alone, in seconds: in a header, or at Google in the error's details."""
    headers = response.headers
    if delay := _DELAY.search(response.text):
        return float(delay[1])
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / scale
        except ValueError:
            date = date_of(value)
            seconds = math.nan if date is None else max(date - now, 0.0)
        if math.isfinite(seconds) and seconds >= 0.0:
            return seconds
    return None


def date_of(header: str) -> float | None:
    """A moment as HTTP writes it, in Unix seconds; None if it is none."""
    try:
        date = email.utils.parsedate_to_datetime(header)
        return date.replace(tzinfo=date.tzinfo or UTC).timestamp()  # without a zone it isn't this machine's zone
    except (ValueError, OverflowError):
        return None


def clock_offset(date: str | None, sent: float, received: float) -> tuple[float, float] | None:
    """How far the provider's clock is ahead; a reply that took longer than 30 s says too little."""
    there = date_of(date) if date and received - sent <= 30.0 else None
    if there is None:
        return None
    return there - received, there + 1.0 - sent  # the header is cut to whole seconds


def host_of(base_url: str) -> str | None:
    """The host of an address that can be asked; None if it can't be one."""
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", base_url):
        return None
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        return None
    return url.host if url.host and (url.port or 0) < 65536 else None


def pause_after(error: Exception) -> bool | float:
    """Whether to repeat a request that is safe to repeat, and after how many seconds if the server said so."""
    if not isinstance(error, BusyError | AmbiguousError | UnreachableError):
        return False
    if error.retry_after is None:
        return True
    return error.retry_after if error.retry_after <= _MAX_RETRY_AFTER else False


def place_of(error: Exception, origin: str) -> str:
    """Where a request went: to our own address, or to the host of one that the server has named."""
    with suppress(RuntimeError, AttributeError):  # an error may come without its request
        url = cast("httpx.HTTPError", error).request.url
        if url.host != httpx.URL(origin).host:
            return f"{url.scheme}://{url.host}"
    return origin
