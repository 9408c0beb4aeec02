"""The answers store: what came back, as immutable Parquet per batch, found through the ledger, never listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb

from .duck import connect, literal, parquet, rows, write_parquet
from .errors import StorageError
from .home import Home
from .ledger import AnswersFile, Attempt, Incident, Ledger, Snapshot
from .providers.wires import WIRES
from .providers.wires.openai import OPENAI_WIRE
from .providers.wires.wire import Wire
from .request import MAX_TRIES, RequestSpec, Room
from .result_lines import read_results

COLUMNS = (
    "key VARCHAR, outcome VARCHAR, answer VARCHAR, vector FLOAT[], reason VARCHAR, "
    "input_tokens BIGINT, cached_tokens BIGINT, output_tokens BIGINT"
)
MANIFEST_COLUMNS = "row BIGINT, key VARCHAR"

_NO_ROOM = Room()
MAX_UNRUN = 5
"""Batches that ended before a key's turn; nothing was paid for it, but it can't go on for ever."""

Absent = Literal["missing", "expired", "gone"]
"""The outcome of a row that no result speaks of."""


@dataclass(frozen=True)
class Parsed:
    """A batch's results, matched to the rows that were sent.

    Attributes:
        file: The answers file; its outcomes add up to the rows of the manifest.
        lines: Result lines that could be read.
        unknown: Result lines whose custom_id is none of ours.
        unreadable: Result lines that couldn't be read as they are; some of them told their row nevertheless.
    """

    file: AnswersFile
    lines: int
    unknown: int
    unreadable: int

    def incidents(self, batch: str, folder: Path) -> list[Incident]:
        """What a person should know of a batch whose result files are kept in `folder`."""
        found: list[Incident] = []
        if self.unknown:
            said = (
                f"{self.unknown} of {self.lines} results of batch {batch} carry ids that were never sent; they were "
                f"left out. The files are kept in {folder}."
            )
            found.append(Incident("unknown rows", batch, said))
        if self.unreadable:
            said = (
                f"{self.unreadable} lines in the result files of batch {batch} can't be read. A row that can still be "
                f"told has its answer or its reason; the others are missing. The files are kept in {folder}."
            )
            found.append(Incident("unreadable lines", batch, said))
        return found


def parse_results(
    spec: RequestSpec,
    results: Sequence[Path],
    *,
    manifest: Path,
    tokens: Sequence[str],
    name: str,
    target: Path,
    absent: Absent | None = "missing",
    wire: Wire = OPENAI_WIRE,
) -> Parsed:
    """Read whole result files into one answers file: each row of the manifest once, the first ok answer wins.

    Args:
        spec: What was asked.
        results: The provider's files.
        manifest: The rows that were sent.
        tokens: Of all sends whose answers may be in the files.
        name: The answers file's name in the ledger.
        target: Where it is written.
        absent: The outcome of a row that no file speaks of; None leaves it out.
        wire: How the files are written.
    """
    engine = connect()
    ours = literal(f"^(?:{'|'.join(tokens)})-(0|[1-9][0-9]{{0,17}})$")
    row = f"TRY_CAST(regexp_extract(custom_id, {ours}, 1) AS BIGINT)"
    query = f"SELECT *, {row} AS row FROM ({wire.result_sql(spec)})"
    unreadable = read_results(engine, results, query, row_id=wire.results.row_id)
    engine.execute(f"CREATE TEMP VIEW manifest AS FROM {parquet([manifest], MANIFEST_COLUMNS)}")
    write_parquet(engine, _matched(absent), target)
    return _summary(engine, name, target, unreadable)


def parse_attempt(
    ledger: Ledger,
    attempt: Attempt,
    results: Sequence[Path],
    *,
    name: str,
    absent: Absent | None,
) -> Parsed:
    """`parse_results` for a ledger's attempt: all its sends may speak in the files."""
    home = Home(ledger.home)
    return parse_results(
        ledger.looks.spec(attempt.task).enlarged(attempt.limit_factor),
        results,
        manifest=home.manifest(attempt.manifest),
        tokens=[send.token for send in ledger.attempts.sends(attempt.id)],
        name=name,
        target=home.answers(name),
        absent=absent,
        wire=WIRES[attempt.wire],
    )


def answers_of(home: Home, snapshot: Snapshot) -> tuple[list[Path], list[Path]]:
    """A task's answers files, and those of them whose failures don't count."""
    files = {name: home.answers(name) for name in snapshot.answers_files}
    return list(files.values()), [path for name, path in files.items() if name in snapshot.forgiven]


def _matched(absent: Absent | None) -> str:
    reasons = {
        "missing": "the provider returned nothing for this row",
        "expired": "the batch was ended before this row's turn",
        "gone": "the provider had deleted the results before they were fetched",
    }
    return f"""
        SELECT
            manifest.key,
            coalesce(outcome, {literal(absent or "")}) AS outcome,
            answer,
            vector,
            CASE WHEN outcome IS NULL THEN {literal(reasons.get(absent or "", ""))} ELSE reason END AS reason,
            input_tokens,
            cached_tokens,
            output_tokens,
        FROM manifest {"LEFT" if absent else "INNER"} JOIN (
            FROM result WHERE row IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY row ORDER BY outcome <> 'ok', n) = 1
        ) AS best ON best.row = manifest.row
    """


def _summary(engine: duckdb.DuckDBPyConnection, name: str, target: Path, unreadable: int) -> Parsed:
    outcomes = rows(engine, f"SELECT outcome, count(*) FROM {parquet([target], COLUMNS)} GROUP BY outcome")
    lines, unknown, unmetered, paid_in, paid_out = rows(
        engine,
        """SELECT count(custom_id), count(*) FILTER (custom_id IS NOT NULL AND manifest.row IS NULL),
            count(*) FILTER (unmetered AND manifest.row IS NOT NULL),
            coalesce(sum(input_tokens), 0)::BIGINT, coalesce(sum(output_tokens), 0)::BIGINT
        FROM result LEFT JOIN manifest ON manifest.row = result.row""",
    )[0]
    file = AnswersFile(name, dict(outcomes), int(paid_in), int(paid_out), int(unmetered))
    return Parsed(file, int(lines), int(unknown), unreadable)


def unanswered_sql(
    keys: str,
    open_manifests: Sequence[Path],
    answers: Sequence[Path],
    forgiven: Sequence[Path] = (),
    *,
    room: Room = _NO_ROOM,
    tries: int = MAX_TRIES,
) -> str:
    """SQL for the keys of relation ``keys`` that are neither open, nor answered, nor given up.

    Args:
        keys: Has a column ``key``.
        open_manifests: Of attempts that are under way.
        answers: The task's answers files.
        forgiven: Those of them whose failures don't count.
        room: For what was cut off; a column ``limit_factor`` says how much larger the limit has to be. What was cut off
            with all the room there is would only be cut off again.
        tries: Answers that came back unusable this often make a key final.
    """
    factor = f"1::BIGINT << least(coalesce(cut_off.times, 0), {room.doublings})" if room.doublings else "1::BIGINT"
    return f"""
        SELECT {keys}.*, {factor} AS limit_factor FROM {keys}
        ANTI JOIN ({_final_sql(answers, forgiven, room, tries)}) AS final ON final.key = {keys}.key
        ANTI JOIN (SELECT key FROM {parquet(open_manifests, MANIFEST_COLUMNS)}) AS open ON open.key = {keys}.key
        {f"LEFT JOIN ({_cut_off_sql(answers)}) AS cut_off ON cut_off.key = {keys}.key" if room.doublings else ""}
    """


def given_up_sql(
    answers: Sequence[Path], forgiven: Sequence[Path] = (), *, room: Room = _NO_ROOM, tries: int = MAX_TRIES
) -> str:
    """SQL for the keys that won't be asked again although they have no answer: refused, or failed too often."""
    final = _final_sql(answers, forgiven, room, tries)
    return f"SELECT key FROM ({final}) GROUP BY key HAVING NOT bool_or(answered)"


def _cut_off_sql(answers: Sequence[Path]) -> str:
    return f"SELECT key, count(*) AS times FROM {parquet(answers, COLUMNS)} WHERE outcome = 'truncated' GROUP BY key"


def _final_sql(answers: Sequence[Path], forgiven: Sequence[Path], room: Room, tries: int) -> str:
    """Keys that aren't asked again; of the files that are `forgiven`, all of them in `answers`, only answers count."""
    counted = parquet([path for path in answers if path not in set(forgiven)], COLUMNS)
    cut_off = _cut_off_sql(answers)
    return f"""
        SELECT key, bool_or(outcome = 'ok') AS answered
        FROM (
            SELECT key, outcome FROM {counted}
            UNION ALL SELECT key, outcome FROM {parquet(forgiven, COLUMNS)} WHERE outcome = 'ok'
        )
        GROUP BY key HAVING
            bool_or(outcome IN ('ok', 'refused', 'gone'))
            OR count(*) FILTER (outcome = 'truncated') > {room.doublings}
            OR count(*) FILTER (outcome <> 'expired') >= {tries}
            OR count(*) >= {max(tries, MAX_UNRUN)}
        {f"UNION ALL SELECT key, false FROM ({cut_off}) WHERE times > {room.doublings}" if room.is_all else ""}
    """


def best_sql(answers: Sequence[Path]) -> str:
    """SQL for one row per answered key: its first ok answer if there is one, else how it failed last; and its tries.

    A part of an answer says more than that nobody gave it more room.
    """
    listed = ", ".join(f"({number}, {literal(str(path))})" for number, path in enumerate(answers))
    if not listed:
        return f"SELECT *, NULL::BIGINT AS tries FROM {parquet([], COLUMNS)}"
    return f"""
        SELECT found.* EXCLUDE (filename), count(*) OVER (PARTITION BY key) AS tries
        FROM read_parquet([{", ".join(literal(str(path)) for path in answers)}], filename=true) AS found
        JOIN (VALUES {listed}) AS file(n, path) ON file.path = found.filename
        QUALIFY row_number() OVER (
            PARTITION BY key ORDER BY
                outcome <> 'ok',
                outcome <> 'truncated' OR answer IS NULL,
                CASE outcome WHEN 'ok' THEN n ELSE -n END
        ) = 1
    """


def readable(error: duckdb.Error | OSError, folder: Path) -> StorageError:
    """A named file that can't be read stops everything: it never means that there are no answers."""
    return StorageError(
        f"A file of a plan, its manifests or answers under {folder} can't be read ({error}). Put it back from a "
        "backup; nothing was asked, because what is in it may be paid already."
    )
