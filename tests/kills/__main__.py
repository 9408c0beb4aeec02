"""``python -m tests.kills``: kill real processes at every named point, and see that nothing is paid twice or lost.

python -m tests.kills --minutes 5
python -m tests.kills --match "before POST" --processes 1
python -m tests.kills --scenario run --strike "stop run: before POST /v1/batches (1)" --strike "kill tick: ..."
python -m tests.kills --daemons
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # threads don't survive a fork

from .agenda import Agenda
from .campaign import Result, campaign
from .daemons import kill_daemons
from .points import Action, Strike
from .report import story, table
from .scenarios import SCENARIOS
from .workers import workers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so long, wherever it is")
    parser.add_argument("--processes", type=int, default=2, help="so many worlds side by side")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="only these")
    parser.add_argument("--action", choices=("kill", "stop"), action="append", help="by default both")
    parser.add_argument("--postgres", action="store_true", help="a ledger on Postgres, restarted at the points")
    parser.add_argument("--match", default="", help="only points with this text in them")
    parser.add_argument("--most", type=int, default=1, help="how many passages of one step are struck")
    parser.add_argument("--seed", type=int, default=1, help="of the order")
    parser.add_argument("--strike", type=Strike.parse, action="append", help="one world of a scenario with these")
    parser.add_argument("--daemons", action="store_true", help="only Dagster's daemon, killed during backfills")
    args = parser.parse_args()
    if args.strike and not args.scenario:
        parser.error("--strike needs the --scenario in which it is done")
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="batch-llm-kills-", dir=memory if memory.exists() else None) as folder:
        if args.daemons:
            return bool(kill_daemons(Path(folder)))
        if args.strike:
            return _one(Path(folder), args.scenario[0], args.strike, postgres=args.postgres)
        actions: Sequence[Action] = args.action or (("restart",) if args.postgres else ("kill", "stop"))
        agenda = Agenda(args.scenario or list(SCENARIOS), actions, args.most, args.match, args.seed)
        return _all(Path(folder), agenda, args)


def _all(folder: Path, agenda: Agenda, args: argparse.Namespace) -> int:
    def tell(result: Result) -> None:
        if result.violations:
            print(f"\n{story(result)}", flush=True)
        print(
            f"\r{len(agenda.results)} worlds, {len(agenda.targets)} strikes left ", end="", file=sys.stderr, flush=True
        )

    with workers(folder, args.processes, postgres=args.postgres) as playing:
        try:
            playing.work(agenda, time.monotonic() + args.minutes * 60.0, tell)
        finally:
            print(f"\n{table(agenda)}", flush=True)
    return any(result.violations for result in agenda.results)


def _one(folder: Path, scenario: str, strikes: Sequence[Strike], *, postgres: bool) -> int:
    with campaign(folder, postgres=postgres) as running:
        result = running.play(scenario, tuple(strikes))
    print(story(result))
    return bool(result.violations)


if __name__ == "__main__":
    sys.exit(main())
