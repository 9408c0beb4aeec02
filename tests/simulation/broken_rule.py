"""What a removed rule is: replacements of functions, and where it should show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .faults import Kind, Mode
from .seams import Seams

Patch = tuple[Any, str, Any]


@dataclass(frozen=True)
class Rule:
    """One rule that can be removed.

    Attributes:
        rule: Its number in the protocol; F for the fence of a task, P for parsing.
        name: What is done instead.
        remove: Gives the replacements.
        kinds: In which kind of provider it matters.
        modes: In which timing.
        doubled: Only seeds in which creates are doubled can show it.
        harmless: Why nothing is expected to be seen; empty if something is.
    """

    rule: str
    name: str
    remove: Callable[[Seams], list[Patch]]
    kinds: tuple[Kind, ...] = ("settle", "revoke")
    modes: tuple[Mode, ...] = ("random", "edge")
    doubled: bool = False
    harmless: str = ""
