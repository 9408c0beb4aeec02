"""Processes that play worlds side by side, each with a folder, a Dagster instance and a provider of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import cast

from .agenda import Agenda
from .campaign import Result, campaign


def _work(pipe: Connection, folder: Path, *, postgres: bool) -> None:
    with campaign(folder, postgres=postgres) as running:
        for scenario, strikes in iter(pipe.recv, None):
            pipe.send(running.play(scenario, strikes))


@dataclass(frozen=True)
class Workers:
    """A pipe to each."""

    pipes: list[Connection]

    def work(self, agenda: Agenda, until: float, tell: Callable[[Result], None]) -> None:
        """Play what is on the agenda until nothing is, or until a moment of the monotonic clock.

        Raises:
            EOFError: A worker has died.
        """
        idle, busy = list(self.pipes), list[Connection]()
        while True:
            while idle and time.monotonic() < until and (world := agenda.next()) is not None:
                busy.append(idle.pop())
                busy[-1].send(world)
            if not busy:
                return
            for pipe in cast("list[Connection]", wait(busy)):
                result: Result = pipe.recv()
                busy.remove(pipe)
                idle.append(pipe)
                agenda.note(result)
                tell(result)


@contextlib.contextmanager
def workers(folder: Path, number: int, *, postgres: bool) -> Generator[Workers]:
    """Start and end them."""
    context = multiprocessing.get_context("spawn")  # a fork would have our threads' locks
    pipes, processes = list[Connection](), list[SpawnProcess]()
    for n in range(number):
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, folder / str(n)), kwargs={"postgres": postgres})
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        yield Workers(pipes)
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            with contextlib.suppress(BrokenPipeError):
                pipe.send(None)
            process.join()
