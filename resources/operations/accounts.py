"""Whether ledger and provider agree: what is out is there, and what is there with our mark is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import ProviderError, RefusedError
from ..ledger import AttemptState, Ledger, schema
from ..providers.protocol import TOKEN_KEY, Batch, BatchProvider
from ..sides import Sides
from .examination import Finding, Level

_MARK = 8
"""How much of the ledger's id each token begins with."""


def compare(ledger: Ledger, providers: Mapping[str, BatchProvider], since: float) -> Iterator[Finding]:
    """Ask the providers what they have; nothing is changed there or here.

    Args:
        ledger: May be read-only.
        providers: By resource key.
        since: Batches that were created before, in Unix seconds, aren't looked for.
    """
    for llm, provider in providers.items():
        try:
            yield from _out(ledger, llm, provider)
            yield from _unknown(ledger, provider, since)
        except ProviderError as error:
            yield Finding(Level.WARNING, f"resource {llm}", "can't be asked", error.message)


def _out(ledger: Ledger, llm: str, provider: BatchProvider) -> Iterator[Finding]:
    a = schema.attempt.c
    sides = Sides({llm: provider}, ledger.home)
    for attempt in ledger.attempts.find(a.state == AttemptState.SUBMITTED, a.llm == llm):
        subject = f"batch {attempt.batch_id}"
        if not sides.know(attempt):
            wrong = f"is in account {attempt.account}, and resource {llm} speaks to {provider.account}"
            yield Finding(Level.ERROR, subject, wrong, "Its table waits until the resource points back.")
            continue
        try:
            sides.of(attempt).check(str(attempt.batch_id))
        except RefusedError as error:
            advice = (
                "Look for it in the provider's console. Its requests are paid, so they aren't asked again; to give "
            )
            advice += f"its table up: dagster-batch-llm cancel {attempt.plan}."
            yield Finding(Level.ERROR, subject, f"isn't shown by the provider ({error.message})", advice)


def _unknown(ledger: Ledger, provider: BatchProvider, since: float) -> Iterator[Finding]:
    known = ledger.attempts.linked(provider.account)
    tokens = ledger.upkeep.tokens()
    for batch in provider.list(since).batches:
        token = batch.metadata.get(TOKEN_KEY, "")
        if batch.id not in known and token.startswith(ledger.id[:_MARK]):
            yield _late(batch) if token in tokens else _forgotten(batch)


def _late(batch: Batch) -> Finding:
    advice = "The sensor takes it in at its next sweep, or reconciles its attempt; nothing is lost."
    return Finding(Level.WARNING, f"batch {batch.id}", f"({batch.status}) is ours and not linked yet", advice)


def _forgotten(batch: Batch) -> Finding:
    advice = (
        "The ledger was put back from an older backup: put the newest one back. What this batch answers is paid, and "
        "is asked and paid again if this ledger goes on."
    )
    wrong = f"({batch.status}, {batch.total} requests) was sent with this ledger, which has forgotten it"
    return Finding(Level.ERROR, f"batch {batch.id}", wrong, advice)
