"""Removed: the rules of sending, of giving up, of taking over and of adopting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dagster_batch_llm.resources import looking, lost_creates
from dagster_batch_llm.resources.errors import AmbiguousError, ProviderError, RefusedError, UnreachableError
from dagster_batch_llm.resources.late import LateArrivals
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, Ledger, Send
from dagster_batch_llm.resources.ledger import attempts as attempts_module
from dagster_batch_llm.resources.ledger.attempts import Attempts
from dagster_batch_llm.resources.lost_creates import stop
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers import http as http_module
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape
from dagster_batch_llm.resources.providers.protocol import TOKEN_KEY, Batch, Listing
from sqlalchemy import update

from .broken_rule import Patch, Rule, always, swapped
from .faults import HTTP_SECONDS, LONGEST_DELAY
from .seams import Seams


def _no_intent(seams: Seams) -> list[Patch]:
    def create(self: Any, attempt: Attempt, send: Send) -> None:
        try:
            batch = self._providers["llm"].create(send.file_id, "/v1/chat/completions", send.token, _nothing)
        except ProviderError as error:
            self._postpone(attempt, error)
            raise
        attempt = self._attempts.begin_send(attempt, send)
        self._adopt(attempt, [(batch, send)])

    return [(BatchMachine, "_create", create)]


def _nothing() -> None:
    pass


def _created_thrice(seams: Seams) -> list[Patch]:
    create = OpenAIShape.create

    def thrice(self: Any, *args: Any) -> Batch:
        for _ in range(2):
            try:
                return create(self, *args)
            except AmbiguousError:
                continue
        return create(self, *args)

    return [(OpenAIShape, "create", thrice)]


def _ambiguous_is_no(seams: Seams) -> list[Patch]:
    create = OpenAIShape.create

    def sure(self: Any, *args: Any) -> Batch:
        try:
            return create(self, *args)
        except AmbiguousError as error:
            raise UnreachableError(error.message) from error

    return [(OpenAIShape, "create", sure)]


def _expired_is_planned(seams: Seams) -> list[Patch]:
    reconcile = BatchMachine.reconcile

    def hasty(self: Any, attempt: Any) -> None:
        with self._taken(attempt, AttemptState.CREATING) as taken:
            if taken is not None:
                self._attempts.move(taken, AttemptState.PLANNED, lease_until=0.0)
                return
        reconcile(self, attempt)

    return [(BatchMachine, "reconcile", hasty)]


def _absent(change: Callable[[Any, Attempt, Send, Listing], tuple[Attempt, Send, Listing]]) -> Any:
    def remove(seams: Seams) -> list[Patch]:
        absent = BatchMachine._absent  # pyright: ignore[reportPrivateUsage]

        def changed(self: Any, attempt: Attempt, send: Send, listing: Listing) -> None:
            absent(self, *change(self, attempt, send, listing))

        return [(BatchMachine, "_absent", changed)]

    return remove


def _judged_now(machine: Any, attempt: Attempt, send: Send, listing: Listing) -> tuple[Attempt, Send, Listing]:
    """By both clocks: what the provider's says of the send would prove when a listing was made."""
    return attempt, replace(send, there=None), replace(listing, started_at=machine._clock.now())


def _settles_in(seconds: float) -> Any:
    def remove(seams: Seams) -> list[Patch]:
        profile = OpenAIShape.profile.fget
        assert profile is not None
        return [(OpenAIShape, "profile", property(lambda self: replace(profile(self), settle=seconds)))]

    return remove


def _unchecked(seams: Seams) -> list[Patch]:
    create = OpenAIShape.create
    return [(OpenAIShape, "create", lambda self, file, end, token, _: create(self, file, end, token, _nothing))]  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def _not_listed_again(seams: Seams) -> list[Patch]:
    absent = BatchMachine._absent  # pyright: ignore[reportPrivateUsage]

    def hasty(self: Any, attempt: Attempt, send: Send, listing: Listing) -> None:
        absent(self, attempt, send, listing)
        now = self._attempts.get(attempt.id)
        if attempt.revoked_at is None and now.revoked_at is not None and now.fence == attempt.fence:
            self._attempts.move(now, AttemptState.PLANNED, file_id=None, revoked_at=None, due=0.0)

    return [(BatchMachine, "_absent", hasty)]


def _guard(*, state: bool) -> Any:
    def remove(seams: Seams) -> list[Patch]:
        table = attempts_module._T  # pyright: ignore[reportPrivateUsage]

        def unfenced(c: Any, attempt: Attempt, values: Any) -> Attempt:
            guard = [table.c.id == attempt.id, *([table.c.state == attempt.state] if state else [])]
            if c.execute(update(table).where(*guard).values(dict(values))).rowcount == 0:
                raise attempts_module.StaleFenceError("another state")
            return replace(attempt, **values)

        return [(attempts_module, "_fenced", unfenced)]

    return remove


def _never_taken_over(seams: Seams) -> list[Patch]:
    take, table = Attempts.take, attempts_module._T  # pyright: ignore[reportPrivateUsage]

    def polite(self: Any, attempt: Any, owner: str) -> Attempt | None:
        dead = self.find(table.c.id == attempt, table.c.lease_until > 0.0, table.c.lease_until <= self._db.clock.now())
        return None if dead else take(self, attempt, owner)

    return [(Attempts, "take", polite)]


def _cancelled_first(seams: Seams) -> list[Patch]:
    choose = BatchMachine._choose  # pyright: ignore[reportPrivateUsage]

    def hasty(self: Any, attempt: Attempt, found: list[tuple[Batch, Send]]) -> None:
        stop(self._providers[attempt.llm], [batch for batch, _ in found[1:]])
        choose(self, attempt, found)

    return [(BatchMachine, "_choose", hasty)]


def _any_marker(seams: Seams) -> list[Patch]:
    ours = lost_creates.ours

    def marked(batches: Sequence[Batch], sends: Sequence[Send]) -> list[tuple[Batch, Send]]:
        found = ours(batches, sends)
        return found or [(batch, sends[-1]) for batch in batches if TOKEN_KEY in batch.metadata]

    return [(lost_creates, "ours", marked)]


def _duplicates_by_size(seams: Seams) -> list[Patch]:
    ours = lost_creates.ours

    def alike(batches: Sequence[Batch], sends: Sequence[Send]) -> list[tuple[Batch, Send]]:
        known = {batch.id for batch, _ in ours(batches, sends)}
        others = [batch for batch in batches if batch.id not in known and batch.total == sends[-1].rows]
        return [*ours(batches, sends), *((batch, sends[-1]) for batch in others)] if known else []

    return [(lost_creates, "ours", alike)]


def _extras_dropped(seams: Seams) -> list[Patch]:
    links = Attempts.links
    return [(Attempts, "links", lambda self, attempt, **more: links(self, attempt, **more)[:1])]  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def _rejected_is_found(seams: Seams) -> list[Patch]:
    links = Attempts.links
    return [
        (Attempts, "links", lambda self, attempt, rejected=False: [] if rejected else links(self, attempt))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    ]


def _missing_is_gone(seams: Seams) -> list[Patch]:
    look_at = looking.look_at

    def hasty(ledger: Ledger, provider: Any, attempt: Attempt, found: Any) -> dict[str, object]:
        try:
            for link in ledger.attempts.links(attempt.id):
                provider.check(link.batch_id)
        except RefusedError:
            taken = ledger.attempts.take(attempt.id, "hasty")
            if taken is not None and taken.state is AttemptState.SUBMITTED:
                ledger.attempts.move(taken, AttemptState.PLANNED, batch_id=None, lease_until=0.0, due=0.0)
            return {"waits": attempt.waits}  # to an attempt that has moved on
        except ProviderError:
            pass
        return look_at(ledger, provider, attempt, found)

    return [(looking, "look_at", hasty)]


SENDS = (
    Rule("R1", "no intent before the create", _no_intent),
    Rule("R2", "a create is repeated after a lost reply", _created_thrice),
    Rule("R2", "a lost reply is taken for a no", _ambiguous_is_no),
    Rule("R3", "an expired creating is planned again", _expired_is_planned),
    Rule("R4", "settles after the HTTP time-out", _settles_in(HTTP_SECONDS), ("settle",), ("edge",)),
    Rule("R4", "settles after D, without L", _settles_in(LONGEST_DELAY), ("settle",), ("edge",)),
    Rule(
        "R4",
        "settles from the intent, not the deadline",
        _absent(lambda _, attempt, send, listing: (attempt, replace(send, send_deadline=send.t0), listing)),
        ("settle",),
        ("edge",),
    ),
    Rule(
        "R4",
        "a listing may have begun too early",
        _absent(_judged_now),
        ("settle",),
        ("edge",),
        tuned={"network": 0.4, "create": 0.9, "stop": 0.0, "crash": 0.002},
    ),
    Rule(
        "R4",
        "an incomplete listing will do",
        _absent(lambda _, attempt, send, listing: (attempt, send, replace(listing, complete=True))),
        harmless="the simulated provider's listings are always complete; tests/resources has one that isn't",
    ),
    Rule(
        "R4",
        "our own clock bounds the listing",
        swapped(http_module, "clock_offset", always((0.0, 0.0))),
        tuned={"page": 3, "skew": -3600.0},
    ),
    Rule("R5", "no self-check before the write", _unchecked, ("settle",)),
    Rule(
        "R6",
        "the file isn't deleted",
        swapped(OpenAIShape, "delete_file", always(None)),
        ("revoke",),
    ),
    Rule("R6", "no listing after the revocation", _not_listed_again, ("revoke",), tuned={"create": 0.9}),
    Rule("R7", "writes name the state, not the fence", _guard(state=True), tuned={"stop": 0.1}),
    Rule("R7", "writes name neither fence nor state", _guard(state=False)),
    Rule("R12", "a dead worker's attempt is never taken over", _never_taken_over),
    Rule(
        "R13",
        "cancelled before it is chosen",
        _cancelled_first,
        tuned={"twin": 0.5},
        harmless="protects work and time, not money: protocol.md measured no difference either",
    ),
    Rule("R13", "any batch with a marker is adopted", _any_marker),
    Rule("R13", "what has as many rows is a duplicate", _duplicates_by_size),
    Rule("R13", "a duplicate's answers are dropped", _extras_dropped, tuned={"twin": 0.5, "row": 0.25}),
    Rule("R13", "a rejected batch is found again", _rejected_is_found, tuned={"batch": 0.4, "create": 0.6}),
    Rule("R14", "nobody sweeps", swapped(BatchMachine, "sweep", always(0)), tuned={"twin": 0.5}),
    Rule(
        "R14",
        "a late arrival's files are not waited for",
        swapped(LateArrivals, "_has_time", always(False)),
        tuned={"twin": 0.5, "late": 1.0},
    ),
    Rule("-", "404 means that the batch is gone", _missing_is_gone),
)
