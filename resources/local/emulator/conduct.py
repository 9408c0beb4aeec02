"""How the emulator works batches off and shows them: by the script, with every answered row on the bill."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..batch import Batch, Status, batch_object
from ..conduct import Conduct, Written
from ..intake import Checked
from ..wire import Answer
from .batches import BATCH_FAULTS, BatchFault, after_the_end
from .fault import Fault
from .memory import Billed, Memory, prompt_of, request_hash
from .rows import ROW_FAULTS, Line


class EmulatedConduct(Conduct):
    """Asks the script at each step."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def checked(self, batch: Batch, found: Checked) -> Checked:
        problems = tuple(fault.problem for _, fault in self._faults(batch) if fault.problem)
        return replace(found, problems=found.problems + problems)

    def holds(self, batch: Batch, now: float) -> bool:
        return any(
            fault.holds and (rule.seconds is None or now < batch.created_at + rule.seconds)
            for rule, fault in self._faults(batch)
        )

    def cut_off(self, batch: Batch) -> tuple[Status, int] | None:
        for rule, fault in self._faults(batch):
            if fault.ends is not None:
                return fault.ends, int(batch.total * rule.part)
        return None

    def lines(self, batch: Batch, written: Sequence[Written]) -> tuple[bytes, bytes]:
        billed = [Billed(one.row.custom_id, request_hash(one.row.body), prompt_of(one.row.body)) for one in written]
        # What was answered is paid, whatever becomes of the answer.
        answered = [row for row, one in zip(billed, written, strict=True) if one.answer.ok]
        self._memory.pay(batch.id, answered)
        good, bad = bytearray(), bytearray()
        for row, one in zip(billed, written, strict=True):
            rule = self._memory.of_row(batch.id, row) if one.answer.ok else None
            line = Line(one.line, failed=not one.answer.ok)
            for struck in ROW_FAULTS[rule.name](rule, line) if rule else [line]:
                (bad if struck.failed else good).extend(struck.content)
        return bytes(good), bytes(bad)

    def asked(self, body: Mapping[str, object], answer: Answer) -> None:
        if answer.ok:
            name = f"asked_{secrets.token_hex(8)}"
            self._memory.pay(name, [Billed(name, request_hash(body), prompt_of(body))])

    def shown(self, batch: Batch) -> Mapping[str, object]:
        shown: dict[str, Any] = dict(batch_object(batch))
        shows = [(rule, fault.show) for rule, fault in self._faults(batch) if fault.show]
        shows = [(rule, show) for rule, show in shows if not after_the_end(show, shown)]
        if shows:
            looks = self._memory.looks(batch.id)
            for rule, show in shows:
                shown = show(rule, shown, looks)
        return shown

    def _faults(self, batch: Batch) -> list[tuple[Fault, BatchFault]]:
        return [(rule, BATCH_FAULTS[rule.name]) for rule in self._memory.of_batch(batch.id)]
