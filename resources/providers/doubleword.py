"""Doubleword's batch API as a Dagster resource."""

from __future__ import annotations

import re

from ..errors import UserError
from .profile import DOUBLEWORD
from .protocol import BatchProvider
from .resource import BatchResource, clean_key


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
