"""Retention: what is old, or was left by killed runs, is deleted; answers never are.

Whatever is deleted here can no longer become anybody's: plans and attempts that have ended stay ended; before a
manifest without an attempt is deleted, the looks that could still adopt it have to start over, and the ledger refuses a
plan whose files are gone. Deleting is done in an order in which it can be cut off anywhere and repeated.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import StorageError
from ..home import Home
from ..ledger import OPEN_ATTEMPTS, AnswersFile, AttemptId, Ledger, PlanState, schema
from .soundness import problem_of_answers

KILLED_SECONDS = 24 * 3600.0
"""A file that nobody has touched for so long, and that the ledger doesn't know, was left by a killed process."""

_ID = re.compile(r"[0-9a-f]{16,64}")


class Kind(StrEnum):
    """What can be removed."""

    PLAN = "rows and requests of ended plans"
    RESULTS = "result files as the provider sent them"
    KILLED_PLAN = "plans that a killed run never recorded"
    MANIFEST = "manifests that no batch has"
    SEND = "request files of killed runs"
    PART = "half-written files"


@dataclass(frozen=True)
class Leftover:
    """A file or folder that nothing needs any more, and its size."""

    kind: Kind
    path: Path
    bytes: int


def leftovers(ledger: Ledger, older_than: float, *, orphans_only: bool = False) -> list[Leftover]:
    """What `forget` would delete now; nothing is changed.

    Args:
        ledger: May be read-only.
        older_than: Seconds since a plan or batch ended.
        orphans_only: Leave out what is only old.
    """
    home, now = Home(ledger.home), ledger.clock.now()
    found = [] if orphans_only else [*_old_plans(ledger, home, now - older_than)]
    found += [] if orphans_only else [*_old_results(ledger, home, now - older_than)]
    plans = {plan.id for plan in ledger.plans.find()}
    manifests = {attempt.manifest for attempt in ledger.attempts.find()}
    killed = now - KILLED_SECONDS
    for path in _entries(home.folder / "plans", killed):
        if path.is_dir() and _ID.fullmatch(path.name) and path.name not in plans:
            found.append(_leftover(Kind.KILLED_PLAN, path))
    for path in _entries(home.folder / "manifests", killed):
        if path.suffix == ".parquet" and _ID.fullmatch(path.stem) and path.name not in manifests:
            found.append(_leftover(Kind.MANIFEST, path))
    for path in _entries(home.folder / "sends", killed):
        if path.suffix == ".jsonl" and _ID.fullmatch(path.stem):
            found.append(_leftover(Kind.SEND, path))
    return found + list(_parts(home, killed, {one.path for one in found}))


def forget(ledger: Ledger, older_than: float) -> list[Leftover]:
    """Delete what `leftovers` finds; gives what was deleted.

    Raises:
        StorageError: Another one is at it, or a file can't be deleted; what is left is found again the next time.
    """
    with alone(ledger.home):
        listed = leftovers(ledger, older_than)
        if any(one.kind is Kind.MANIFEST for one in listed):
            ledger.upkeep.move_fences()  # a look that wrote one of them can't insert it now
        manifests = {attempt.manifest for attempt in ledger.attempts.find()}
        killed = ledger.upkeep.bury([one.path.name for one in listed if one.kind is Kind.KILLED_PLAN])
        done: list[Leftover] = []
        for one in listed:
            taken = one.kind is Kind.MANIFEST and one.path.name in manifests
            if taken or (one.kind is Kind.KILLED_PLAN and one.path.name not in killed):
                continue  # its run had only been slow, and has recorded it meanwhile
            try:
                _delete(one.path)
            except OSError as error:
                raise StorageError(
                    f"{one.path} can't be deleted ({error}). Give this process the right to delete there and run it "
                    "again; what was deleted before wasn't needed any more."
                ) from error
            done.append(one)
        return done


@contextmanager
def alone(home: Path) -> Generator[None]:
    """Only one process deletes or repairs at a time."""
    try:
        with FileLock(home / "upkeep.lock", timeout=0):
            yield
    except Timeout as error:
        raise StorageError(
            f"Another process deletes or repairs files in {home} at the moment. Nothing was done; try it again later."
        ) from error


def _old_plans(ledger: Ledger, home: Home, before: float) -> Iterator[Leftover]:
    # An open attempt is rendered from the files of the plan that asked first, though that may have ended.
    needed = {attempt.plan for attempt in ledger.attempts.find(schema.attempt.c.state.in_(OPEN_ATTEMPTS))}
    p = schema.plan.c
    for plan in ledger.plans.find(p.state != PlanState.OPEN, p.closed_at < before):
        folder = home.rows(plan.id).parent
        if plan.id not in needed and folder.is_dir() and not folder.is_symlink():
            yield _leftover(Kind.PLAN, folder)


def _old_results(ledger: Ledger, home: Home, before: float) -> Iterator[Leftover]:
    files: dict[AttemptId, list[AnswersFile]] = {}
    for attempt, file in ledger.upkeep.answers_files():
        files.setdefault(attempt, []).append(file)
    a = schema.attempt.c
    for attempt in ledger.attempts.find(a.state.not_in(OPEN_ATTEMPTS), a.closed_at < before):
        folder = home.all_results(attempt.id)
        if not folder.is_dir() or folder.is_symlink():
            continue
        # They are what a lost answers file is rebuilt from.
        kept = files.get(attempt.id, [])
        if all(problem_of_answers(home.answers(file.file), file.outcomes) is None for file in kept):
            yield _leftover(Kind.RESULTS, folder)


def _parts(home: Home, before: float, without: set[Path]) -> Iterator[Leftover]:
    for name in ("plans", "manifests", "sends", "results", "answers"):
        folder = home.folder / name
        for path in sorted(folder.rglob("*.part")) if folder.is_dir() else ():
            ours = path.is_file() and not path.is_symlink() and without.isdisjoint(path.parents)
            if ours and path.lstat().st_mtime < before:
                yield _leftover(Kind.PART, path)


def _entries(folder: Path, before: float) -> Iterator[Path]:
    """What lies in a folder since then; links are somebody else's."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        with suppress(FileNotFoundError):
            newest = max(one.lstat().st_mtime for one in (path, *_below(path)))
            if not path.is_symlink() and newest < before:
                yield path


def _below(path: Path) -> list[Path]:
    return [] if path.is_symlink() or not path.is_dir() else sorted(path.rglob("*"))


def _leftover(kind: Kind, path: Path) -> Leftover:
    sizes = [one.lstat() for one in (path, *_below(path)) if one.is_symlink() or not one.is_dir()]
    return Leftover(kind, path, sum(size.st_size for size in sizes))


def _delete(path: Path) -> None:
    """Delete a file, or a folder with what is in it; a link is deleted, not followed."""
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            _delete(child)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
