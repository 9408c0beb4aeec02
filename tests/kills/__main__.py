"""``python -m tests.kills``: kill real processes at every named point, and see that nothing is paid twice or lost.

python -m tests.kills --minutes 5
python -m tests.kills --scenario run --point "run: before POST /v1/batches (1)" --action stop
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads don't survive a fork

from ..resources.postgres import running_cluster
from .campaign import Campaign, campaign
from .points import Action, Point
from .report import distinct, table
from .scenarios import SCENARIOS

_AS_THE_NEXT = tuple(f"after {verb}" for verb in ("fsync", "write", "truncate", "replace", "hardlink_to", "unlink"))
"""After these the disk is as it is before the next one."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long, wherever it is")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only these")
    parser.add_argument("--action", choices=("kill", "stop"), action="append", help="by default both")
    parser.add_argument("--postgres", action="store_true", help="a ledger on Postgres, restarted at the points")
    parser.add_argument("--match", default="", help="only points with this text in them")
    parser.add_argument("--most", type=int, default=1, help="how many passages of one step are struck")
    parser.add_argument("--seed", type=int, default=1, help="of the order")
    args = parser.parse_args()
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="batch-llm-kills-", dir=memory if memory.exists() else None) as folder,
        campaign(Path(folder)) as running,
        contextlib.ExitStack() as stack,
    ):
        if args.postgres:
            running.cluster = stack.enter_context(running_cluster())
        strikes = list(_strikes(running, args))
        random.Random(args.seed).shuffle(strikes)
        strikes.sort(key=_repetitions(strikes))
        until = time.monotonic() + args.minutes * 60.0
        try:
            for number, (scenario, action, point) in enumerate(strikes):
                if time.monotonic() > until:
                    break
                _strike(running, scenario, action, point)
                print(f"\r{number + 1} of {len(strikes)} ", end="", file=sys.stderr, flush=True)
        finally:
            print(table(running.results))
            print(
                f"distinct (role, action, step): {distinct(running.results)} of {len(set(map(_same, strikes)))} struck"
            )
    return any(result.violations for result in running.results)


def _strikes(running: Campaign, args: argparse.Namespace) -> Iterator[tuple[str, Action, Point]]:
    """All that is to be done: the points of each scenario, once killed and once stopped."""
    for scenario in args.scenario or SCENARIOS:
        for point in running.points(scenario, args.most):
            if args.match in str(point) and not point.step.startswith(_AS_THE_NEXT):
                for action in args.action or (("restart",) if args.postgres else ("kill", "stop")):
                    if action != "stop" or _can_stop(point):
                        yield scenario, action, point


def _same(strike: tuple[str, Action, Point]) -> tuple[str, Action, str]:
    """What a strike has in common with those in other scenarios."""
    _, action, point = strike
    return point.role, action, point.step


def _repetitions(strikes: list[tuple[str, Action, Point]]) -> Callable[[tuple[str, Action, Point]], bool]:
    """The key of an order in which each distinct strike is done once before any is done again."""
    first = {_same(strike): strike for strike in reversed(strikes)}
    return lambda strike: first[_same(strike)] != strike


def _strike(running: Campaign, scenario: str, action: Action, point: Point) -> None:
    result = running.play(scenario, point, action)
    if result.violations:
        print(f"\n{scenario}: {action} at {point}: {result.violations}\n{result.log[-3000:]}", flush=True)


def _can_stop(point: Point) -> bool:
    """A process that stops inside a transaction keeps the lock; there is nothing to be seen but others waiting."""
    # The ledger's opening makes these durable under its lock.
    opening = "opening" in point.step or "LEDGER" in point.step or point.step.endswith(("/answers", "/answers/SENDS"))
    locked = "before commit" in point.step or opening
    return point.role != "server" and not locked


if __name__ == "__main__":
    sys.exit(main())
