"""What the ledger says beside its attempts: sends, links, answers files and incidents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NewType

from sqlalchemy import Row

AttemptId = NewType("AttemptId", str)


@dataclass(frozen=True)
class Send:
    """One permission to POST a create once; never changed. `there` is `t0` by the provider's clock, if it told."""

    token: str
    attempt: AttemptId
    n: int
    t0: float
    send_deadline: float
    file_id: str
    rows: int
    there: float | None = None


@dataclass(frozen=True)
class Link:
    """A provider's batch that is proven to carry one of our sends."""

    account: str
    batch_id: str
    attempt: AttemptId
    token: str
    extra: bool


@dataclass(frozen=True)
class AnswersFile:
    """An immutable answers file, what its rows came to, and how many were answered without a word about tokens."""

    file: str
    outcomes: Mapping[str, int]
    input_tokens: int
    output_tokens: int
    unmetered: int = 0

    @classmethod
    def of(cls, row: Row[Any]) -> AnswersFile:
        """A row of `schema.answers`."""
        return cls(row.file, json.loads(row.outcomes), row.input_tokens, row.output_tokens, row.unmetered)


@dataclass(frozen=True)
class Incident:
    """Something that a person should know, of a kind, about a plan, attempt or batch."""

    kind: str
    subject: str
    message: str
