"""``python -m tests.kills``: kill real processes at every named point, and see that nothing is paid twice or lost.

python -m tests.kills --minutes 5
python -m tests.kills --scenario run --point "run: before POST /v1/batches (1)" --action stop
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads don't survive a fork

from .campaign import Campaign, campaign
from .points import Point
from .report import table
from .scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long, wherever it is")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only these")
    parser.add_argument("--action", choices=("kill", "stop"), action="append", help="by default both")
    parser.add_argument("--match", default="", help="only points with this text in them")
    parser.add_argument("--most", type=int, default=2, help="how many passages of one step are struck")
    args = parser.parse_args()
    memory = Path("/dev/shm")  # noqa: S108 - a killed process loses nothing there, and flushing is quick
    with (
        tempfile.TemporaryDirectory(prefix="batch-llm-kills-", dir=memory if memory.exists() else None) as folder,
        campaign(Path(folder)) as running,
    ):
        until = time.monotonic() + args.minutes * 60.0
        for scenario in args.scenario or SCENARIOS:
            _scenario(running, scenario, args, until)
    print(table(running.results))
    return any(result.violations for result in running.results)


def _scenario(running: Campaign, scenario: str, args: argparse.Namespace, until: float) -> None:
    points = [point for point in running.points(scenario, args.most) if args.match in str(point)]
    for action in args.action or ("kill", "stop"):
        chosen = [point for point in points if action == "kill" or _can_stop(point)]
        for number, point in enumerate(chosen):
            if time.monotonic() > until:
                return
            result = running.play(scenario, point, action)
            print(
                f"\r{scenario}: {action} {number + 1} of {len(chosen)}, {result.seconds:.1f} s   ",
                end="",
                file=sys.stderr,
                flush=True,
            )
            if result.violations:
                print(f"\n{action} at {point}: {result.violations}\n{result.log[-3000:]}", flush=True)


def _can_stop(point: Point) -> bool:
    """A process that stops inside a transaction keeps the lock; there is nothing to be seen but others waiting."""
    locked = "before commit" in point.step or "opening" in point.step or "LEDGER" in point.step
    return point.role != "server" and not locked


if __name__ == "__main__":
    sys.exit(main())
