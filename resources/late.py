"""Late arrivals: batches of ours that nobody knows of, because their create was given up, or repeated by a proxy.

They are paid, whatever is done now. So they are recorded, stopped if they still run, and what they answered is kept:
the first usable answer of a request wins, wherever it comes from.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from .errors import ProviderError, StaleFenceError
from .file_names import digest
from .home import Home
from .ledger import Attempt, AttemptState, Incident, Ledger, Link, Send, has_come
from .lost_creates import created_since, ours, stop
from .providers.protocol import Batch, BatchProvider
from .result_files import ResultFiles
from .result_lines import lines_of

HORIZON_SECONDS = 48 * 3600.0
"""How long after its intent a create is looked for."""
_PATIENCE_SECONDS = 36 * 3600.0
"""How long after its intent all that its batch counts is waited for; then there is time left to keep what there is."""


class LateArrivals:
    """Looks for them in one account.

    Args:
        ledger: What was asked.
        provider: The account's client.
        owner: Who is working.
    """

    def __init__(self, ledger: Ledger, provider: BatchProvider, owner: str) -> None:
        self._ledger = ledger
        self._attempts = ledger.attempts
        self._provider = provider
        self._owner = owner

    def sweep(self) -> int:
        """Find batches of our sends that the ledger doesn't know, and keep what earlier ones answered; gives how many.

        Costs one listing that reaches back to the oldest send of the last 48 hours, and nothing if there is none.
        """
        try:
            return self._found()
        finally:  # a listing that can't be had keeps nothing from being fetched
            self._collect()

    def _found(self) -> int:
        since = self._ledger.clock.now() - HORIZON_SECONDS
        sends = self._attempts.settled_sends(self._provider.account, since)
        if not sends:
            return 0
        known = self._attempts.linked(self._provider.account)
        listing = self._provider.list(*created_since(sends))
        found = [pair for pair in ours(listing.batches, sends) if pair[0].id not in known]
        return sum(self.arrived(batch, send) for batch, send in found)

    def arrived(self, batch: Batch, send: Send) -> bool:
        """Take in a batch that nobody waits for; False if another worker is at its attempt and will meet it."""
        attempt = self._attempts.get(send.attempt)
        if self._attempts.is_linked(attempt.account, batch.id):
            return False  # met before; if it was rejected unpaid since then, it isn't what is to be sent anew
        if attempt.state in {AttemptState.CREATING, AttemptState.AMBIGUOUS}:
            return False  # all sends of the attempt are being looked for
        link = Link(attempt.account, batch.id, attempt.id, send.token, extra=attempt.state is not AttemptState.PLANNED)
        incident = self._incident(batch, attempt, send)
        try:
            if not link.extra:
                self._adopt(attempt, link, incident)
            elif not self._attempts.link_late(attempt, link, incident):
                return False
        except StaleFenceError:
            return False
        if attempt.state not in {AttemptState.PLANNED, AttemptState.SUBMITTED}:
            stop(self._provider, [batch])  # of one that is out, the next look decides which batch is kept
        return True

    def _incident(self, batch: Batch, attempt: Attempt, send: Send) -> Incident:
        first = [link.batch_id for link in self._attempts.links(attempt.id) if link.token == send.token]
        twice = [name for name in first if name != batch.id]
        if twice:
            kind = "duplicate"
            what = (
                f"Batch {batch.id} was made of the same create as {twice[0]}, or the reply to the create named a wrong "
                "one. Is there a proxy that repeats requests, or mixes up replies?"
            )
        else:
            kind = "late arrival"
            what = f"Batch {batch.id} turned up after its create had been given up."
        if attempt.state is AttemptState.PLANNED:
            end = "Nothing had been sent in its place, so it is used and nothing is paid twice."
        else:
            end = (
                "What it ran is paid beside what was asked in its place. It is cancelled, unless it alone is proven to "
                "be ours; what it answered is kept."
            )
        return Incident(kind, batch.id, f"{what} {end}")

    def _adopt(self, attempt: Attempt, link: Link, incident: Incident) -> None:
        """Its attempt was about to be sent anew, so it becomes that one's batch."""
        taken = self._attempts.take(attempt.id, self._owner)
        if taken is None or taken.state is not AttemptState.PLANNED:
            if taken is not None:
                self._attempts.release(taken)
            raise StaleFenceError(f"Attempt {attempt.id} was taken by another worker.")
        self._attempts.adopt(taken, [link], incident, due=self._ledger.clock.now(), lease_until=0.0, message=None)

    def _collect(self) -> None:
        """Keep what ended late arrivals of closed attempts answered."""
        failed: list[ProviderError] = []
        for link in self._attempts.late(self._provider.account):
            try:
                self._keep(link)
            except ProviderError as error:  # one that can't be had now doesn't keep the others from being had
                failed.append(error)
        if failed:
            raise failed[0]

    def _keep(self, link: Link) -> None:
        attempt, home = self._attempts.get(link.attempt), Home(self._ledger.home)
        name = late_name(attempt, link.batch_id)
        if name in {answers.file for answers in self._attempts.answers([attempt.id])}:
            return
        batch = self._provider.check(link.batch_id)
        if not batch.phase.ended:
            stop(self._provider, [batch])
            return
        has_time = self._has_time(attempt, link)
        if batch.lacks_files and has_time:
            return  # they may trail its end
        folder = home.late_results(attempt.id, digest(link.batch_id))
        paths = self._whole(batch, folder, is_last=not has_time)
        if paths is None:
            return
        parsed = ResultFiles(self._ledger, attempt).read(paths, None, name=name)
        self._attempts.index_late(attempt, parsed.file)
        for incident in parsed.incidents(batch.id, folder):
            self._attempts.incident(incident.kind, incident.subject, incident.message)

    def _whole(self, batch: Batch, folder: Path, *, is_last: bool) -> list[Path] | None:
        """An ended batch's files, fetched anew if they lack what it counts as completed; None to look again later.

        A file that was cut at the end of a line looks whole. What came first is kept, and is what there is if at the
        last look there is no more.
        """
        try:
            first = self._provider.fetch(batch, folder)
        except ProviderError as error:
            if not (is_last and error.is_gone):
                raise
            return sorted(folder.glob("*.jsonl"))
        if _lines(first) >= batch.completed:
            return first
        anew = folder / self._ledger.clock.token()  # another worker may be at it, too
        try:
            paths = self._provider.fetch(batch, anew)
        except ProviderError:
            shutil.rmtree(anew, ignore_errors=True)
            if is_last:
                return first
            raise
        if _lines(paths) >= batch.completed:
            return paths
        shutil.rmtree(anew, ignore_errors=True)
        return first if is_last else None

    def _has_time(self, attempt: Attempt, link: Link) -> bool:
        """Whether a late arrival's files may be waited for."""
        (send,) = (send for send in self._attempts.sends(attempt.id) if send.token == link.token)
        return not has_come(send.t0 + _PATIENCE_SECONDS, self._ledger.clock.now(), HORIZON_SECONDS)


def _lines(paths: Sequence[Path]) -> int:
    return sum(1 for path in paths for _ in lines_of(path))


def late_name(attempt: Attempt, batch_id: str) -> str:
    """The answers file of a late arrival: one per batch, so that keeping it twice is keeping it once."""
    return f"{attempt.task}/{attempt.id}-late-{digest(batch_id)}.parquet"
