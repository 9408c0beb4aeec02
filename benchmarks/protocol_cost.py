"""What the protocol costs: ledger transactions and HTTP calls per batch, and a tick's look at many open batches.

    .venv/bin/python -m benchmarks.protocol_cost

The provider is the tests' fake one, in this process, so only our own work is timed.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from dagster_batch_llm.resources.ledger import AttemptState
from dagster_batch_llm.resources.ledger.connect import Database
from sqlalchemy import Connection

from tests.resources.world import World

OPEN = 1000


@contextmanager
def counted(counts: Counter[str]) -> Generator[None]:
    """Count the ledger's transactions."""
    kept = {"read": Database.read, "write": Database.write}

    def counting(name: str) -> Callable[[Database], AbstractContextManager[Connection]]:
        @contextmanager
        def transaction(database: Database) -> Generator[Connection]:
            counts[name] += 1
            with kept[name](database) as connection:
                yield connection

        return transaction

    with ExitStack() as stack:
        for name in kept:
            stack.enter_context(mock.patch.object(Database, name, counting(name)))
        yield


def one_batch(folder: Path) -> None:
    """From planned to answered, undisturbed: one look at it, then it is collected."""
    world = World(folder)
    attempt = world.ask()
    counts = Counter[str]()
    began = time.perf_counter()
    with counted(counts):
        machine = world.machine()
        machine.step(world.now(attempt))
        world.clock.sleep(120.0)
        machine.poll("llm")
        machine.step(world.now(attempt))
    seconds = time.perf_counter() - began
    assert world.state(attempt) is AttemptState.ANSWERED
    calls = Counter(what.split("/v1/")[0] + what.split("/v1/")[1].split("/")[0] for what in world.server.seen)
    print(f"one batch: {counts['write']} ledger writes, {counts['read']} reads, {sum(calls.values())} HTTP calls")
    print(f"  {dict(calls)}, {1000 * seconds:.0f} ms of ours")


def many_open(folder: Path) -> None:
    """What the sensor does at a provider with many open batches that are all due."""
    world = World(folder)
    machine = world.machine()
    for number in range(OPEN):
        machine.send(world.ask(("one",), name=f"plan{number}").id)
    world.server.seconds = 1e9
    for job in world.server.batches.values():
        job["_ready"] = 1e12
    world.clock.sleep(400.0)
    world.server.seen.clear()
    counts = Counter[str]()
    began = time.perf_counter()
    with counted(counts):
        seen = machine.poll("llm")
    seconds = time.perf_counter() - began
    assert len(seen) == OPEN
    calls = Counter("a page of the listing" if what == "GET /v1/batches" else what for what in world.server.seen)
    print(f"a look at {OPEN} open batches: {seconds:.1f} s, {counts['write']} ledger writes, {counts['read']} reads")
    print(f"  {dict(calls)}")


def main() -> None:
    """Both, in folders that are removed."""
    with tempfile.TemporaryDirectory() as folder:
        one_batch(Path(folder) / "one")
        many_open(Path(folder) / "many")


if __name__ == "__main__":
    main()
