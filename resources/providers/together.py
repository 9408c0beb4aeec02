"""Together's batches as a Dagster resource."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ..errors import RefusedError
from ..request import RequestSpec
from .openai_shape import OpenAIShape, parse_batch
from .profile import About, Certainty, Profile
from .protocol import Batch, BatchProvider, Problem
from .replies import an_object, id_of, loaded, mapping, no_address, path_part
from .resource import BatchResource, clean_key
from .wires.family import TOGETHER_WIRE
from .wires.parameters import Parameters

# Job, listing and upload: the together Python package 3.1.1, read 2026-11-25. Rows, bytes, the window and the discount:
# docs.together.ai on batch inference.
TOGETHER = Profile(
    name="together",
    about=About(
        title="Together",
        found_by="its input file, in a listing without pages",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="up to 50 %, on some models",
        structured="JSON schema",
        uncertain=(
            "whether a long listing is cut: one of 20 batches or more has to reach far enough",
            "24 hours are a goal there, some batches take up to 72",
        ),
    ),
    wire=TOGETHER_WIRE,
    max_bytes=100_000_000,
    endpoints={"chat": "/v1/chat/completions"},
    at_once={"chat": "/chat/completions"},
    parameters={
        "chat": Parameters.named(
            (
                *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "stop"),
                *("frequency_penalty", "presence_penalty", "logit_bias", "reasoning", "reasoning_effort"),
                *("safety_model", "context_length_exceeded_behavior", "chat_template_kwargs"),
            ),
            limit="max_tokens",
        )
    },
)


class TogetherBatch(BatchResource):
    """Open models on Together.

    Args:
        api_key: ``dg.EnvVar("TOGETHER_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The API's address with its version.
        max_rows_per_batch: Cut into smaller batches than the provider's limit of 50,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
    """

    api_key: str
    base_url: str = "https://api.together.xyz/v1"

    def provider(self) -> BatchProvider:
        key = clean_key(TOGETHER.name, self.api_key, "TOGETHER_API_KEY")
        return self.client(TOGETHER, base_url=self.base_url, api_key=key, shape=TogetherShape)


class TogetherShape(OpenAIShape):
    """`OpenAIShape` without metadata and counts; a file is sent to an address that the server names."""

    purpose: ClassVar[str] = "batch-api"
    listing: ClassVar[str] = ""
    paged: ClassVar[bool] = False

    def upload(self, path: Path, filename: str) -> str:
        with path.open("rb") as stream:
            checksum = hashlib.file_digest(stream, "sha256").hexdigest()
        fields = {"purpose": self.purpose, "file_name": filename, "file_type": "jsonl", "checksum": checksum}
        form = {name: (None, value) for name, value in fields.items()}
        named = self._http.answered("POST", "/files", files=form, accepted=(302, 409))
        if named.status == 409:  # the same file, which a reply that was lost had named
            known = id_of({"id": loaded(named.text).get("file_id")})
            if self._came(known, path.stat().st_size):
                return known
            with suppress(RefusedError):  # then the name stays taken, and this is tried anew with another file
                self.delete_file(known)  # its lines never came, and without its address they can't
            named = self._http.answered("POST", "/files", files=form, accepted=(302,))
        address, file_id = named.headers.get("location"), named.headers.get("x-together-file-id")
        if not address or not file_id:
            raise no_address("together", named.text)
        self._http.put(address, path, {})
        self._http.answered("POST", f"/files/{path_part(file_id)}/preprocess")
        return file_id

    def _came(self, file_id: str, size: int) -> bool:
        try:
            about = an_object(self._http.get(f"/files/{path_part(file_id)}").body)
        except RefusedError:  # nothing is known of what was only named
            return False
        return about.get("bytes") == size

    def asked(self, file_id: str, spec: RequestSpec, token: str) -> Mapping[str, Any]:
        whole = super().asked(file_id, spec, token)
        return {name: value for name, value in whole.items() if name != "metadata"}

    def made(self, reply: object) -> Batch:
        return self.parse(mapping(reply).get("job"))

    def parse(self, body: object) -> Batch:
        said = an_object(body).get("error")
        batch = parse_batch(body)
        return replace(batch, problems=(Problem("error", str(said)),)) if said else batch
