"""What became of a create whose reply was lost: which of the provider's batches is it, and can it still be one?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from .errors import ProviderError, RefusedError
from .ledger import Attempt, Ledger, Send
from .providers.profile import Profile, Recovery
from .providers.protocol import TOKEN_KEY, Batch, BatchProvider, Listing, Phase

_MARGIN_SECONDS = 300.0
_CLOCK_SECONDS = 3600.0
"""How far a provider's clock may be off that doesn't tell its time."""

_UNTOLD_SECONDS = 24 * 3600.0
"""How far our own clock may have been set forward since a send, where nothing else tells."""

_FILES_SECONDS = 24 * 3600.0
"""How long a candidate's results are looked at in vain; it may be a stranger's, whose files are deleted."""


@dataclass(frozen=True)
class Sighting:
    """What a listing says about an attempt's sends.

    Attributes:
        listing: What was listed.
        found: Batches that are proven to be ours, the one to keep first.
        undecided: Whether another one may be ours and can't be told yet.
        unread: Whether that is so because an ended one's results can't be read.
    """

    listing: Listing
    found: list[tuple[Batch, Send]]
    undecided: bool = False
    unread: bool = False


def look_for(ledger: Ledger, provider: BatchProvider, attempt: Attempt, sends: Sequence[Send]) -> Sighting:
    """Look for an attempt's sends, oldest first, among the listed batches that aren't known to be something else.

    Where a batch's record doesn't say whose it is, time and size make it no more than a candidate: it is ours when the
    first line of its results says so, and as long as it runs nobody knows.
    """
    listing = provider.list(*created_since(sends))
    strangers = _strangers(ledger, provider, attempt)
    listed = [batch for batch in listing.batches if batch.id not in strangers]
    if provider.profile.recovery is not Recovery.RESULTS:
        return Sighting(listing, ours(listed, sends))
    by_token = {send.token: send for send in sends}
    found: list[tuple[Batch, Send]] = []
    undecided = unread = False
    now = listing.started_at
    patience = min(attempt.gone_since or now, now) + _FILES_SECONDS  # since the first look: it may be a late one
    for batch in _candidates(provider.profile, listing, listed, sends):
        token = _token_in_results(provider, batch) if batch.phase.ended else None
        if token in by_token:
            found.append((batch, by_token[token]))
        elif token is None:
            unread |= batch.phase.ended
            undecided |= not batch.phase.ended or now < patience
    return Sighting(listing, _best_first(found), undecided, unread)


def _token_in_results(provider: BatchProvider, batch: Batch) -> str | None:
    """The token in an ended batch's first result line; empty if it has no line, None if that can't be told (yet)."""
    try:
        first = provider.first_custom_id(batch)
    except RefusedError:  # gone, of another project, or not a line that can be read: it may be a stranger's
        return None
    if first is None and (batch.counted or batch.phase is Phase.COMPLETED):
        return None  # its file isn't there yet, or came without its lines
    # One that ended without a row proves nothing, but it hardly cost anything either.
    return (first or "").rpartition("-")[0]


def _strangers(ledger: Ledger, provider: BatchProvider, attempt: Attempt) -> set[str]:
    """Batches that can't be what an attempt has lost: they were rejected before, or are known to be another one's."""
    rejected = {link.batch_id for link in ledger.attempts.links(attempt.id, rejected=True)}
    if provider.profile.recovery is Recovery.RESULTS:
        return rejected | ledger.attempts.linked(provider.account)
    return rejected


def ours(batches: Iterable[Batch], sends: Sequence[Send]) -> list[tuple[Batch, Send]]:
    """Batches whose records carry one of our sends, the one to keep first: ended well, then running, then the older."""
    by_token = {send.token: send for send in sends}
    by_file = {send.file_id: send for send in sends}
    return _best_first(
        [
            (batch, send)
            for batch in batches
            if (send := by_token.get(batch.metadata.get(TOKEN_KEY, "")) or by_file.get(batch.input_file_id or ""))
        ]
    )


def surplus(batches: Iterable[Batch], sends: Sequence[Send], survivor: str | None) -> list[Batch]:
    """An attempt's batches that may be stopped: those whose records prove that they are ours, but for the one to keep.

    That is the survivor, if it is proven and hasn't come to nothing. One that only the reply to a create has named may
    be a stranger's; beside it the first one that is proven is the only one that is sure to answer, and goes on.
    """
    proven = [batch for batch, _ in ours(batches, sends)]
    kept = [batch for batch in proven if batch.id == survivor and batch.phase is not Phase.FAILED] or proven[:1]
    return [batch for batch in proven if batch not in kept]


def is_anothers(batch: Batch, send: Send) -> bool:
    """Whether the reply to a create names a batch of another send: something in between has mixed them up.

    A file id that differs says nothing: a gateway may show files under ids of its own.
    """
    return batch.metadata.get(TOKEN_KEY, send.token) != send.token


def was_mixed_up(ledger: Ledger, attempt: Attempt) -> bool:
    """Whether the results of a batch that this attempt had before were somebody else's."""
    told = {subject for kind, subject, _ in ledger.attempts.incidents() if kind == "foreign results"}
    return any(link.batch_id in told for link in ledger.attempts.links(attempt.id, rejected=True))


def stop(provider: BatchProvider, batches: Sequence[Batch]) -> None:
    """Ask the provider to cancel what still runs; one that goes on is met again at the next look."""
    for batch in batches:
        if not batch.phase.ended and batch.status != "cancelling":
            with suppress(ProviderError):
                provider.cancel(batch.id)


def in_another_account(ledger: Ledger, provider: BatchProvider, attempt: Attempt, send: Send) -> str | None:
    """Why an account that doesn't list a send's batch isn't the one that it was sent to, recorded; None if it is.

    Organisations and projects of one provider share an address; whose key it is shows in the file that we uploaded. A
    person who has ended the attempt together with its batch knows better. Where a create is revoked, the file was
    deleted by us. One that the provider has deleted for its age tells nothing.
    """
    if ledger.clock.now() - send.t0 > provider.profile.keeps_files_seconds:
        return None
    if provider.profile.revocable or attempt.unwanted_at is not None or provider.has_file(send.file_id):
        return None
    message = (
        f"The account of resource {attempt.llm!r} doesn't have {send.file_id}, the file of {send.rows} requests that "
        "was uploaded to it, so nobody can know whether its batch was made. Does the key belong to another "
        "organisation or project by now, or was the file deleted by hand?"
    )
    if attempt.message != message and not provider.shows_files():
        return None  # it has no such route, so that its 404 doesn't speak of the file
    ledger.attempts.incident("another account", attempt.id, message)
    return message


def created_since(sends: Sequence[Send]) -> tuple[float, float | None]:
    """The moment of the first of some sends, for a listing: by our clock, and by the provider's."""
    return min(send.t0 for send in sends), min((send.there for send in sends if send.there is not None), default=None)


def not_listed(profile: Profile) -> str:
    """What to say where a listing is too short to prove anything."""
    return (
        f"A create whose reply was lost isn't listed, and {profile.name}'s listing can't be read far enough back to "
        "say that it was never made. It is waited for; dagster-batch-llm cancel TABLE --batches ends that."
    )


def is_settled(profile: Profile, send: Send, listing: Listing) -> bool:
    """Whether a listing is whole and began when the send could no longer take effect, by all clocks that tell."""
    began = listing.started_at
    if send.there is not None:  # our clock may have been set forward since
        if listing.clock_offset is None:  # it took too long to tell; where the next ones don't either, a day decides
            began -= _UNTOLD_SECONDS
        else:
            began = min(began, send.t0 + began + listing.clock_offset[0] - send.there)
    return listing.complete and began >= _last_chance(profile, send) + profile.settle


def _last_chance(profile: Profile, send: Send) -> float:
    """The last moment in which this send may have left: Unix seconds, our clock."""
    if profile.recovery is Recovery.IDEMPOTENT:
        return max(send.send_deadline, send.t0 + profile.remembers + profile.send_seconds)
    return send.send_deadline


def _best_first(found: list[tuple[Batch, Send]]) -> list[tuple[Batch, Send]]:
    order = {Phase.COMPLETED: 0, Phase.FAILED: 2, Phase.EXPIRED: 2, Phase.CANCELLED: 2}
    return sorted(found, key=lambda pair: (order.get(pair[0].phase, 1), pair[0].created_at or 0.0))


def _candidates(profile: Profile, listing: Listing, listed: Sequence[Batch], sends: Sequence[Send]) -> list[Batch]:
    """Batches of the right time and size. The provider's clock is known as an interval only."""
    low, high = listing.clock_offset or (-_CLOCK_SECONDS, _CLOCK_SECONDS)
    spans: list[tuple[float, float, int]] = []
    for send in sends:
        then = [low, high] if send.there is None else [low, high, send.there - send.t0]
        end = send.send_deadline + profile.settle + max(then) + _MARGIN_SECONDS
        spans.append((send.t0 + min(then) - _MARGIN_SECONDS, end, send.rows))
    return [
        batch
        for batch in listed
        if any(
            (batch.created_at is None or begin <= batch.created_at <= end) and batch.total in {0, rows}
            for begin, end, rows in spans
        )
    ]
