"""How the server behaves where it could behave otherwise; the emulator does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .batch import Batch, Status, batch_object
from .intake import Checked, Row
from .wire import Answer


@dataclass(frozen=True)
class Written:
    """A row, its answer, and the line that goes to the results."""

    row: Row
    answer: Answer
    line: bytes


class Conduct:
    """As it should be."""

    def checked(self, batch: Batch, found: Checked) -> Checked:
        """What validation of its input is said to have found."""
        return found

    def holds(self, batch: Batch, now: float) -> bool:
        """Whether the batch stands still."""
        return False

    def cut_off(self, batch: Batch) -> tuple[Status, int] | None:
        """Expired or cancelled, after so many rows; None if it may go on to its end."""
        return None

    def lines(self, batch: Batch, written: Sequence[Written]) -> tuple[bytes, bytes]:
        """What is added to the output file and to the error file."""
        good = b"".join(one.line for one in written if one.answer.ok)
        return good, b"".join(one.line for one in written if not one.answer.ok)

    def asked(self, body: Mapping[str, object], answer: Answer) -> None:
        """A request was answered at once."""

    def shown(self, batch: Batch) -> Mapping[str, object]:
        """The batch as its callers see it."""
        return batch_object(batch)
