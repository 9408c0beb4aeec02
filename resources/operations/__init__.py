"""What a person does by hand: ending plans, asking again, removing what is old, examining and repairing."""

from __future__ import annotations

from .accounts import compare
from .advice import ADVICE, advice
from .asking_again import GivenUp, ask_again, given_up
from .ending import Cost, cancel, cost_of, plans_named
from .examination import Finding, Level, examine
from .repair import Repair, repair
from .retention import Kind, Leftover, forget, leftovers
from .waits import why_it_waits

__all__ = [
    "ADVICE",
    "Cost",
    "Finding",
    "GivenUp",
    "Kind",
    "Leftover",
    "Level",
    "Repair",
    "advice",
    "ask_again",
    "cancel",
    "compare",
    "cost_of",
    "examine",
    "forget",
    "given_up",
    "leftovers",
    "plans_named",
    "repair",
    "why_it_waits",
]
