"""For tests of your own pipelines: a provider on this machine that goes wrong as told, and keeps the bill.

It needs the extra ``local``, and neither weights nor a key. The fixture is in `fixtures`.
"""

from __future__ import annotations

from ..local.emulator import KNOWN, Fault, Faults
from .bill import Bill, Paid
from .emulator import Emulator

__all__ = ["KNOWN", "Bill", "Emulator", "Fault", "Faults", "Paid"]
