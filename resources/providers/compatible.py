"""Any other server that offers OpenAI's files and batches, as a Dagster resource."""

from __future__ import annotations

from dataclasses import replace

from ..errors import UserError
from .profile import AT_ONCE, About, Certainty, Profile
from .protocol import BatchProvider
from .resource import BatchResource, clean_key

# Nobody documents these for all servers: the smaller of what OpenAI, Doubleword and AIBrix 0.8 take.
COMPATIBLE = Profile(
    name="openai-compatible",
    about=About(
        title="any server that offers `/files` and `/batches` as OpenAI does",
        found_by="its token or its input file; a listing that can't be read to its end proves nothing",
        certainty=Certainty.RUN,
        read="2026-11-25",
        structured="JSON schema, as the model's server takes it",
        uncertain=("every server but AIBrix 0.8, which is what was run",),
    ),
    max_bytes=100_000_000,
    max_line_bytes=10_000_000,
    at_once=AT_ONCE,
)

_A_DAY = 86_400.0


class OpenAICompatibleBatch(BatchResource):
    """A server of your own, or a service, that offers ``/files`` and ``/batches`` as OpenAI does.

    Nothing is taken for granted that servers of this shape do differently: a status that OpenAI doesn't have is waited
    out, and a listing that can't be read to its end proves nothing.

    Args:
        base_url: Its address with the version, such as ``http://127.0.0.1:8090/v1``.
        api_key: Its key, if it wants one: ``dg.EnvVar(…)``. It goes nowhere but to `base_url`.
        completion_window: Passed on as it is; which windows there are is the server's business.
        max_rows_per_batch: Cut into smaller batches than 50,000 rows.
        max_file_bytes: Largest request file that the server takes, in bytes. A row that is larger becomes an error row.
        settle_seconds: How long after it was sent a create whose reply was lost may still become a batch. Only then is
            it asked again; set it higher where a gateway holds requests back for longer.

    Raises:
        UserError: The address isn't one, or a limit is below one.
        MissingSecretError: The key can't be one.
    """

    base_url: str
    api_key: str = ""
    completion_window: str = "24h"
    max_file_bytes: int = COMPATIBLE.max_bytes
    settle_seconds: float = COMPATIBLE.settle

    def provider(self) -> BatchProvider:
        if self.max_file_bytes < 1:
            raise UserError(
                f"{COMPATIBLE.name}: max_file_bytes is {self.max_file_bytes}; a file has at least one byte."
            )
        if not COMPATIBLE.listing_lag <= self.settle_seconds <= _A_DAY:
            raise UserError(
                f"{COMPATIBLE.name}: settle_seconds is {self.settle_seconds:g}; it is at least "
                f"{COMPATIBLE.listing_lag:g}, in which a new batch may not be listed yet, and a day at most."
            )
        key = clean_key(COMPATIBLE.name, self.api_key, "BATCH_SERVER_KEY") if self.api_key else ""
        line = min(COMPATIBLE.max_line_bytes, self.max_file_bytes)
        profile = replace(COMPATIBLE, max_bytes=self.max_file_bytes, max_line_bytes=line, settle=self.settle_seconds)
        return self.client(profile, base_url=self.base_url, api_key=key, window=self.completion_window)
