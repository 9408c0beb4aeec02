"""OpenRouter's batches as a Dagster resource."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import RefusedError
from ..file_names import digest
from ..request import RequestSpec
from .http import HttpClient
from .inline import InlineProvider
from .kept import keep
from .openai_shape import parse_batch
from .profile import AT_ONCE, About, Certainty, Profile, Recovery
from .protocol import Batch, BatchProvider, Phase
from .replies import an_object, listed, mapping, path_part
from .resource import BatchResource, clean_key
from .wires.family import OPENROUTER_WIRE
from .wires.parameters import Parameters

# OpenRouter's page on batches, read 2026-11-24: 5,000 requests or 200 MB in one create, which is kept before it is
# checked; results are part of the batch when it has ended; models of Vertex may take 96 hours. Nothing is said of
# metadata, so a lost create is looked for as at Anthropic.
OPENROUTER = Profile(
    name="openrouter",
    about=About(
        title="OpenRouter",
        found_by="the ids in the results of a batch of the same time and size, once that has ended",
        certainty=Certainty.UNVERIFIED,
        read="2026-11-24",
        discount="about 50 %",
        structured="strict JSON schema, as the model's provider takes it",
        uncertain=(
            "the form of a result",
            "its listing's pages",
            "whether a batch can be cancelled: it isn't",
            "how long results are kept",
        ),
    ),
    wire=OPENROUTER_WIRE,
    max_rows=5_000,
    expires=False,
    endpoints={"chat": "/v1/chat/completions", "embedding": "/v1/embeddings"},
    at_once=AT_ONCE,
    parameters={
        "chat": Parameters.named(
            (
                *("temperature", "top_p", "top_k", "min_p", "top_a", "seed", "stop", "frequency_penalty"),
                *("presence_penalty", "repetition_penalty", "logit_bias", "reasoning", "provider", "user", "verbosity"),
            ),
            limit="max_tokens",
            reasoning_effort="reasoning.effort",
        ),
        "embedding": Parameters.named(["user", "provider"]),
    },
    recovery=Recovery.RESULTS,
    poll_seconds=(60.0, 300.0),
    send_seconds=300.0,
)


class OpenRouterBatch(BatchResource):
    """Models of many providers through OpenRouter, one account for all.

    A lost create can only be told by the results of the batch that it may have made: until such a batch has ended,
    its requests aren't asked again. A batch isn't cancelled.

    Args:
        api_key: ``dg.EnvVar("OPENROUTER_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 5,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://openrouter.ai/api/v1"

    def provider(self) -> BatchProvider:
        key = clean_key(OPENROUTER.name, self.api_key, "OPENROUTER_API_KEY")
        http = HttpClient(name=OPENROUTER.name, base_url=self.base_url, api_key=key)
        return OpenRouterBatches(self.limited(OPENROUTER), http, account=self.base_url.rstrip("/"))


class OpenRouterBatches(InlineProvider):
    """A `BatchProvider` for one OpenRouter account."""

    def envelope(self, spec: RequestSpec) -> tuple[bytes, bytes]:
        job = {
            "endpoint": self._profile.endpoints[spec.operation],
            "model": spec.model,
            "completion_window": self._profile.windows[0],
        }
        return json.dumps(job)[:-1].encode() + b', "requests": [', b"]}"

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        error = job.get("error")
        batch = parse_batch({**job, "errors": {"data": [error]} if error else None})
        ended = batch.phase.ended and bool(job.get("results", batch.phase is not Phase.FAILED))
        return replace(batch, result_files=(batch.id,) if ended else (), in_one_file=True)

    def content(self, file: str) -> str:
        return f"{self.batches}/{path_part(file)}"

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        if not batch.result_files:
            return []
        path = folder / f"{digest(batch.id)}.jsonl"
        if not path.exists():
            keep(path, (json.dumps(line).encode() + b"\n" for line in self._results(batch)), self._clock.token())
        return [path]

    def first_custom_id(self, batch: Batch) -> str | None:
        first = next(iter(self._results(batch)), None)
        found = mapping(first).get("custom_id")
        if first is not None and not isinstance(found, str):
            raise RefusedError(f"The first result of batch {batch.id} can't be read.")
        return found if isinstance(found, str) else None

    def cancel(self, batch_id: str) -> None:
        raise RefusedError(f"openrouter: batch {batch_id} can't be cancelled; what it answers will be kept.")

    def _results(self, batch: Batch) -> Sequence[object]:
        return listed(self._http.get(self.content(batch.id)).body, "results", empty=True)
