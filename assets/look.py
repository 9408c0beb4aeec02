"""The look: which of a plan's requests have no answer and are not under way, and taking them without a gap."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import numpy.typing as npt

from ..resources.answers import answers_of, readable, unanswered_sql
from ..resources.duck import connect, literal, parquet, rows, write_parquet
from ..resources.errors import InputError, StorageError
from ..resources.home import Home
from ..resources.ledger import Attempt, AttemptId, AttemptState, Ledger, Plan, PlanState, Snapshot, Tier
from ..resources.ledger.looks import LOOK_LEASE_SECONDS
from ..resources.providers.profile import Profile
from ..resources.providers.protocol import BatchProvider
from ..resources.render import cut
from .plan import REQUEST_COLUMNS

_LEASE_POLL = 0.5
_PATIENCE = 5 * LOOK_LEASE_SECONDS
"""Well beyond the lease that a killed looker leaves behind."""


def look(ledger: Ledger, provider: BatchProvider, plan: Plan, owner: str) -> int:
    """Take the plan's keys that nobody has; gives how many. They are in planned attempts of the plan then.

    Raises:
        StorageError: A file that the ledger names can't be read, or others look at the task all the time; nothing
            was taken.
    """
    home = Home(ledger.home)
    until = ledger.clock.monotonic() + _PATIENCE
    while ledger.clock.monotonic() < until:
        if not ledger.looks.take(plan.task, owner):
            ledger.clock.sleep(_LEASE_POLL)  # another look at this task is under way; what it takes, we need not
            continue
        try:
            taken = _take_missing(ledger, home, provider, plan)
        except BaseException:
            ledger.looks.release(plan.task, owner)
            raise
        if taken is not None:
            return taken
        if ledger.plans.get(plan.id).state is not PlanState.OPEN:
            ledger.looks.release(plan.task, owner)
            return 0  # somebody ended the plan meanwhile; nothing of it is asked any more
    raise StorageError(
        f"Other runs have been looking at the same requests (task {plan.task[:12]}) for {_PATIENCE:g} s, so this one "
        "never had its turn. Nothing was asked; run it again."
    )


def _take_missing(ledger: Ledger, home: Home, provider: BatchProvider, plan: Plan) -> int | None:
    """One look under the lease; None if another one came between or the plan has ended, then nothing was taken."""
    snapshot = ledger.looks.snapshot(plan.task)
    try:
        attempts, waits_for = _missing(ledger, home, provider, plan, snapshot)
    except duckdb.Error as error:
        raise readable(error, home.folder) from error
    if ledger.looks.insert(plan.task, snapshot.fence, plan.id, attempts, waits_for):
        return sum(attempt.rows for attempt in attempts)
    for attempt in attempts:
        home.manifest(attempt.manifest).unlink(missing_ok=True)  # `forget` may have met it first
    return None


def _missing(
    ledger: Ledger, home: Home, provider: BatchProvider, plan: Plan, snapshot: Snapshot
) -> tuple[list[Attempt], list[str]]:
    engine = connect()
    engine.execute(f"CREATE TEMP VIEW request AS FROM {parquet([home.requests(plan.id)], REQUEST_COLUMNS)}")
    manifests = [home.manifest(name) for _, name in snapshot.open_manifests]
    room = ledger.looks.room(plan.task)
    unanswered = unanswered_sql("request", manifests, *answers_of(home, snapshot), room=room, tries=plan.max_attempts)
    # One limit per file; within it, requests stay in the order of the source.
    order = "ORDER BY limit_factor, n" if room.doublings else ""
    engine.execute(f"""
        CREATE TEMP TABLE missing AS
        SELECT row_number() OVER ({order}) - 1 AS n, key, bytes, limit_factor
        FROM (SELECT *, row_number() OVER () AS n FROM ({unanswered}))
    """)
    found = engine.execute("SELECT bytes, limit_factor FROM missing ORDER BY n").fetchnumpy()
    factors, sizes = np.asarray(found["limit_factor"]), np.asarray(found["bytes"], dtype=np.int64)
    attempts: list[Attempt] = []
    realtime = _realtime(ledger, home, provider, plan)
    # A list: before the first manifest is written it is known that none is too small.
    for start, end, factor, tier in list(_shards(sizes, factors, provider.profile, realtime)):
        attempt = AttemptId(ledger.clock.token())
        name = f"{attempt}.parquet"
        shard = f"SELECT n - {start} AS row, key FROM missing WHERE n >= {start} AND n < {end} ORDER BY n"
        write_parquet(engine, shard, home.manifest(name))
        attempts.append(
            Attempt(
                id=attempt,
                state=AttemptState.PLANNED,
                task=plan.task,
                plan=plan.id,
                llm=plan.llm,
                account=realtime.account if realtime and tier is Tier.REALTIME else provider.account,
                manifest=name,
                rows=end - start,
                created_at=ledger.clock.now(),
                limit_factor=factor,
                wire=provider.profile.wire.name,
                tier=tier,
                bytes=int(sizes[start:end].sum()),
            )
        )
    return attempts, _overlapping(engine, home, snapshot)


def _realtime(ledger: Ledger, home: Home, provider: BatchProvider, plan: Plan) -> BatchProvider | None:
    """Where requests are asked that are too few for a batch; None if nowhere, or if a batch has no minimum."""
    profile = provider.profile
    if profile.min_rows == 1 or ledger.looks.spec(plan.task).operation not in profile.at_once:
        return None
    return provider.realtime(home.realtime)


def _shards(
    sizes: npt.NDArray[np.int64], factors: npt.NDArray[np.int64], profile: Profile, realtime: BatchProvider | None
) -> Iterator[tuple[int, int, int, Tier]]:
    """Rows [start, end) of each attempt, its factor and tier; rows of one factor follow each other.

    Raises:
        InputError: There are too few for a batch, and there is no realtime side.
    """
    for factor in np.unique(factors):
        first, last = np.searchsorted(factors, [factor, factor + 1])
        shards = cut(sizes[first:last], profile)
        few = [end - start for start, end in shards if end - start < profile.min_rows]
        if sum(few) >= profile.min_rows:  # they aren't few, so they aren't asked at twice the price
            raise InputError(
                f"{profile.name} takes batches of at least {profile.min_rows} requests, and the limits of its resource "
                f"make batches of {max(few)} of these {last - first}. Nothing was asked; raise max_rows_per_batch or "
                "max_queued_tokens."
            )
        for start, end in shards:
            rows = end - start
            if rows >= profile.min_rows:
                yield int(first) + start, int(first) + end, int(factor), Tier.BATCH
                continue
            if realtime is None:
                raise InputError(
                    f"{profile.name} takes batches of at least {profile.min_rows} requests and answers none one by "
                    f"one; {rows} are left to ask. They were not asked, and nothing is paid for them. Ask more rows "
                    "at once, or name another provider with llm='…'."
                )
            for at, to in cut(sizes[first + start : first + end], realtime.profile):
                yield int(first) + start + at, int(first) + start + to, int(factor), Tier.REALTIME


def _overlapping(engine: duckdb.DuckDBPyConnection, home: Home, snapshot: Snapshot) -> list[str]:
    """The open attempts that hold a key of the plan."""
    if not snapshot.open_manifests:
        return []
    paths = {str(home.manifest(name)): attempt for attempt, name in snapshot.open_manifests}
    listed = ", ".join(literal(path) for path in paths)
    found = rows(
        engine,
        f"SELECT DISTINCT filename FROM read_parquet([{listed}], filename=true) SEMI JOIN request USING (key)",
    )
    return [paths[path] for (path,) in found]


def unfinished(ledger: Ledger, plan: Plan) -> int:
    """How many of the plan's requests are neither answered nor given up."""
    home = Home(ledger.home)
    engine = connect()
    engine.execute(f"CREATE TEMP VIEW request AS FROM {parquet([home.requests(plan.id)], REQUEST_COLUMNS)}")
    try:
        answers = answers_of(home, ledger.looks.snapshot(plan.task))
        room = ledger.looks.room(plan.task)
        missing = unanswered_sql("request", [], *answers, room=room, tries=plan.max_attempts)
        return int(rows(engine, f"SELECT count(*) FROM ({missing})")[0][0])
    except duckdb.Error as error:
        raise readable(error, home.folder) from error
