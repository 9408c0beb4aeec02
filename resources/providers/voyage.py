"""Voyage AI's batches as a Dagster resource: embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BusyError, RefusedError
from ..request import RequestSpec
from .openai_shape import OpenAIShape
from .profile import About, Certainty, Profile
from .protocol import Batch, BatchProvider
from .resource import BatchResource, clean_key
from .wires.family import VOYAGE_WIRE
from .wires.parameters import Parameters

# Voyage's guide on batch inference, read 2026-11-24: 100,000 inputs a batch, 100 batches at once, 12 hours, after which
# what is left is in the error file of a completed batch. The size of a file (1 GB) is not the guide's.
VOYAGE = Profile(
    name="voyage",
    about=About(
        title="Voyage AI",
        found_by="its token or its input file, in the whole listing",
        certainty=Certainty.UNVERIFIED,
        read="2026-11-24",
        discount="33 %",
        structured="no answers but vectors",
        uncertain=("the form of a page of the listing", "the largest file", "the name of `request_params`"),
    ),
    wire=VOYAGE_WIRE,
    max_rows=100_000,
    max_bytes=500_000_000,
    max_open=100,
    windows=("12h",),
    keeps_seconds=30 * 86_400.0,
    endpoints={"embedding": "/v1/embeddings"},
    at_once={"embedding": "/embeddings"},
    parameters={"embedding": Parameters.named(("input_type", "truncation"))},
)


class VoyageBatch(BatchResource):
    """Embeddings by Voyage AI, a third below their realtime price.

    Args:
        api_key: ``dg.EnvVar("VOYAGE_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 100,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.voyageai.com/v1"

    def provider(self) -> BatchProvider:
        key = clean_key(VOYAGE.name, self.api_key, "VOYAGE_API_KEY")
        return self.client(VOYAGE, base_url=self.base_url, api_key=key, shape=VoyageShape)


class VoyageShape(OpenAIShape):
    """`OpenAIShape`, but a job says for all its rows what is asked."""

    def asked(self, file_id: str, spec: RequestSpec, token: str) -> Mapping[str, Any]:
        return {**super().asked(file_id, spec, token), "request_params": self._shared(spec)}

    def at_once(self, spec: RequestSpec, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**self._shared(spec), **body}

    def _shared(self, spec: RequestSpec) -> Mapping[str, Any]:
        dimensions = {"output_dimension": spec.dimensions} if spec.dimensions else {}
        return {"model": spec.model, **dimensions, **self._profile.placed(spec).parameters}

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        try:
            return super().create(file_id, spec, token, still_allowed)
        except RefusedError as error:
            if error.status != 404:
                raise
            # A file that was uploaded a moment ago may not be seen yet.
            raise BusyError(error.message, status=404, retry_after=30.0) from error
