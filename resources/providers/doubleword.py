"""Doubleword's batch API as a Dagster resource."""

from __future__ import annotations

import re

from ..errors import UserError
from .profile import AT_ONCE, About, Certainty, Profile
from .protocol import BatchProvider
from .resource import BatchResource, clean_key

# Read on 2026-11-25 in the server's public source, doublewordai/control-layer at 062af86 of 2026-08-21; the hosted
# service may run another version. Windows and 100 MiB per file: config.yaml and dwctl/src/config.rs; 10 MiB per request
# body: `max_body_size` there. Rows per file have no limit by default; 50,000 is what a commented line there proposes.
# The listing has a `search` that would find a batch by its token. It isn't used: if it didn't reach the metadata, a
# batch that is there would be proven absent and be paid twice.
DOUBLEWORD = Profile(
    name="doubleword",
    about=About(
        title="Doubleword",
        found_by="its token or its input file, in the whole listing",
        certainty=Certainty.UNVERIFIED,
        read="2026-11-25",
        structured="strict JSON schema, as the model's server takes it",
        uncertain=("whether the hosted service takes 1h for batches", "its prices"),
    ),
    max_bytes=100_000_000,
    max_line_bytes=10_000_000,
    windows=("24h", "1h"),
    expires=False,
    at_once=AT_ONCE,
)


class DoublewordBatch(BatchResource):
    """Open models on Doubleword, which speaks OpenAI's files and batches.

    A batch that isn't through at its deadline goes on; it never expires. What is known of the service was read in
    the source of its server, not seen with an account.

    Args:
        api_key: ``dg.EnvVar("DOUBLEWORD_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version; set it for a control layer that you run yourself.
        completion_window: How long the provider should take, in hours. The server takes the windows that it is
            configured with, ``24h`` and ``1h`` in the published configuration, and refuses others unpaid. Whether the
            hosted service takes ``1h`` for batches is not certain.
        max_rows_per_batch: Cut into smaller batches than 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
        UserError: The window isn't a number of hours such as ``24h``.
    """

    api_key: str
    base_url: str = "https://api.doubleword.ai/v1"
    completion_window: str = "24h"

    def provider(self) -> BatchProvider:
        key = clean_key(DOUBLEWORD.name, self.api_key, "DOUBLEWORD_API_KEY")
        if not re.fullmatch(r"[0-9]+h", self.completion_window):
            raise UserError(
                f"doubleword: completion_window is {self.completion_window!r}; write it in hours, such as '24h' or "
                "'1h'. Nothing was sent."
            )
        return self.client(DOUBLEWORD, base_url=self.base_url, api_key=key, window=self.completion_window)
