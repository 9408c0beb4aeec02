"""Texts from elsewhere, for a terminal or a page that obeys control characters."""

from __future__ import annotations


def visible(text: str) -> str:
    r"""A text in which whatever a terminal or a page would obey, or not show, is spelled out.

    Example:
        >>> visible("\x1b[2Jred")
        '\\x1b[2Jred'
    """
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
