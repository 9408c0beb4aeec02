"""Five rows for less than a cent, and what came of it beside what is only known from documentation."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import dagster as dg
import genai_prices
import pyarrow as pa
from dagster_batch_llm.assets import classify_asset, embed_asset
from dagster_batch_llm.resources import BatchResource, DuckDBTables, Ledger
from dagster_batch_llm.resources.ledger import Attempt, Send
from dagster_batch_llm.resources.lost_creates import ours
from dagster_batch_llm.resources.providers.profile import Recovery
from dagster_batch_llm.resources.providers.protocol import BatchProvider

TEXTS = ["I am happy.", "I am sad.", "What a joy!", "This is awful.", "Wonderful day."]
LONGEST_ANSWER = 60
_TOKENS_PER_ROW = 150
"""More than the instruction, the text and the schema have."""


def price(provider: str, model: str, *, embeds: bool) -> Decimal | None:
    """US dollars at the realtime list price, an upper bound; None if it isn't known."""
    written = 0 if embeds else LONGEST_ANSWER * len(TEXTS)
    usage = genai_prices.Usage(input_tokens=_TOKENS_PER_ROW * len(TEXTS), output_tokens=written)
    try:
        return genai_prices.calc_price(usage, model, provider_id=provider).total_price
    except LookupError:
        return None


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: whether it is as it is believed to be."""

    about: str
    is_so: bool
    seen: str


def ask(llm: BatchResource, model: str, *, embeds: bool = False) -> Iterator[Finding]:
    """Materialize a table of five rows with this provider, and look at what it shows of the batch afterwards."""
    with tempfile.TemporaryDirectory(prefix="batch-llm-live-") as folder:
        tables = DuckDBTables(path=str(Path(folder) / "warehouse.duckdb"))
        done = dg.materialize(
            [_texts(), _table(model, embeds=embeds)], resources={"llm": llm, "tables": tables}, raise_on_error=False
        )
        yield Finding("the run", done.success, "succeeded" if done.success else "failed; its log says why")
        if not done.success:
            return
        status = [row["status"] for row in tables.query("SELECT status FROM live ORDER BY id").to_pylist()]
        yield Finding("every row has an answer", status == ["ok"] * len(TEXTS), ", ".join(status))
        provider = llm.provider()
        try:
            yield from _looked_at(provider, Ledger())
        finally:
            provider.close()


def _looked_at(provider: BatchProvider, ledger: Ledger) -> Iterator[Finding]:
    attempt = ledger.attempts.find()[-1]
    sends = ledger.attempts.sends(attempt.id)
    (file,) = ledger.attempts.answers([attempt.id])
    yield Finding("its results say how many tokens they cost", file.unmetered == 0, f"{file.unmetered} rows don't")
    batch = provider.check(str(attempt.batch_id))
    counted = (batch.total, batch.completed, batch.failed)
    yield Finding("the batch counts its rows", counted == (attempt.rows, attempt.rows, 0), f"{counted}")
    yield Finding("it says when it was made", batch.created_at is not None, str(batch.created_at))
    yield Finding("its status is known", batch.phase.value != "unknown", f"{batch.status!r} is {batch.phase.value}")
    yield from _found_again(provider, attempt, sends)
    first = provider.first_custom_id(batch)
    mine = first is not None and first.rpartition("-")[0] == sends[-1].token
    yield Finding("its first result names our send", mine, str(first))
    yield Finding("the request file is still there", provider.has_file(sends[-1].file_id), sends[-1].file_id)


def _found_again(provider: BatchProvider, attempt: Attempt, sends: list[Send]) -> Iterator[Finding]:
    listing = provider.list(sends[0].t0)
    yield Finding("the listing can be read to its end", listing.complete, f"{len(listing.batches)} batches")
    told = "its clock is known" if listing.clock_offset else "no Date header"
    yield Finding("the provider tells its time", listing.clock_offset is not None, told)
    if provider.profile.recovery is Recovery.RESULTS:
        there = any(batch.id == attempt.batch_id for batch in listing.batches)
        yield Finding("the batch is listed", there, str(attempt.batch_id))
    else:
        found = [batch.id for batch, _ in ours(listing.batches, sends)]
        yield Finding("a lost create would be found", found == [attempt.batch_id], ", ".join(found) or "nothing")


def _texts() -> dg.AssetsDefinition:
    @dg.asset(name="texts", io_manager_key="tables")
    def texts() -> pa.Table:
        return pa.table({"id": range(len(TEXTS)), "text": TEXTS})

    return texts


def _table(model: str, *, embeds: bool) -> dg.AssetsDefinition:
    if embeds:
        return embed_asset(name="live", source="texts", row_key="id", prompt="{text}", llm="llm", model=model)
    return classify_asset(
        name="live",
        source="texts",
        row_key="id",
        prompt="{text}",
        labels=["happy", "sad"],
        llm="llm",
        model=model,
        parameters={"max_completion_tokens": LONGEST_ANSWER},
        max_attempts=1,
    )
