"""What can go wrong with a batch: how it is worked off, or how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..batch import TERMINAL, Problem, Status
from .fault import Fault

Shown = dict[str, Any]
Show = Callable[[Fault, Shown, int], Shown]
"""(fault, the batch object as it is, how often it was shown before) → what is shown."""

_ENDED = frozenset(status.value for status in TERMINAL)
_FILES = ("output_file_id", "error_file_id")


@dataclass(frozen=True)
class BatchFault:
    """A fault of a batch; each has one of these ways to act.

    Attributes:
        says: What it does, in a sentence.
        problem: Why it fails validation after its creation.
        ends: The state in which it ends after a part of its rows.
        holds: Whether it stands still.
        show: How it is shown otherwise than it is.
    """

    says: str
    problem: Problem | None = None
    ends: Status | None = None
    holds: bool = False
    show: Show | None = None


def _unknown_status(fault: Fault, shown: Shown, looks: int) -> Shown:
    return {**shown, "status": "paused_for_review"} if looks < fault.looks else shown


def _backwards(fault: Fault, shown: Shown, looks: int) -> Shown:
    passing = {**shown, **dict.fromkeys(_FILES), "status": "finalizing" if looks % 2 == 0 else "validating"}
    return passing if looks < fault.looks else shown


def _lying_counts(fault: Fault, shown: Shown, looks: int) -> Shown:
    total = shown["request_counts"]["total"]
    return {**shown, "request_counts": {"total": total + 5, "completed": total + 7, "failed": 0}}


def _zero_counts(fault: Fault, shown: Shown, looks: int) -> Shown:
    return {**shown, "request_counts": {"total": 0, "completed": 0, "failed": 0}}


def _late_files(fault: Fault, shown: Shown, looks: int) -> Shown:
    return {**shown, **dict.fromkeys(_FILES)} if looks < fault.looks else shown


def _no_output_file(fault: Fault, shown: Shown, looks: int) -> Shown:
    return {**shown, "output_file_id": None}


def _failed_with_output(fault: Fault, shown: Shown, looks: int) -> Shown:
    return {**shown, "status": "failed"} if shown["status"] == "completed" else shown


def _sparse(fault: Fault, shown: Shown, looks: int) -> Shown:
    kept = ("id", "object", "status", "input_file_id", *_FILES)
    return {name: shown[name] for name in kept}


def _no_metadata(fault: Fault, shown: Shown, looks: int) -> Shown:
    return {**shown, "metadata": None}


def after_the_end(show: Show, shown: Shown) -> bool:
    """Whether a way of showing only concerns batches that have ended, and this one hasn't yet."""
    return show in (_late_files, _no_output_file, _backwards) and shown["status"] not in _ENDED


def _problem(code: str, message: str, line: int | None = None) -> Problem:
    return Problem(code, message, line)


BATCH_FAULTS: Mapping[str, BatchFault] = {
    "bad_line": BatchFault(
        "It fails validation after its creation: its first line is no JSON.",
        problem=_problem("invalid_json_line", "This line is not parseable as valid JSON.", 1),
    ),
    "mixed_models": BatchFault(
        "It fails validation after its creation: its lines name different models.",
        problem=_problem("mismatched_model", "All requests of a batch have to name the same model.", 2),
    ),
    "duplicate_ids": BatchFault(
        "It fails validation after its creation: a custom_id occurs twice.",
        problem=_problem("duplicate_custom_id", "The custom_id was used by an earlier line.", 2),
    ),
    "queue_full": BatchFault(
        "It fails validation after its creation with token_limit_exceeded: too much is enqueued at the moment.",
        problem=_problem("token_limit_exceeded", "Enqueued token limit reached."),
    ),
    "expires": BatchFault("It expires after half (or `part`) of its rows.", ends=Status.EXPIRED),
    "cancelled": BatchFault("The provider cancels it after half (or `part`) of its rows.", ends=Status.CANCELLED),
    "stuck": BatchFault(
        "It stays in progress, past its window too, for `seconds` after its creation or for ever.", holds=True
    ),
    "unknown_status": BatchFault("Its first `looks` looks show a status that nobody knows.", show=_unknown_status),
    "backwards": BatchFault(
        "It has ended, but for `looks` looks its status goes back and forth instead.", show=_backwards
    ),
    "lying_counts": BatchFault("Its counts don't add up and name no failed rows.", show=_lying_counts),
    "zero_counts": BatchFault("Its counts are 0, whatever is in its files.", show=_zero_counts),
    "late_files": BatchFault("It has ended, but for `looks` looks names no files.", show=_late_files),
    "no_output_file": BatchFault("It has ended, but never names its output file.", show=_no_output_file),
    "failed_with_output": BatchFault(
        "Its status is failed, without a reason, with all its files.", show=_failed_with_output
    ),
    "sparse": BatchFault("It is shown without times, counts, metadata and errors.", show=_sparse),
    "no_metadata": BatchFault("Its metadata isn't given back.", show=_no_metadata),
}
"""Name → what it does."""
