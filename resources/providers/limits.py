"""What a reply's headers say of how much may still be asked, and when there is more again."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .replies import moment

_RESETS = re.compile(
    r"(?:x-ratelimit-reset-(?P<openai>\w[\w-]*))|(?:anthropic-ratelimit-(?P<anthropic>\w[\w-]*)-reset)", re.ASCII
)
"""A header that says when there is more of something: OpenAI's and Groq's, or Anthropic's."""
_SPAN = re.compile(r"([0-9.]{1,12})(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def pause_until(headers: Mapping[str, str], now: float) -> float:
    """Seconds after which more may be asked; 0 if more may be asked at once.

    Args:
        headers: Of a reply, their names in small letters.
        now: Unix seconds.

    Example:
        >>> pause_until({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}, 0.0)
        62.5
    """
    waits = [0.0]
    for name, value in headers.items():
        found = _RESETS.fullmatch(name)
        if found is None:
            continue
        left = f"x-ratelimit-remaining-{found['openai']}"
        if found["anthropic"]:
            left = f"anthropic-ratelimit-{found['anthropic']}-remaining"
        if headers.get(left, "").strip() == "0":
            waits.append(_seconds(value.strip(), now))
    return max(waits)


def _seconds(text: str, now: float) -> float:
    """A span such as ``6m0.5s``, a bare number of seconds, or a moment; 0 if it is none of them."""
    spans = _SPAN.findall(text)
    try:
        if spans and "".join(number + unit for number, unit in spans) == text:
            return sum(float(number) * _UNITS[unit] for number, unit in spans)
        return max(float(text), 0.0)
    except ValueError:
        return max((moment(text) or now) - now, 0.0)
