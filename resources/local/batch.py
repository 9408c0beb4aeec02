"""A batch: its states, its legal transitions and the object that goes over the wire."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from ..errors import ProtocolError


class Status(StrEnum):
    """OpenAI's eight states of a batch."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset({Status.FAILED, Status.IN_PROGRESS, Status.CANCELLING}),
    Status.IN_PROGRESS: frozenset({Status.FINALIZING, Status.EXPIRED, Status.CANCELLING}),
    Status.FINALIZING: frozenset({Status.COMPLETED}),
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    Status.FAILED: frozenset(),
    Status.COMPLETED: frozenset(),
    Status.EXPIRED: frozenset(),
    Status.CANCELLED: frozenset(),
}

TERMINAL = frozenset(status for status, following in TRANSITIONS.items() if not following)

_WINDOW = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Problem:
    """Why a batch was rejected, and in which line of its input."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


@dataclass(frozen=True)
class Progress:
    """How far the rows are; everything up to here is on disk, and nothing after it counts.

    Attributes:
        input_bytes: Position in the input file after the last finished row.
        output_bytes: Length of the output file that holds the finished rows.
        error_bytes: Length of the error file that holds them.
        completed: Rows answered.
        failed: Rows in the error file.
        prompt_tokens: Sum over the answered rows.
        completion_tokens: Sum over the answered rows.
    """

    input_bytes: int = 0
    output_bytes: int = 0
    error_bytes: int = 0
    completed: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Batch:
    """One batch as the store keeps it; times are Unix seconds.

    Attributes:
        model: The model that all its requests name.
        output_seconds: How long the result files are kept.
        total: Rows of the input.
        input_size: Bytes of the input.
        overdue: Its window passed before all rows were answered; the rest is being listed as expired.
        reached: When it entered each state.
    """

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: float
    expires_at: float
    status: Status = Status.VALIDATING
    metadata: dict[str, str] | None = None
    model: str | None = None
    output_seconds: int | None = None
    total: int = 0
    input_size: int = 0
    progress: Progress = Progress()
    problems: tuple[Problem, ...] = ()
    overdue: bool = False
    reached: dict[Status, float] | None = None

    @property
    def answered(self) -> bool:
        """Whether no row is left over."""
        return self.progress.input_bytes >= self.input_size

    @property
    def output_file_id(self) -> str:
        return self._result_id("output")

    @property
    def error_file_id(self) -> str:
        return self._result_id("error")

    def _result_id(self, part: str) -> str:
        # Made from the batch's id, so that finishing it a second time after a crash gives the same files.
        return "file-" + hashlib.sha256(f"{self.id}/{part}".encode()).hexdigest()[:24]


def move(batch: Batch, status: Status, now: float) -> Batch:
    """The batch in its next state.

    Raises:
        ProtocolError: There is no such transition.
    """
    if status not in TRANSITIONS[batch.status]:
        raise ProtocolError(f"Batch {batch.id} can't go from {batch.status} to {status}.")
    return replace(batch, status=status, reached={**(batch.reached or {}), status: now})


def parse_window(text: object) -> int | None:
    """Seconds of a completion window such as ``24h``, ``30m`` or ``5s``; None if it is not one."""
    match = _WINDOW.fullmatch(text) if isinstance(text, str) else None
    return int(match[1]) * _UNIT_SECONDS[match[2]] if match else None


def batch_object(batch: Batch) -> Mapping[str, object]:
    """The batch as ``GET /v1/batches/{id}`` shows it."""
    finished = batch.status in TERMINAL
    progress = batch.progress
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": _errors(batch),
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id if finished and progress.output_bytes else None,
        "error_file_id": batch.error_file_id if finished and progress.error_bytes else None,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.expires_at),
        **{f"{status.value}_at": _time(batch, status) for status in Status if status is not Status.VALIDATING},
        "request_counts": {"total": batch.total, "completed": progress.completed, "failed": progress.failed},
        "usage": _usage(progress) if finished else None,
        "metadata": batch.metadata,
    }


def _time(batch: Batch, status: Status) -> int | None:
    reached = (batch.reached or {}).get(status)
    return None if reached is None else int(reached)


def _errors(batch: Batch) -> Mapping[str, object] | None:
    if not batch.problems:
        return None
    data = [
        {"code": problem.code, "message": problem.message, "param": problem.param, "line": problem.line}
        for problem in batch.problems
    ]
    return {"object": "list", "data": data}


def _usage(progress: Progress) -> Mapping[str, object]:
    return {
        "input_tokens": progress.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": progress.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": progress.prompt_tokens + progress.completion_tokens,
    }
