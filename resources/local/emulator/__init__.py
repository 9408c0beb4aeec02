"""The local server as an emulator of a provider with faults, which keeps the bill."""

from __future__ import annotations

from .fault import Fault
from .faults import KNOWN, Faults

__all__ = ["KNOWN", "Fault", "Faults"]
