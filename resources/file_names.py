"""Any text as the name of a file, and back.

Only lower-case letters, digits, ``_`` and ``-`` stand for themselves; every other byte of the UTF-8 is ``%XX``, capital
letters too, because some file systems don't tell them apart. No name is hidden, leads out of its folder or has a dot,
so an extension is always ours. A name that is longer than a file system takes goes on in a folder below.
"""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from urllib.parse import unquote_to_bytes

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-")
_LONGEST = 180
"""Of one file's or folder's name; file systems take 255 bytes, and a temporary name has a suffix."""
_GOES_ON, _EMPTY = "+", "%"  # neither is written for any text


def encoded(text: str) -> PurePosixPath:
    """A relative path without suffix; two texts never have the same one, not even if case doesn't count.

    Example:
        >>> str(encoded("2026-11-25")), str(encoded("../Ü"))
        ('2026-11-25', '%2E%2E%2F%C3%9C')
    """
    whole = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))
    pieces = [whole[at : at + _LONGEST] for at in range(0, len(whole), _LONGEST)] or [_EMPTY]
    return PurePosixPath(*(f"{piece}{_GOES_ON}" for piece in pieces[:-1]), pieces[-1])


def digest(text: str) -> str:
    """16 hexadecimal characters that stand for a stranger's word, such as a provider's id, in a path."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def decoded(path: PurePosixPath) -> str | None:
    """The text behind a path; None if `encoded` makes no such path."""
    whole = "".join(part.removesuffix(_GOES_ON) for part in path.parts)
    try:
        text = "" if whole == _EMPTY else unquote_to_bytes(whole).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return text if encoded(text) == path else None
