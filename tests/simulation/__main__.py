"""``python -m tests.simulation``: many seeds, or one with its trace.

python -m tests.simulation --seeds 20000
python -m tests.simulation --seed 17 --mode edge --kind revoke
python -m tests.simulation --mutations
"""

from __future__ import annotations

import argparse
import sys
import time

from .campaign import Total, campaign, replayed
from .faults import KINDS, MODES, Setting
from .mutations import hunt
from .report import failure, lines_of

_SHOWN = 3


def _one(setting: Setting) -> int:
    result = replayed(setting)
    print("\n".join(result.trace))
    print(setting)
    print("\n".join(result.violations) or "no violation")
    return bool(result.violations)


def _many(settings: list[Setting], processes: int) -> int:
    began, told = time.monotonic(), [0]

    def tell(total: Total) -> None:
        seconds = time.monotonic() - began
        text = f"\r{total.seeds} of {len(settings)} seeds, {total.seeds / seconds:.1f} per second, "
        print(text + f"{len(total.failed)} violations", end="", file=sys.stderr, flush=True)
        for setting, violations in total.failed[told[0] :]:
            print(f"\nseed {setting.seed} {setting.mode} {setting.kind}: {violations}", file=sys.stderr, flush=True)
        told[0] = len(total.failed)

    total = campaign(settings, processes, tell)
    print(file=sys.stderr)
    for setting, violations in sorted(total.failed, key=lambda pair: pair[0].seed)[:_SHOWN]:
        print("\n".join(failure(setting, violations)))
    print("\n".join(lines_of(total, time.monotonic() - began)))
    if total.failed:
        print("broken seeds:", sorted(setting.seed for setting, _ in total.failed))
    return bool(total.failed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="replay this one and print its trace")
    parser.add_argument("--seeds", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--mode", choices=MODES, help="timing; by default the seed's own")
    parser.add_argument("--kind", choices=KINDS, help="how a lost create is given up; by default the seed's own")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--mutations", nargs="?", const="", help="remove rules one by one; or only this one")
    parser.add_argument("--most", type=int, default=150, help="seeds per mutation")
    args = parser.parse_args()
    if args.mutations is not None:
        return hunt(args.mutations, args.most, args.processes)
    if args.seed is not None:
        return _one(Setting.of(args.seed, args.mode, args.kind))
    seeds = range(args.first, args.first + args.seeds)
    return _many([Setting.of(seed, args.mode, args.kind) for seed in seeds], args.processes)


if __name__ == "__main__":
    sys.exit(main())
