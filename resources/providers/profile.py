"""What differs between providers, as data: each provider's file has its own, with the source of each fact."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..errors import InputError
from ..request import RequestSpec
from .wires.openai import OPENAI_WIRE
from .wires.parameters import Parameters
from .wires.wire import Wire


class Recovery(StrEnum):
    """How a create whose reply was lost is found again."""

    RECORD = "record"
    """A listed batch carries our token, or the id of a file that only this send used."""
    RESULTS = "results"
    """A listed batch says nothing; only its result lines carry our token, when it has ended."""
    IDEMPOTENT = "idempotent"
    """The same create with the same token is the same batch, as long as the provider remembers it."""


class Certainty(StrEnum):
    """How sure it is that what is written here is what the provider does. No test here has an account."""

    RUN = "run against the server itself"
    COMPARED = "compared with the provider's own package"
    UNVERIFIED = "unverified: written after its documentation"


@dataclass(frozen=True)
class About:
    """What people want to know of a provider before they choose it.

    Attributes:
        title: As it calls itself.
        found_by: What a create whose reply was lost is found by, in words.
        certainty: How sure that is.
        read: The day on which its facts were read.
        discount: Of its batches, against its realtime price; empty if nothing is published.
        structured: How an answer is held to a schema.
        uncertain: What could not be made sure of, each in a sentence's part.
    """

    title: str
    found_by: str
    certainty: Certainty
    read: str
    discount: str = ""
    structured: str = "strict JSON schema"
    uncertain: tuple[str, ...] = ()


AT_ONCE: Mapping[str, str] = {"chat": "/chat/completions", "embedding": "/embeddings"}
"""Where OpenAI, and whoever speaks as it does, answers a request at once."""

_A_SERVER = About("a server", "its token or its input file, in the whole listing", Certainty.UNVERIFIED, "never")


@dataclass(frozen=True)
class Profile:
    """What differs between providers.

    Attributes:
        name: Short name, used in messages and file names.
        about: For docs/providers.md.
        wire: How it writes requests and results.
        max_rows: Most requests in one batch.
        min_rows: Fewest requests in one batch; fewer are asked one by one, see `at_once`.
        max_bytes: Most bytes in one request file.
        max_line_bytes: Most bytes in one request; a longer row becomes an error row.
        max_queued_tokens: Most input tokens of one model that may be under way in one account; None if it isn't known.
        max_open: Most batches of one account that may be under way; None if there is no such limit.
        windows: Completion windows the provider takes; the first is the default.
        expires: Whether a batch ends at its window.
        keeps_seconds: How long after its creation a batch's results are kept; None if for good, or in your own bucket.
        keeps_files_seconds: How long a request file is kept.
        queue_full_codes: Validation errors that mean "later", not "never".
        endpoints: Operation → the path that answers it; what isn't named has no batches.
        at_once: Operation → the path, below the address, that answers one request at once; ``{model}`` in it is the
            task's. Empty if requests can only be asked in batches.
        parameters: Operation → what a task may set; what isn't named takes everything as it is.
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
    about: About = _A_SERVER
    wire: Wire = OPENAI_WIRE
    max_rows: int = 50_000
    min_rows: int = 1
    max_bytes: int = 200_000_000
    max_line_bytes: int = 20_000_000
    max_queued_tokens: int | None = None
    max_open: int | None = None
    windows: tuple[str, ...] = ("24h",)
    expires: bool = True
    keeps_seconds: float | None = None
    keeps_files_seconds: float = 30 * 86_400.0
    queue_full_codes: frozenset[str] = frozenset({"token_limit_exceeded"})
    endpoints: Mapping[str, str] = field(
        default_factory=lambda: {"chat": "/v1/chat/completions", "embedding": "/v1/embeddings"}
    )
    at_once: Mapping[str, str] = field(default_factory=dict[str, str])
    parameters: Mapping[str, Parameters] = field(default_factory=dict[str, Parameters])
    revocable: bool = False
    listing_lag: float = 120.0
    settle: float = 1800.0
    recovery: Recovery = Recovery.RECORD
    remembers: float = 600.0
    answers_late: float = 600.0
    poll_seconds: tuple[float, float] = (15.0, 300.0)
    send_seconds: float = 30.0

    def line_parts(self, spec: RequestSpec) -> tuple[str, str, str]:
        """`Wire.line_parts` with this provider's endpoint, and the parameters where it has them.

        Raises:
            InputError: It has no batches of this kind, or the task can't be said in its way.
        """
        if spec.operation not in self.endpoints:
            offered = ", ".join(sorted(self.endpoints))
            raise InputError(
                f"{self.name} has no batches for requests of kind {spec.operation.value!r} (it has {offered}). Name "
                "another provider with llm='…'."
            )
        try:
            return self.wire.line_parts(self.placed(spec), self.endpoints[spec.operation])
        except InputError as error:
            raise InputError(f"{self.name}: {error.message}") from error

    def placed(self, spec: RequestSpec) -> RequestSpec:
        """The task with its parameters as this provider calls them.

        Raises:
            InputError: One of them can't be set here.
        """
        taken = self.parameters.get(spec.operation)
        return taken.placed(spec) if taken else spec
