"""Repairing without paying: a lost answers file is rebuilt from the result files as the provider sent them.

A rebuilt file counts only if its outcomes are those that the ledger has for the lost one. Anything else would turn
answers that are paid into rows that failed, which are asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from ..answers import Absent, parse_attempt
from ..duck import make_durable
from ..errors import ProviderError
from ..file_names import digest
from ..home import Home
from ..late import late_name
from ..ledger import AnswersFile, Attempt, Ledger, PlanId, PlanState, schema
from ..providers.protocol import BatchProvider
from ..sides import Sides
from .retention import alone
from .soundness import problem_of_answers, problem_of_manifest

_ABSENT: Sequence[Absent] = ("missing", "expired", "gone")


@dataclass(frozen=True)
class Repair:
    """What became of one thing that was wrong.

    Attributes:
        subject: A file or a plan.
        done: Whether it is mended.
        said: How, or what is lost and what can still be done.
    """

    subject: str
    done: bool
    said: str


def repair(ledger: Ledger, providers: Mapping[str, BatchProvider] | None = None) -> list[Repair]:
    """Mend what can be mended; nothing is asked or paid, and what is lost is named.

    Args:
        ledger: Writable; opening it has written the answers' marker again.
        providers: By resource key; result files that are gone here are fetched from them again, if they have them.

    Raises:
        StorageError: Another process deletes or repairs at the moment.
    """
    with alone(ledger.home):
        return [*_ended(ledger), *_rebuilt(ledger, providers or {})]


def _ended(ledger: Ledger) -> list[Repair]:
    ended = ledger.plans.find(schema.plan.c.state != PlanState.OPEN, ledger.plans.unfinished())
    given_up = {plan.id: ledger.attempts.void_unsent(plan.id) for plan in ended}
    said = "unsent requests, which nobody wants any more, were given up"
    return [Repair(f"plan {plan}", True, f"{count} {said}") for plan, count in given_up.items() if count]


def _rebuilt(ledger: Ledger, providers: Mapping[str, BatchProvider]) -> list[Repair]:
    home, sides = Home(ledger.home), Sides(providers, ledger.home)
    done: list[Repair] = []
    for name, file in ledger.upkeep.answers_files():
        if problem_of_answers(home.answers(file.file), file.outcomes) is not None:
            attempt = ledger.attempts.get(name)
            provider = sides.of(attempt) if sides.know(attempt) else None
            done.append(_rebuild(ledger, home, attempt, file, provider))
    return done


def _rebuild(ledger: Ledger, home: Home, attempt: Attempt, file: AnswersFile, provider: BatchProvider | None) -> Repair:
    subject = f"answers/{file.file}"
    if problem_of_manifest(home.manifest(attempt.manifest), attempt.rows) is not None:
        wrong = f"manifests/{attempt.manifest} can't be read, so nobody knows whose answers they were"
        return Repair(subject, False, f"{_lost(ledger, attempt, file)}: {wrong}. Put both back from a backup.")
    raw = _raw_of(ledger, home, attempt, file)
    if _put_back(ledger, home, attempt, file, raw.results(), late=raw.late):
        return Repair(subject, True, "rebuilt from the provider's result files; nothing was paid")
    why = "the provider's result files are not here, or not whole"
    if provider is not None:
        try:
            fetched = _fetched(raw, provider, ledger.clock.token())
            if _put_back(ledger, home, attempt, file, fetched, late=raw.late):
                return Repair(subject, True, "rebuilt from result files that were fetched again; nothing was paid")
            why = "what the provider still has doesn't add up with what was answered"
        except ProviderError as error:
            why = error.message
    return Repair(
        subject,
        False,
        f"{_lost(ledger, attempt, file)}: {why}. Put the file back from a backup, or get the result files of the batch "
        f"from the provider into {raw.folder}, and repair again. Until then its tables stop, so nothing is paid twice.",
    )


@dataclass(frozen=True)
class _Raw:
    """Where the result files of one answers file are, and of which batches they are."""

    folder: Path
    batches: tuple[str, ...]
    late: bool

    def results(self) -> list[Path]:
        """Those of late arrivals are in folders of their own and belong to other answers files."""
        found = sorted(self.folder.rglob("*"))
        return [p for p in found if _is_result(p) and not p.relative_to(self.folder).parts[0].startswith("late-")]


def _raw_of(ledger: Ledger, home: Home, attempt: Attempt, file: AnswersFile) -> _Raw:
    current = [link.batch_id for link in ledger.attempts.links(attempt.id)]
    earlier = [link.batch_id for link in ledger.attempts.links(attempt.id, rejected=True)]
    late = {late_name(attempt, batch): batch for batch in (*current, *earlier)}
    if batch := late.get(file.file):
        return _Raw(home.late_results(attempt.id, digest(batch)), (batch,), late=True)
    others = {late.get(kept.file) for kept in ledger.attempts.answers([attempt.id])}
    return _Raw(home.all_results(attempt.id), tuple(batch for batch in current if batch not in others), late=False)


def _is_result(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.suffix != ".part"


def _put_back(
    ledger: Ledger, home: Home, attempt: Attempt, file: AnswersFile, results: Sequence[Path], *, late: bool
) -> bool:
    """Write the answers file anew, if it adds up; under another name, which the ledger then has.

    A late arrival's has the name by which it is known to be kept, so that one is put in the place of the lost one.
    """
    wanted = {outcome: count for outcome, count in file.outcomes.items() if count}
    nothing_came = len(wanted) == 1 and wanted.keys() <= set(_ABSENT)
    if not (results or nothing_came) or not ledger.attempts.sends(attempt.id):
        return False
    for absent in (None,) if late else _ABSENT:
        name = f"{attempt.task}/{attempt.id}-{ledger.clock.token()}.parquet"
        try:
            parsed = parse_attempt(ledger, attempt, results, name=name, absent=absent)
        except duckdb.Error:
            return False
        if dict(parsed.file.outcomes) == wanted:
            if not late:
                return ledger.upkeep.replace_answers(file.file, name)
            make_durable(home.answers(name), home.answers(file.file))
            return True
        home.answers(name).unlink()
    return False


def _fetched(raw: _Raw, provider: BatchProvider, token: str) -> list[Path]:
    """All result files, into a folder of their own: what is there under a name is taken for whole."""
    folder = raw.folder / f"again-{token}"
    return [
        path
        for number, batch in enumerate(raw.batches)
        for path in provider.fetch(provider.check(batch), folder / str(number))
    ]


def _lost(ledger: Ledger, attempt: Attempt, file: AnswersFile) -> str:
    plan = ledger.plans.get(PlanId(attempt.plan))
    count = sum(file.outcomes.values())
    return f"{count} rows of batch {attempt.batch_id} (table {plan.asset}, resource {attempt.llm!r}) are lost here"
