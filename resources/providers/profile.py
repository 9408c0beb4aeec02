"""Facts about providers, as data. Each names its source and the day it was read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import InputError
from ..request import RequestSpec
from .anthropic_wire import ANTHROPIC_WIRE
from .openai_wire import OPENAI_WIRE
from .wire import Wire


class Recovery(StrEnum):
    """How a create whose reply was lost is found again."""

    RECORD = "record"
    """A listed batch carries our token, or the id of a file that only this send used."""
    RESULTS = "results"
    """A listed batch says nothing; only its result lines carry our token, when it has ended."""
    IDEMPOTENT = "idempotent"
    """The same create with the same token is the same batch, as long as the provider remembers it."""


@dataclass(frozen=True)
class Profile:
    """What differs between providers.

    Attributes:
        name: Short name, used in messages and file names.
        wire: How it writes requests and results.
        max_rows: Most requests in one batch.
        max_bytes: Most bytes in one request file.
        max_line_bytes: Most bytes in one request; a longer row becomes an error row.
        windows: Completion windows the provider takes; the first is the default.
        queue_full_codes: Validation errors that mean "later", not "never".
        revocable: Whether a create that names a deleted input file is certain to fail.
        listing_lag: Seconds after which a created batch is sure to be listed.
        settle: Seconds after which an unanswered create can no longer take effect.
        recovery: How an unanswered create is found.
        remembers: Seconds for which an idempotent provider is sure to know a token again.
        answers_late: Seconds after a batch's end for which answers that it counts may be lacking in its files.
        poll_seconds: Wait between two looks at a batch: the first, and the longest after backing off.
        send_seconds: From the durable intent to the last moment in which a create may leave.
    """

    name: str
    wire: Wire = OPENAI_WIRE
    max_rows: int = 50_000
    max_bytes: int = 200_000_000
    max_line_bytes: int = 20_000_000
    windows: tuple[str, ...] = ("24h",)
    queue_full_codes: frozenset[str] = frozenset({"token_limit_exceeded"})
    endpoints: Mapping[str, str] = field(
        default_factory=lambda: {"chat": "/v1/chat/completions", "embedding": "/v1/embeddings"}
    )
    revocable: bool = False
    listing_lag: float = 120.0
    settle: float = 1800.0
    recovery: Recovery = Recovery.RECORD
    remembers: float = 600.0
    answers_late: float = 600.0
    poll_seconds: tuple[float, float] = (15.0, 300.0)
    send_seconds: float = 30.0

    def line_parts(self, spec: RequestSpec) -> tuple[str, str, str]:
        """`Wire.line_parts` with this provider's endpoint.

        Raises:
            InputError: It has no batches of this kind, or the parameters can't be sent.
        """
        if spec.operation not in self.endpoints:
            offered = ", ".join(sorted(self.endpoints))
            raise InputError(
                f"{self.name} has no batches for requests of kind {spec.operation.value!r} (it has {offered}). Name "
                "another provider with llm='…'."
            )
        return self.wire.line_parts(spec, self.endpoints[spec.operation])


# Limits: the batches.create docstring of the openai Python package 3.57.0, read 2026-11-24. A limit per line
# is documented nowhere; 20 MB keeps one row from filling a file. Whether a deleted input file stops a late
# create is unverified, so it is not relied upon.
OPENAI = Profile(name="openai")

# Read on 2026-11-25 in the server's public source, doublewordai/control-layer at 062af86 of 2026-08-21; the hosted
# service may run another version. Windows and 100 MiB per file: config.yaml and dwctl/src/config.rs; 10 MiB per request
# body: `max_body_size` there. Rows per file have no limit by default; 50,000 is what a commented line there proposes.
# The listing has a `search` that would find a batch by its token. It isn't used: if it didn't reach the metadata, a
# batch that is there would be proven absent and be paid twice.
DOUBLEWORD = Profile(
    name="doubleword",
    max_bytes=100_000_000,
    max_line_bytes=10_000_000,
    windows=("24h", "1h"),
)

# Limits: platform.claude.com's page on batches, read 2026-11-24: 100,000 requests or 256 MB, all in one create, hence
# the longer time to send it. That page also proposes a look once a minute. A batch has no field of ours.
ANTHROPIC = Profile(
    name="anthropic",
    wire=ANTHROPIC_WIRE,
    max_rows=100_000,
    max_bytes=250_000_000,
    endpoints={"chat": "/v1/messages"},
    recovery=Recovery.RESULTS,
    poll_seconds=(60.0, 300.0),
    send_seconds=300.0,
)

# Nobody documents these for all servers: the smaller of what OpenAI, Doubleword and AIBrix 0.8 take.
COMPATIBLE = Profile(name="openai-compatible", max_bytes=100_000_000, max_line_bytes=10_000_000)

# Our own loopback server: a create whose input file is gone is refused, and a listing reads the same database.
LOCAL = Profile(
    name="local",
    max_rows=10_000,
    max_bytes=50_000_000,
    max_line_bytes=1_000_000,
    revocable=True,
    listing_lag=0.0,
    answers_late=0.0,
    poll_seconds=(1.0, 5.0),
)
