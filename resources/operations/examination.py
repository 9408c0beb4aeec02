"""Whether ledger and files agree: what is wrong, with what, and what to do. Nothing is changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

from ..clock import Clock
from ..errors import StorageError
from ..home import Home
from ..ledger import OPEN_ATTEMPTS, AttemptState, Ledger, PlanState, schema
from .retention import leftovers
from .soundness import problem_of, problem_of_answers, problem_of_manifest

_FREE_BYTES = 1_000_000_000
_UNSENT = frozenset({AttemptState.PLANNED, AttemptState.CREATING, AttemptState.AMBIGUOUS})


class Level(StrEnum):
    """How bad it is."""

    ERROR = "error"
    """Something that was paid may be lost, or tables can't go on."""
    WARNING = "warning"
    """Nothing is lost, but somebody should do something."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Finding:
    """Something that isn't as it should be.

    Attributes:
        level: How bad it is.
        subject: A file, plan, batch or folder.
        wrong: What is wrong with it.
        advice: What to do.
        repairable: Whether `repair` may mend it.
    """

    level: Level
    subject: str
    wrong: str
    advice: str
    repairable: bool = False


def examine(home: Path, clock: Clock | None = None) -> list[Finding]:
    """Examine a home folder: its disk, its ledger, and every file that the ledger needs; providers aren't asked.

    Args:
        home: Where ``ledger.sqlite3`` lies.
        clock: Where time comes from.
    """
    found: list[Finding] = []
    try:
        found += [*_disk(home), *_locks(home)]
        ledger = Ledger(home, clock, read_only=True)
        return [
            *found, *_marker(ledger), *_older(ledger), *_answers(ledger), *_attempts(ledger), *_plans(ledger),
            *_unnamed(ledger), *_raw(ledger),
        ]  # fmt: skip
    except StorageError as error:
        return [*found, Finding(Level.ERROR, "ledger", "can't be used", error.message)]
    except OSError as error:
        advice = "Give this user the right to read and write there."
        return [*found, Finding(Level.ERROR, str(home), f"can't be examined ({error})", advice)]


def _disk(home: Path) -> Iterator[Finding]:
    if not home.is_dir():
        return
    for folder in (home, *(home / name for name in ("answers", "plans", "manifests", "results", "sends", "realtime"))):
        if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK):
            yield Finding(Level.ERROR, str(folder), "can't be written", "Give this user the right to write there.")
    free = shutil.disk_usage(home).free
    if free < _FREE_BYTES:
        said = f"has {free / 1e6:,.0f} MB left on its disk"
        yield Finding(Level.WARNING, str(home), said, "Free some space; dagster-batch-llm forget may help.")


def _locks(home: Path) -> Iterator[Finding]:
    for name, what in (("ledger.lock", "opens the ledger"), ("upkeep.lock", "deletes or repairs files")):
        path = home / name
        if not path.is_file() or not os.access(path, os.W_OK):
            continue
        try:
            with FileLock(path, timeout=0):
                pass
        except Timeout:
            yield Finding(
                Level.NOTE, name, f"is held: a process {what} at the moment", "Look again; it should be free soon."
            )


def _marker(ledger: Ledger) -> Iterator[Finding]:
    marker = ledger.home / "answers" / "LEDGER"
    said = marker.read_text(errors="replace").strip() if marker.is_file() else ""
    if said and said != ledger.id:
        yield Finding(
            Level.ERROR,
            str(marker),
            f"says that the answers belong to ledger {said}, but this is {ledger.id}",
            "Put the ledger and the answers back that belong together, from one backup. Until then nothing is asked.",
        )
    elif not said:
        advice = "The next run, or --repair, writes it again."
        yield Finding(Level.WARNING, str(marker), "doesn't say which ledger the answers belong to", advice, True)


def _older(ledger: Ledger) -> Iterator[Finding]:
    wrong = ledger.upkeep.forgotten_sends()
    if wrong is not None:
        yield Finding(Level.ERROR, "ledger", "is older than what was asked", wrong)


def _answers(ledger: Ledger) -> Iterator[Finding]:
    home = Home(ledger.home)
    for attempt, file in ledger.upkeep.answers_files():
        wrong = problem_of_answers(home.answers(file.file), file.outcomes)
        if wrong is not None:
            raw = any(home.all_results(attempt).rglob("*")) if home.all_results(attempt).is_dir() else False
            advice = (
                "doctor --repair rebuilds it from the provider's result files; nothing is paid."
                if raw
                else "Put it back from a backup; the provider's result files aren't here any more. Its tables stop "
                "until then, because their requests are paid."
            )
            yield Finding(Level.ERROR, f"answers/{file.file}", wrong, advice, repairable=True)


def _attempts(ledger: Ledger) -> Iterator[Finding]:
    home = Home(ledger.home)
    for attempt in ledger.attempts.find(schema.attempt.c.state.in_(OPEN_ATTEMPTS)):
        name = f"manifests/{attempt.manifest}"
        wrong = problem_of_manifest(home.manifest(attempt.manifest), attempt.rows)
        if wrong is not None:
            advice = f"Put it back from a backup: it says which requests {attempt.batch_id or attempt.id} holds."
            yield Finding(Level.ERROR, name, wrong, advice)
        requests = home.requests(attempt.plan)
        if attempt.state in _UNSENT and (wrong := problem_of(requests)) is not None:
            advice = f"Put it back from a backup, or give the plan up: dagster-batch-llm cancel {attempt.plan}."
            yield Finding(Level.ERROR, f"plans/{attempt.plan}/{requests.name}", wrong, advice)
        if attempt.state is AttemptState.PLANNED and not ledger.upkeep.is_wanted(attempt.id):
            wrong = f"holds {attempt.rows} unsent requests for which no plan waits any more"
            advice = "They won't be sent; --repair ends them, and so does the next run or tick."
            yield Finding(Level.WARNING, f"attempt {attempt.id}", wrong, advice, repairable=True)


def _plans(ledger: Ledger) -> Iterator[Finding]:
    home = Home(ledger.home)
    for plan in ledger.plans.find(schema.plan.c.state == PlanState.OPEN):
        for path in (home.rows(plan.id), home.requests(plan.id)):
            wrong = problem_of(path)
            if wrong is not None:
                advice = (
                    f"Put it back from a backup, or end the plan (dagster-batch-llm cancel {plan.id}) and materialize "
                    f"{plan.asset} again; what is answered isn't asked again."
                )
                yield Finding(Level.ERROR, f"plans/{plan.id}/{path.name}", wrong, advice)


def _unnamed(ledger: Ledger) -> Iterator[Finding]:
    orphans = leftovers(ledger, 0.0, orphans_only=True)
    if orphans:
        size = sum(one.bytes for one in orphans) / 1e6
        wrong = f"has {len(orphans)} file(s) or folders that killed processes left, {size:,.1f} MB"
        yield Finding(Level.NOTE, str(ledger.home), wrong, "dagster-batch-llm forget deletes them.")
    answers = ledger.home / "answers"
    named = {file.file for _, file in ledger.upkeep.answers_files()}
    unnamed = [path for path in answers.rglob("*.parquet") if str(path.relative_to(answers)) not in named]
    if unnamed:
        wrong = f"has {len(unnamed)} file(s) that the ledger doesn't name"
        yield Finding(Level.NOTE, str(answers), wrong, "Killed or repaired collects left them. They are never read.")


def _raw(ledger: Ledger) -> Iterator[Finding]:
    home, files = Home(ledger.home), ledger.upkeep.answers_files()
    without = sum(not home.all_results(attempt).is_dir() for attempt, _ in files)
    if without:
        wrong = (
            f"{without} of {len(files)} answers files can't be rebuilt, because the provider's result files are gone"
        )
        yield Finding(Level.NOTE, str(home.folder / "results"), wrong, "Back up the folder answers.")
