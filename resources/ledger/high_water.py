"""How many sends a home has seen, noted beside its answers: a ledger that knows fewer was put back from a backup.

What such a ledger has forgotten is paid, and would be asked again. The note is made after a send's intent is committed
and before its create may leave, so it never runs ahead of the right ledger. Two senders at once may leave it one short
until the next send or opening.
"""

from __future__ import annotations

import os
from pathlib import Path

from sqlalchemy import Connection

from .statements import NUMBER_OF_SENDS

_DIGITS = 20


def note_path(home: Path) -> Path:
    """Where it is noted."""
    return home / "answers" / "SENDS"


def noted_sends(home: Path) -> int:
    """What was noted last; 0 if nothing was, or nothing that can be read."""
    path = note_path(home)
    return _number(path.read_bytes()) if path.is_file() else 0


def sends_in(connection: Connection) -> int:
    """How many sends a ledger knows; none is ever deleted."""
    return connection.execute(NUMBER_OF_SENDS).scalar_one()


def note_sends(home: Path, count: int) -> None:
    """Note the number of sends, durably, unless more are noted already."""
    # In place and of one length, so that it needs no space on a full disk once it is there.
    descriptor = os.open(note_path(home), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if count > _number(os.pread(descriptor, _DIGITS, 0)):
            os.pwrite(descriptor, f"{count:0{_DIGITS}}\n".encode(), 0)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def older(name: str, noted: int, known: int) -> str:
    """What to say of a ledger that knows fewer sends than were made from its home."""
    return (
        f"The ledger {name} knows {known} of at least {noted} request files that were sent with it: it was put back "
        "from an older backup. What it has forgotten is paid, and would be asked and paid again. Put the newest ledger "
        "back. If there is none, `dagster-batch-llm doctor --module` names the batches at the provider that are "
        "forgotten; delete answers/SENDS in BATCH_LLM_HOME to go on all the same."
    )


def _number(text: bytes) -> int:
    return int(text) if text.strip().isdigit() else 0
