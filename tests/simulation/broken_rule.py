"""What a removed rule is: replacements of functions, and where it should show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .faults import Kind, Mode
from .seams import Seams

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule that can be removed.

    Attributes:
        rule: Its number in the protocol; F for the fence of a task, L for output limits, P for parsing.
        name: What is done instead.
        remove: Gives the replacements.
        kinds: In which kind of provider it matters.
        modes: In which timing.
        tuned: Settings in which it shows sooner.
        real: Whether what is replaced is SQL, so that the seeds have to run on DuckDB.
        harmless: Why nothing is expected to be seen; empty if something is.
    """

    rule: str
    name: str
    remove: Callable[[Seams], list[Patch]]
    kinds: tuple[Kind, ...] = ("settle", "revoke")
    modes: tuple[Mode, ...] = ("random", "edge")
    tuned: Mapping[str, float] = field(default_factory=dict[str, float])
    real: bool = False
    harmless: str = ""


def swapped(place: Any, name: str, new: Callable[..., Any] | float) -> Callable[[Seams], list[Patch]]:
    """One replacement."""

    def remove(_: Seams) -> list[Patch]:
        return [(place, name, new)]

    return remove


def always(value: Any) -> Callable[..., Any]:
    """A function that looks at nothing."""
    return lambda *_, **__: value
