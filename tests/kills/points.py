"""The named points that a process passes, and what happens to it at one of them."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

FOLDER_VARIABLE = "KILLS_FOLDER"
Action = Literal["kill", "stop", "restart"]
"""Killed; stopped until all others are done; stopped while the ledger's server is restarted."""

_IDS = re.compile(r"\b[0-9a-f]{8,}\b|\b(file|batch)[-_][0-9a-z]+|(?<=\.)\d+(?=\.part)")
_STRIKE = re.compile(r"(?P<action>kill|stop|restart) (?P<role>\w+): (?P<step>.+) \((?P<n>\d+)\)")
_write = os.write  # the patched one is a point itself


@dataclass(frozen=True)
class Point:
    """The `n`-th time that a process of a role passes a step, such as ``before commit Attempts.begin_send``."""

    role: str
    step: str
    n: int = 1

    def __str__(self) -> str:
        return f"{self.role}: {self.step} ({self.n})"


@dataclass(frozen=True)
class Strike:
    """What happens, once, to whoever first passes a point."""

    action: Action
    point: Point

    def __str__(self) -> str:
        return f"{self.action} {self.point}"

    @classmethod
    def parse(cls, text: str) -> Strike:
        """The strike that is written so.

        Raises:
            ValueError: It isn't one.
        """
        if (found := _STRIKE.fullmatch(text)) is None:
            raise ValueError(f'{text!r} is not like "kill run: before POST /v1/batches (1)"')
        return cls(cast("Action", found["action"]), Point(found["role"], found["step"], int(found["n"])))


@dataclass(frozen=True)
class Order:
    """What one world's processes have to know: where they log, and who of them ends or stops."""

    world: int
    strikes: tuple[Strike, ...] = ()

    def write(self, folder: Path) -> None:
        """Put it where all processes look."""
        partial = folder / "order.json.part"
        partial.write_text(json.dumps(asdict(self)))
        partial.rename(folder / "order.json")

    @classmethod
    def read(cls, folder: Path) -> Order:
        found = json.loads((folder / "order.json").read_text())
        return cls(found["world"], tuple(Strike(one["action"], Point(**one["point"])) for one in found["strikes"]))


def anonymous(text: str) -> str:
    """A path without what differs from world to world."""
    return _IDS.sub("*", text)


def struck(folder: Path, world: int, number: int) -> Path:
    """The file that is there once somebody has met the order's strike of this number."""
    return folder / f"struck-{world}-{number}"


def passed(folder: Path, world: int) -> list[Point]:
    """All points of a world, in their order."""
    log = folder / f"points-{world}"
    lines = log.read_text().splitlines() if log.exists() else []
    return [Point(role, step, int(n)) for role, step, n in (line.split("\t") for line in lines)]


class Passage:
    """One process on its way; the order may change while it lives, as that of a server does."""

    def __init__(self, role: str, folder: Path) -> None:
        self.folder = folder
        self._role = role
        self._world = -1
        self._counts: Counter[str] = Counter()

    def reach(self, step: str) -> None:
        """Pass a point, or end there."""
        order = Order.read(self.folder)
        if order.world != self._world:
            self._world, self._counts = order.world, Counter()
        self._counts[step] += 1
        point = Point(self._role, step, self._counts[step])
        self._append(f"points-{order.world}", f"{point.role}\t{point.step}\t{point.n}\n")
        for number, strike in enumerate(order.strikes):
            if strike.point == point and self._is_first(order.world, number):
                os.kill(os.getpid(), signal.SIGKILL if strike.action == "kill" else signal.SIGSTOP)

    def _append(self, name: str, text: str) -> None:
        log = os.open(self.folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _write(log, text.encode())
        os.close(log)

    def _is_first(self, world: int, number: int) -> bool:
        try:
            os.close(os.open(struck(self.folder, world, number), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
