"""The batch state machine: it alone creates batches, so it alone pays.

Every effect is durable before the next one is begun, and every ledger write names the attempt's fence; a process
may die between any two lines here and another one goes on from the ledger.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .answers import Parsed
from .errors import AmbiguousError, ProviderError, RefusedError, StaleFenceError
from .late import LateArrivals
from .ledger import LONGEST_WAIT, Attempt, AttemptId, AttemptState, Ledger, Link, Send, Tier, has_come
from .looking import as_they_are, gone_since, look_at_each, not_ended, slow_since, still_awaited, too_few
from .lost_creates import in_another_account, is_anothers, is_settled, look_for, not_listed, ours, stop, was_mixed_up
from .providers.profile import Recovery
from .providers.protocol import Batch, BatchProvider, Listing, Phase, TooLateError
from .providers.wires.wire import WRONG_REQUEST
from .request import is_of_limit
from .result_files import Missing, ResultFiles, outcome_of_absent
from .room import no_room
from .sending import permission, upload
from .sides import Sides

CREATE_SECONDS = 120.0
"""The longest a create may take until its connection is given up."""
_RECONCILE_SECONDS = 15.0


class BatchMachine:
    """Moves attempts along; safe to be used by many processes at once.

    Args:
        ledger: What was asked.
        providers: By the resource key that assets call them (``llm=``).
        owner: Who is working, for the ledger: a run id, or the sensor.
    """

    def __init__(self, ledger: Ledger, providers: Mapping[str, BatchProvider], owner: str) -> None:
        self.ledger = ledger
        self._attempts = ledger.attempts
        self._clock = ledger.clock
        self._providers = providers
        self._sides = Sides(providers, ledger.home)
        # A lease belongs to one worker: two processes of one run must not share it.
        self._owner = f"{owner}/{os.getpid()}"

    def close(self) -> None:
        """Give the providers' connections back."""
        for provider in self._providers.values():
            provider.close()

    def provider(self, llm: str) -> BatchProvider:
        """The provider behind a resource key."""
        return self._providers[llm]

    def knows(self, attempt: Attempt) -> bool:
        """Whether this machine can speak to the account that the attempt belongs to."""
        return self._sides.know(attempt)

    # ---- planned → creating → submitted ---------------------------------------------------------------------

    def send(self, attempt: AttemptId) -> None:
        """Upload and create a planned attempt's batch, if it is free and due.

        Raises:
            RefusedError: A final no; the attempt is refused, nothing was paid.
            BusyError: The provider wants it later; the attempt stays planned and is due then.
            UnreachableError: Likewise, and nothing was sent.
        """
        with self._taken(attempt, AttemptState.PLANNED) as taken:
            if taken is None or not has_come(taken.due, self._clock.now()) or not self.knows(taken):
                return
            if said := no_room(self.ledger, self._sides.of(taken).profile, taken):
                due = self._clock.now() + _backed_off(60.0, taken.waits, 600.0)
                self._attempts.release(taken, due=due, waits=taken.waits + 1, message=said)
                return
            try:
                prepared, send = upload(self.ledger, self._sides.of(taken), taken)
            except RefusedError as error:
                self._refused(taken, error)
                return
            except ProviderError as error:
                # An upload pays nothing, so however it failed it may simply be done again.
                self._postpone(taken, error)
                raise
            self._create(prepared, send)

    def _create(self, attempt: Attempt, send: Send, *, again: bool = False) -> None:
        """One POST; `again` is the same one once more, and then a refusal says nothing about the first."""
        provider = self._sides.of(attempt)
        until = send.send_deadline
        if again:  # who was stopped since it looked at the clock may come when the provider has forgotten the first
            until = min(self._clock.now() + provider.profile.send_seconds, send.t0 + provider.profile.remembers)
        still_allowed = permission(self._clock, until, provider.profile.send_seconds)
        if again:
            attempt = self._attempts.move(attempt, AttemptState.CREATING)
        else:
            attempt = self._attempts.begin_send(attempt, send)
        attempt = self._attempts.renew(attempt)
        spec = self.ledger.looks.spec(attempt.task)
        try:
            batch = provider.create(send.file_id, spec, send.token, still_allowed)
            if is_anothers(batch, send) or self._attempts.is_linked(attempt.account, batch.id):
                raise AmbiguousError(f"The reply to the create names batch {batch.id}, which is another send's.")
        except TooLateError:
            self._attempts.move(attempt, AttemptState.AMBIGUOUS if again else AttemptState.PLANNED, lease_until=0.0)
        except ProviderError as error:
            if again or isinstance(error, AmbiguousError):
                due = self._clock.now() + (_RECONCILE_SECONDS if again else 1.0)
                self._attempts.move(attempt, AttemptState.AMBIGUOUS, message=error.message, due=due, lease_until=0.0)
                return
            if isinstance(error, RefusedError):
                self._refused(attempt, error)
                return
            self._postpone(self._attempts.move(attempt, AttemptState.PLANNED), error)
            raise
        else:
            try:
                self._adopt(attempt, [(batch, send)])
            except StaleFenceError:
                # This process slept, and was replaced. What it has learnt must not be lost with it.
                LateArrivals(self.ledger, provider, self._owner).arrived(batch, send)

    def _refused(self, attempt: Attempt, error: RefusedError) -> None:
        """A final no, unpaid; only that a limit can't be larger is none to the table, whose rows then stay cut off."""
        asks_wrong = error.status in (None, *WRONG_REQUEST)
        larger = attempt.limit_factor > 1 and asks_wrong and is_of_limit(error.message)
        if larger:
            said = f"{error.message} Its {attempt.rows} rows were cut off before, and stay so."
            self._attempts.incident("limit refused", attempt.batch_id or attempt.id, said)
        self._attempts.refuse(attempt, error.message)
        if not larger:
            raise error

    def _postpone(self, attempt: Attempt, error: ProviderError) -> None:
        asked = error.retry_after
        wait = _backed_off(15.0, attempt.waits, 300.0) if asked is None else min(asked, LONGEST_WAIT)
        now = self._clock.now()
        due = now if error.in_haste else now + wait  # who has the time may look at once
        slow = slow_since(attempt, now, error)
        self._attempts.release(attempt, due=due, waits=attempt.waits + 1, message=error.message, slow_since=slow)

    def _adopt(self, attempt: Attempt, found: Sequence[tuple[Batch, Send]]) -> Attempt:
        """Commit which batches are ours; the first one survives."""
        links = [
            Link(attempt.account, batch.id, attempt.id, send.token, extra=number > 0)
            for number, (batch, send) in enumerate(found)
        ]
        batch = found[0][0]
        first_look = self._clock.now() + self._sides.of(attempt).profile.poll_seconds[0]
        told = {"message": None, "slow_since": None, "gone_since": None, **batch.progress}
        return self._attempts.adopt(attempt, links, due=first_look, lease_until=0.0, **told)

    # ---- creating → ambiguous → submitted, or planned again ---------------------------------------------------

    def reconcile(self, attempt: AttemptId) -> None:
        """Find out what became of a create whose reply was lost, or whose sender died."""
        with self._taken(attempt, AttemptState.CREATING, AttemptState.AMBIGUOUS) as taken:
            if taken is None or not has_come(taken.due, self._clock.now()) or not self.knows(taken):
                return
            lost = taken.state is AttemptState.CREATING
            unsure = self._attempts.move(taken, AttemptState.AMBIGUOUS) if lost else taken
            sends = self._attempts.sends(unsure.id)
            if self._may_repeat(unsure, sends[-1]):
                self._create(unsure, sends[-1], again=True)
                return
            provider = self._sides.of(unsure)
            try:
                seen = look_for(self.ledger, provider, unsure, sends)
                if seen.found:
                    self._choose(unsure, seen.found)
                elif seen.undecided:
                    now = self._clock.now()
                    since = min(unsure.gone_since or now, now) if seen.unread else None
                    due = now + provider.profile.poll_seconds[1]
                    self._attempts.release(unsure, due=due, slow_since=None, gone_since=since)
                else:
                    self._absent(unsure, sends[-1], seen.listing)
            except ProviderError as error:
                self._postpone(unsure, error)
                if not isinstance(error, RefusedError):  # that one refuses a look, not the create
                    raise

    def _may_repeat(self, attempt: Attempt, send: Send) -> bool:
        """Whether the provider takes the same create for the same batch; what nobody wants isn't sent once more."""
        profile = self._sides.of(attempt).profile
        age = self._clock.now() - send.t0
        remembered = profile.recovery is Recovery.IDEMPOTENT and 0.0 <= age <= profile.remembers
        return remembered and not was_mixed_up(self.ledger, attempt) and self.ledger.upkeep.is_wanted(attempt.id)

    def _choose(self, attempt: Attempt, found: list[tuple[Batch, Send]]) -> None:
        for batch, _ in found[1:]:
            self._attempts.incident(
                "duplicate",
                batch.id,
                f"The provider made {len(found)} batches of one request file; {batch.id} is a duplicate and is being "
                "cancelled. What it answered is kept. Is there a proxy that repeats requests?",
            )
        attempt = self._adopt(attempt, found)
        stop(self._sides.of(attempt), [batch for batch, _ in found[1:]])

    def _absent(self, attempt: Attempt, send: Send, listing: Listing) -> None:
        """No listed batch is ours: it is only given up when it can no longer appear."""
        profile = self._sides.of(attempt).profile
        wait: dict[str, Any] = {"due": self._clock.now() + min(_RECONCILE_SECONDS, profile.poll_seconds[1])}
        if not profile.revocable:
            safe = is_settled(profile, send, listing)
        elif attempt.revoked_at is None:
            safe = False
            if self._clock.now() > send.send_deadline + CREATE_SECONDS + profile.send_seconds:
                self._sides.of(attempt).delete_file(send.file_id)
                wait = {"revoked_at": self._clock.now(), "due": self._clock.now() + profile.listing_lag}
        else:
            safe = listing.complete and listing.started_at >= attempt.revoked_at + profile.listing_lag
        if safe and (doubt := in_another_account(self.ledger, self._sides.of(attempt), attempt, send)):
            safe, wait = False, {"due": self._clock.now() + profile.poll_seconds[1], "message": doubt}
        if not listing.complete:
            wait["message"] = not_listed(profile)
        if safe:
            nothing = dict.fromkeys(("file_id", "revoked_at", "message", "slow_since", "gone_since"))
            self._attempts.move(attempt, AttemptState.PLANNED, lease_until=0.0, **nothing)
        else:
            self._attempts.release(attempt, slow_since=None, **wait)

    def sweep(self, llm: str) -> int:
        """Look for batches whose creates had been given up, and keep what they answered; gives how many there were."""
        provider = self._providers.get(llm)
        return LateArrivals(self.ledger, provider, self._owner).sweep() if provider else 0

    # ---- submitted: looking --------------------------------------------------------------------------------------

    def poll(
        self, llm: str, *, attempts: Sequence[Attempt] | None = None, until: float = float("inf")
    ) -> list[Attempt]:
        """Look at the provider's batches that are due; gives the attempts as they are now.

        After `until`, by the monotonic clock, no more is begun; what wasn't reached is due first the next time.
        """
        due = self._attempts.due([AttemptState.SUBMITTED], llm) if attempts is None else list(attempts)
        due = [attempt for attempt in due if self.knows(attempt) and attempt.ended_at is None]
        looked = [look_at_each(self.ledger, side, part, until) for side, part in self._sides.parted(due)]
        return [attempt for part in looked for attempt in part]

    def _batch_ids(self, attempt: Attempt) -> list[str]:
        """The survivor first; none only if another worker saw them rejected and took the submission back."""
        if names := [link.batch_id for link in self._attempts.links(attempt.id)]:
            return names
        raise StaleFenceError(f"Attempt {attempt.id} is not submitted any more.")

    # ---- submitted → answered -------------------------------------------------------------------------------------

    def collect(self, attempt: AttemptId) -> None:
        """Fetch, match and keep the results of an attempt whose batches have ended.

        Raises:
            RefusedError: The provider rejected the whole batch for what is in it; nothing was paid.
        """
        with self._taken(attempt, AttemptState.SUBMITTED) as taken:
            now = self._clock.now()
            if taken is None or taken.ended_at is None or not has_come(taken.due, now) or not self.knows(taken):
                return
            provider = self._sides.of(taken)
            try:
                names = self._batch_ids(taken)
                batches, lacking = as_they_are(provider, names)
                if again := not_ended(taken, now, batches, lacking):
                    self._attempts.release(taken, **again)
                    return
                paths, unread = ResultFiles(self.ledger, taken).fetch(provider, batches, names)
            except ProviderError as error:
                self._postpone(taken, error)
                if isinstance(error, RefusedError):
                    return  # a look was refused, not the batch; that one is paid, and patience costs nothing
                raise
            since = gone_since(taken, now, lacking, unread)
            ended = min(taken.ended_at, now)  # a clock that was ahead may have been set back since
            known = self._attempts.note(taken, gone_since=since, ended_at=ended)
            lacking |= unread
            if error := still_awaited(known, now, lacking, paths):
                self._postpone(known, error)
            elif not (lacking or paths) and all(b.phase is Phase.FAILED and not b.completed for b in batches):
                self._rejected(known, batches[0])
            else:
                self._keep(known, batches, paths, lacking)

    def _rejected(self, attempt: Attempt, batch: Batch) -> None:
        profile = self._sides.of(attempt).profile
        if batch.problems and batch.problems[0].code in profile.queue_full_codes:
            wait = _backed_off(60.0, attempt.waits, 1800.0)
            planned = self._attempts.move(attempt, AttemptState.PLANNED, ended_at=None, batch_id=None, phase=None)
            self._attempts.release(planned, due=self._clock.now() + wait, waits=attempt.waits + 1)
            return
        reasons = "; ".join(problem.words for problem in batch.problems[:3])
        message = f"{profile.name} rejected batch {batch.id} as a whole, unpaid: {reasons or 'no reason was given'}."
        self._refused(attempt, RefusedError(message))

    def _keep(self, attempt: Attempt, batches: Sequence[Batch], paths: Sequence[Path], lost: Missing) -> None:
        """Close it with what there is; rows that only something `lost` may have answered are asked on demand only."""
        attempt = self._attempts.renew(attempt)
        files = ResultFiles(self.ledger, attempt)
        absent = "gone" if lost else outcome_of_absent(batches)
        parsed = files.read(paths, absent)
        profile = self._sides.of(attempt).profile
        whole = lost.keys().isdisjoint(batch.id for batch in batches)  # else some files can't be fetched once more
        if whole and (again := too_few(attempt, self._clock.now(), profile, batches, parsed.lines)):
            # A file that was cut at the end of a line looks whole, and the rows beyond would be asked and paid again.
            files.remove(parsed)
            files.set_aside(paths)
            self._attempts.release(attempt, **again)
        elif not lost and parsed.unknown == parsed.lines > 0 and self._is_foreign(attempt, batches):
            files.remove(parsed, paths)
            self._disown(attempt, batches[0])
        else:
            for name, error in lost.items():
                self._attempts.incident(
                    "results gone",
                    name,
                    f"Results of batch {name} can't be had from the provider any more ({error.message}). Rows that "
                    "nothing else answers have no answer and are not asked again by themselves.",
                )
            if parsed.file.outcomes.get(absent) and (before := files.aside()):
                files.remove(parsed)
                parsed = files.read([files.merged([*paths, *before])], absent)
            self._close(attempt, files, parsed)

    def _close(self, attempt: Attempt, files: ResultFiles, parsed: Parsed) -> None:
        try:
            self._attempts.close(attempt, parsed.file)
        except StaleFenceError:
            files.remove(parsed)
            raise
        for incident in parsed.incidents(attempt.batch_id or attempt.id, files.folder):
            self._attempts.incident(incident.kind, incident.subject, incident.message)

    def _is_foreign(self, attempt: Attempt, batches: Sequence[Batch]) -> bool:
        """Whether nothing but a create's reply says that a batch is ours; once, so that it can't go round for ever."""
        return not ours(batches, self._attempts.sends(attempt.id)) and not was_mixed_up(self.ledger, attempt)

    def _disown(self, attempt: Attempt, batch: Batch) -> None:
        """The batch is somebody else's; what became of our create has to be found out."""
        self._attempts.incident(
            "foreign results",
            batch.id,
            f"No result of batch {batch.id} is ours, although the reply to our create named it. Nothing of it was used "
            "or kept, and our own batch is being looked for.",
        )
        nothing = {"batch_id": None, "phase": None, "ended_at": None}
        self._attempts.move(attempt, AttemptState.AMBIGUOUS, lease_until=0.0, due=self._clock.now(), **nothing)

    # ---- any state ---------------------------------------------------------------------------------------------------

    def step(self, attempt: Attempt) -> None:
        """The next step of one attempt, whatever its state is; see `send`, `reconcile` and `collect`."""
        if attempt.state is AttemptState.PLANNED:
            self.send(attempt.id)
            if attempt.tier is Tier.REALTIME:  # what was asked at once is there at once
                for answered in self.poll(attempt.llm, attempts=[self._attempts.get(attempt.id)]):
                    self.collect(answered.id)
        elif attempt.state in {AttemptState.CREATING, AttemptState.AMBIGUOUS}:
            self.reconcile(attempt.id)
        elif attempt.state is AttemptState.SUBMITTED and attempt.ended_at is not None:
            self.collect(attempt.id)

    @contextmanager
    def _taken(self, attempt: AttemptId, *states: AttemptState) -> Generator[Attempt | None]:
        """Hold an attempt's lease; None if somebody else does or it has moved on."""
        taken = self._attempts.take(attempt, self._owner)
        try:
            yield taken if taken is not None and taken.state in states else None
        except StaleFenceError:
            pass  # the one who took it over does the rest
        finally:
            if taken is not None:
                self._let_go(taken)

    def _let_go(self, taken: Attempt) -> None:
        """Free the lease if it is still ours, except in the middle of a create: only time tells about that one."""
        now = self._attempts.get(taken.id)
        if now.fence == taken.fence and now.lease_until and now.state is not AttemptState.CREATING:
            with suppress(StaleFenceError):
                self._attempts.release(now)


def _backed_off(first: float, waits: int, longest: float) -> float:
    return min(first * 2 ** min(waits, 20), longest)
