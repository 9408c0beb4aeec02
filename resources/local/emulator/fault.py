"""One fault, as it is declared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One way in which the emulated provider goes wrong; ``dagster-batch-llm local faults`` lists the known ones.

    Args:
        place: A call (``upload``, ``create``, ``get``, ``list``, ``cancel``, ``content``, ``delete``, ``ask``
            for a request that is answered at once; ``call`` for each of them), ``batch`` or ``row``.
        name: What goes wrong there.
        times: How many calls or batches it strikes; for rows, how many batches in which it strikes the same request,
            so with 1 it is answered properly when it is asked again. No limit if not given.
        share: Which part of the calls, batches or requests it strikes, 0 to 1, chosen by the seed.
        skip: How many calls or batches are left alone first.
        only: Strike only requests with this text in their body; for rows.
        status: HTTP status, where the fault has one.
        seconds: How long, where the fault takes or shifts time.
        looks: How many looks at a batch it lasts, where it shows something passing.
        part: How much is done or delivered, 0 to 1, where the fault breaks off.

    Example:
        >>> Fault("create", "lost_reply", times=1).share
        1.0
    """

    place: str
    name: str
    times: int | None = None
    share: float = 1.0
    skip: int = 0
    only: str = ""
    status: int | None = None
    seconds: float | None = None
    looks: int = 3
    part: float = 0.5


def lot(seed: int, rule: int, subject: str) -> float:
    """A number from 0 to 1 that is always the same for the same three."""
    digest = hashlib.sha256(f"{seed}/{rule}/{subject}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def sentence(function: object) -> str:
    """The first line of a docstring: what a fault does is said where it is done."""
    return (getattr(function, "__doc__", None) or "").strip().splitlines()[0]
