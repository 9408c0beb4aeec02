"""Runs of an asset: the package's own loop (assets/convergence.py), with no Dagster around it."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from dagster_batch_llm.assets.convergence import Convergence, Events
from dagster_batch_llm.assets.run import RunFacts, Waiting
from dagster_batch_llm.resources.ledger import Ledger, Plan, PlanState
from dagster_batch_llm.resources.machine import BatchMachine

from .hub import Hub


@dataclass
class _Run(Convergence):
    """Waits for a few rounds, as a keeper does that is relieved, and writes no table."""

    rounds: int = 1

    def _how_to_wait(self) -> Waiting:
        self._keeps = True
        return Waiting.KEEP

    def _handed_over(self) -> bool:
        self.rounds -= 1
        return self.rounds <= 0

    def _stay_for_backfill(self) -> None:
        pass

    def _announce(self, waiting: Waiting) -> None:
        pass

    def _write(self) -> Events:
        self._ledger.plans.close(self._plan.id, PlanState.DONE)
        yield from ()


def a_run(hub: Hub, ledger: Ledger, machine: BatchMachine, plan: Plan, run: str) -> Convergence:
    """A run that works on one plan; what it logs is in the trace."""
    context: Any = SimpleNamespace(log=SimpleNamespace(info=hub.say, warning=hub.say))
    facts = RunFacts(run, run, (plan.id,), "here", None, (), (), {})
    tables: Any = None
    return _Run(context, ledger, machine, tables, facts, plan, rounds=hub.dice.choice((1, 1, 3)))
