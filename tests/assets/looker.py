"""Looks at plans in a process of its own, and is killed at random on the way.

    python looker.py <home> <seed> <kill probability> <plan> …

Every look is a child that was forked off after the slow imports; one that was killed is followed by another, until
the look gets to its end. A file ``<home>/ready-<seed>`` says that it is about to begin, ``<home>/go`` lets it.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from dagster_batch_llm.assets import look as look_module
from dagster_batch_llm.assets.look import look
from dagster_batch_llm.resources import Ledger
from dagster_batch_llm.resources.ledger import PlanId
from dagster_batch_llm.resources.providers.profile import Profile
from dagster_batch_llm.resources.providers.protocol import BatchProvider

KILLED = 9
_SPEED = 1000.0
_EPOCH = 1_700_000_000.0


class FastClock:
    """A thousand times as fast as the real one, and the same in every process: a lease is over in no time."""

    def now(self) -> float:
        return _EPOCH + (time.time() - _EPOCH) * _SPEED

    def monotonic(self) -> float:
        return time.monotonic() * _SPEED

    def sleep(self, seconds: float) -> None:
        threading.Event().wait(seconds / _SPEED)

    def token(self) -> str:
        return os.urandom(8).hex()


class Limits:
    """The part of a provider that a look needs."""

    profile = Profile(name="limits", max_rows=37)
    account = "limits"


def provider() -> BatchProvider:
    return cast("BatchProvider", Limits())


def _mortal(call: Callable[..., Any], dice: random.Random, probability: float) -> Callable[..., Any]:
    """The same call, with a chance to die just before and just after it."""

    def mortal(*arguments: Any, **named: Any) -> Any:
        if dice.random() < probability:
            os._exit(KILLED)
        value = call(*arguments, **named)
        if dice.random() < probability:
            os._exit(KILLED)
        return value

    return mortal


def _look(home: Path, plan: str, owner: str, dice: random.Random, probability: float) -> None:
    ledger = Ledger(home, FastClock())
    # On a clock this fast, a busy machine would use up the patience of a look.
    setattr(look_module, "_PATIENCE", float("inf"))  # noqa: B010 - a private name
    if probability:
        look_module.write_parquet = _mortal(look_module.write_parquet, dice, probability)
        ledger.looks.insert = _mortal(ledger.looks.insert, dice, probability)
    look(ledger, provider(), ledger.plans.get(PlanId(plan)), owner)


def main(home: Path, seed: str, probability: float, plans: list[str]) -> None:
    dice = random.Random(seed)
    (home / f"ready-{seed}").touch()
    while not (home / "go").exists():
        threading.Event().wait(0.005)
    for plan in plans:
        for number in range(1000):
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    _look(home, plan, f"{seed}-{number}", random.Random(dice.random()), probability)
                    status = 0
                finally:
                    os._exit(status)
            dice.random()
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status not in {0, KILLED}:
                sys.exit(f"plan {plan}: look {number} ended with {status}")
            if status == 0:
                break


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:])
