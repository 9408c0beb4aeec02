"""The first sentence of a text."""

from __future__ import annotations

import re

_READ = 4000
_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f]|\n[ \t]*\n")
_ABBREVIATIONS = frozenset({
    "e.g", "i.e", "etc", "vs", "cf", "al", "mr", "mrs", "ms", "dr", "prof", "st", "no", "fig", "approx", "inc", "ltd",
})  # fmt: skip


def first_sentence(text: str) -> str:
    """The first sentence, on one line; a text without an end mark is one sentence.

    Args:
        text: Only its first 4,000 characters are read.

    Example:
        >>> first_sentence("Dr. Smith parses a date, e.g. from a form. Raises ValueError.")
        'Dr. Smith parses a date, e.g. from a form.'
    """
    head = text.strip()[:_READ]
    for end in _END.finditer(head):
        if not _abbreviated(head[: end.start()], end[0]):
            head = head[: end.end()]
            break
    return " ".join(head.split())


def _abbreviated(before: str, mark: str) -> bool:
    word = before.rsplit(maxsplit=1)[-1].lstrip("(\"'") if before.strip() else ""
    # A single capital is an initial: "J. Smith".
    return mark == "." and (word.lower() in _ABBREVIATIONS or (len(word) == 1 and word.isupper()))
