"""What is still to be struck, and which strikes share a world."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from .campaign import Result
from .points import Action, Point, Strike
from .scenarios import SCENARIOS

_OF_A_ROLE = 2
"""So many in a world: who is struck is followed by another."""
_TRIES = 2
"""A strike whose point is so often not reached gets a world of its own."""
_AS_THE_NEXT = tuple(f"after {verb}" for verb in ("fsync", "write", "truncate", "replace", "hardlink_to", "unlink"))
"""After these the disk is as it is before the next one."""

Distinct = tuple[str, Action, str]


def same(strike: Strike) -> Distinct:
    """What a strike has in common with those in other scenarios."""
    return strike.point.role, strike.action, strike.point.step


@dataclass(frozen=True)
class Target:
    """One strike that is to be done.

    Attributes:
        scenario: In which kind of world.
        strike: Who is struck where.
        after: What had been struck where the point was first seen.
        tries: How many worlds have not reached it.
    """

    scenario: str
    strike: Strike
    after: tuple[Strike, ...] = ()
    tries: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether the world should have no strikes but this and what comes before it."""
        # Whoever talks to a stopped server waits a minute, and more than one would be too long.
        return self.tries >= _TRIES or same(self.strike)[:2] == ("server", "stop")


@dataclass
class Agenda:
    """Hands out worlds and takes note of their results.

    Args:
        scenarios: Their points are counted first, each in a world without a fault.
        actions: What is done at each point.
        most: How many passages of one step are struck.
        match: Only points with this text in them.
        seed: Of the order.
    """

    scenarios: Sequence[str]
    actions: Collection[Action]
    most: int
    match: str
    seed: int
    targets: list[Target] = field(default_factory=list[Target])
    results: list[Result] = field(default_factory=list[Result])
    missed: list[Target] = field(default_factory=list[Target])

    def __post_init__(self) -> None:
        self._uncounted = list(self.scenarios)
        self._counting = len(self._uncounted)
        self._known: set[tuple[str, str]] = set()
        self._out: dict[tuple[str, tuple[Strike, ...]], list[Target]] = {}
        self._random = random.Random(self.seed)

    def next(self) -> tuple[str, tuple[Strike, ...]] | None:
        """The next world; None if there is none before another result."""
        if self._uncounted:
            return self._uncounted.pop(), ()
        if self._counting or not self.targets:
            return None
        # What has been done nowhere yet comes first.
        begun = self.struck() | {same(target.strike) for chosen in self._out.values() for target in chosen}
        self.targets.sort(key=lambda target: (same(target.strike) in begun, target.tries))
        chosen = self._chosen()
        self.targets = [target for target in self.targets if target not in chosen]
        after = chosen[0].after if chosen[0].is_alone else ()
        world = chosen[0].scenario, tuple(target.strike for target in chosen) + after
        self._out[world] = chosen
        return world

    def _chosen(self) -> list[Target]:
        """The first target and what can share its world."""
        first = self.targets[0]
        if first.is_alone:
            return [first]
        chosen, roles = list[Target](), Counter[str]()
        for target in self.targets:
            role = target.strike.point.role
            if target.scenario == first.scenario and not target.is_alone and roles[role] < _OF_A_ROLE:
                chosen.append(target)
                roles[role] += 1
        return chosen

    def struck(self) -> set[Distinct]:
        """What has been done so far."""
        return {same(strike) for result in self.results for strike in result.struck}

    def note(self, result: Result) -> None:
        """Take note of a world's end."""
        self.results.append(result)
        if not result.strikes:
            self._counting -= 1
            self._add(result, result.passed)
            self._random.shuffle(self.targets)
            return
        for target in self._out.pop((result.scenario, result.strikes)):
            if target.strike not in result.struck:
                (self.missed if target.is_alone else self.targets).append(replace(target, tries=target.tries + 1))
        # Ways that only these strikes have opened, perhaps.
        self._add(result, {point for point in result.passed if (point.role, point.step) not in self._known})

    def _add(self, result: Result, points: Collection[Point]) -> None:
        wanted = [point for point in sorted(points, key=str) if self._is_wanted(result.scenario, point)]
        self._known |= {(point.role, point.step) for point in wanted}
        for point in wanted:
            strikes = (Strike(action, point) for action in self.actions if _is_possible(action, point))
            self.targets += [Target(result.scenario, strike, result.struck) for strike in strikes]

    def _is_wanted(self, scenario: str, point: Point) -> bool:
        return (
            point.role in SCENARIOS[scenario].roles
            and point.n <= self.most
            and self.match in str(point)
            and not point.step.startswith(_AS_THE_NEXT)
        )


def _is_possible(action: Action, point: Point) -> bool:
    """A process that stops with a lock in its hand keeps it; there is nothing to be seen but others waiting."""
    if point.role == "server":
        return action == "kill" or (action == "stop" and point.step.endswith("commit Store.add_batch"))
    # The ledger's opening makes these durable under its lock; a warehouse is locked for as long as it is open.
    opening = "opening" in point.step or "LEDGER" in point.step or point.step.endswith(("/answers", "/answers/SENDS"))
    locked = opening or "before commit" in point.step or "commit of the table" in point.step
    return action != "stop" or not locked
