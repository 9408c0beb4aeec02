"""Files of lines on disk: one with results appears under its name only when it is whole and durable."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..duck import make_durable
from ..errors import StorageError


def keep(into: Path, parts: Iterable[bytes], token: str) -> None:
    """Write a file of these parts; `token` tells its writer from others.

    Raises:
        StorageError: It can't be written.
    """
    partial = into.with_name(f"{into.name}.{token}.part")
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as out:
            for part in parts:
                out.write(part)
        make_durable(partial, into)
    except OSError as error:
        raise StorageError(
            f"{into} can't be written ({error}). Free some space or give this process the right to write there; "
            "the results stay at the provider, run it again."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def lines_in(path: Path) -> int:
    """How many lines a request file has; each is ended."""
    with path.open("rb") as stream:
        return sum(part.count(b"\n") for part in iter(lambda: stream.read(1 << 20), b""))
