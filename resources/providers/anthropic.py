"""Anthropic's Message Batches as a Dagster resource."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from ..request import RequestSpec
from .http import HttpClient
from .inline import InlineProvider
from .profile import About, Certainty, Profile, Recovery
from .protocol import Batch, BatchProvider, Phase
from .replies import an_object, count, id_of, mapping, moment, path_part
from .resource import BatchResource, clean_key
from .wires.anthropic import ANTHROPIC_WIRE
from .wires.parameters import Parameters, a_list

# Limits: platform.claude.com's page on batches, read 2026-11-24: 100,000 requests or 256 MB, all in one create, hence
# the longer time to send it. That page also proposes a look once a minute. A batch has no field of ours.
# Parameters: `MessageCreateParamsBase` of the anthropic Python package 2.12.0.
ANTHROPIC = Profile(
    name="anthropic",
    about=About(
        title="Anthropic Message Batches",
        found_by="the ids in the first result of a batch of the same time and size, once that has ended",
        certainty=Certainty.COMPARED,
        read="2026-11-24",
        discount="50 %, also of cached tokens",
        structured="output_config.format with a JSON schema",
    ),
    wire=ANTHROPIC_WIRE,
    max_rows=100_000,
    max_bytes=250_000_000,
    keeps_seconds=29 * 86_400.0,
    endpoints={"chat": "/v1/messages"},
    at_once={"chat": "/v1/messages"},
    parameters={
        "chat": Parameters(
            {
                **{name: name for name in ("temperature", "top_p", "top_k", "thinking", "stop_sequences", "metadata")},
                "stop": "stop_sequences",
                "output_config": "output_config",
                "reasoning_effort": "output_config.effort",
            },
            limit="max_tokens",
            shaped={"stop_sequences": a_list},
        )
    },
    recovery=Recovery.RESULTS,
    poll_seconds=(60.0, 300.0),
    send_seconds=300.0,
)


class AnthropicBatch(BatchResource):
    """Anthropic's Message Batches: half the price of realtime, answers within 24 hours.

    A lost create can only be told by the results of the batch that it may have made: until such a batch has ended,
    its requests aren't asked again.

    Args:
        api_key: ``dg.EnvVar("ANTHROPIC_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address, without the version.
        api_version: The ``anthropic-version`` header. Later ones refuse sampling parameters such as temperature.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 100,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.anthropic.com"
    api_version: str = "2023-06-01"

    def provider(self) -> BatchProvider:
        key = clean_key(ANTHROPIC.name, self.api_key, "ANTHROPIC_API_KEY")
        headers = {"x-api-key": key, "anthropic-version": self.api_version}
        http = HttpClient(name=ANTHROPIC.name, base_url=self.base_url, api_key=key, headers=headers)
        return MessageBatches(self.limited(ANTHROPIC), http, account=self.base_url.rstrip("/"))


class MessageBatches(InlineProvider):
    """A `BatchProvider` for one Anthropic workspace. A batch carries its requests; there are no files.

    Shapes: the types of the anthropic Python package 2.12.0, read 2026-11-24.
    """

    batches: str = "/v1/messages/batches"
    page: ClassVar[Mapping[str, str | int]] = {"limit": 1000}
    after: ClassVar[str] = "after_id"

    def envelope(self, spec: RequestSpec) -> tuple[bytes, bytes]:
        del spec  # each request has all of it
        return b'{"requests": [', b"]}"

    def parse(self, body: object) -> Batch:
        job = an_object(body)
        counts = mapping(job.get("request_counts"))
        running, ok, failed, cancelled, expired = (
            count(counts.get(name)) for name in ("processing", "succeeded", "errored", "canceled", "expired")
        )
        status = str(job.get("processing_status", ""))
        ended = Phase.EXPIRED if expired else Phase.CANCELLED if cancelled else Phase.COMPLETED
        phases = {"in_progress": Phase.RUNNING, "canceling": Phase.RUNNING, "ended": ended}
        name = id_of(job)
        return Batch(
            id=name,
            phase=phases.get(status, Phase.UNKNOWN),
            status="cancelling" if status == "canceling" else status,
            created_at=moment(job.get("created_at")),
            expires_at=moment(job.get("expires_at")),
            total=running + ok + failed + cancelled + expired,
            completed=ok,
            failed=failed + cancelled + expired,  # each of them has a line that says so
            result_files=(name,) if status == "ended" else (),  # of an archived one it is said that they are gone
            in_one_file=True,
        )

    def content(self, file: str) -> str:
        # Not `results_url`: a key goes to no address that a reply names.
        return f"{self.batches}/{path_part(file)}/results"
