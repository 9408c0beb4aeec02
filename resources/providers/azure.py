"""Azure OpenAI's batches as a Dagster resource."""

from __future__ import annotations

from pathlib import Path

from ..errors import BusyError, RefusedError, UserError
from .openai import CHAT_PARAMETERS, with_responses
from .openai_shape import OpenAIShape
from .profile import AT_ONCE, About, Certainty, Profile
from .protocol import BatchProvider
from .replies import an_object, path_part
from .resource import BatchResource, clean_key
from .wires.parameters import Parameters

_PENDING = {"pending", "running", "uploading"}
_LOOKS, _LOOK_SECONDS = 60, 1.0

# learn.microsoft.com's REST reference of the v1 API and pages on global batch, read 2026-11-24. A file has to be
# processed before a batch may name it; a job goes on past its window; rows and bytes are remembered from these pages.
AZURE = Profile(
    name="azure",
    about=About(
        title="Azure OpenAI",
        found_by="its token or its input file, in the whole listing",
        certainty=Certainty.COMPARED,
        read="2026-11-25",
        discount="50 %",
        uncertain=(
            "the address with api-version, which older resources need",
            "rows and bytes per file",
            "what a file's states are called before it is processed",
        ),
    ),
    max_rows=100_000,
    expires=False,
    at_once=AT_ONCE,
    parameters={"chat": CHAT_PARAMETERS, "embedding": Parameters.named(["user"])},
)


class AzureOpenAIBatch(BatchResource):
    """Azure OpenAI: a table's ``model=`` is the name of a deployment of kind GlobalBatch or DataZoneBatch.

    A batch that isn't through at its window goes on; it never expires.

    Args:
        api_key: ``dg.EnvVar("AZURE_OPENAI_API_KEY")``; it goes nowhere but to `base_url`.
        base_url: The resource's address with its version: ``https://<resource>.openai.azure.com/openai/v1``.
        chat_api: What answers chats: ``chat/completions``, or ``responses``, the newer one.
        max_rows_per_batch: Cut into smaller batches than 100,000 rows.

    Raises:
        MissingSecretError: The key is empty, or can't be one.
        UserError: The address has no version, or there is no such chat_api.
    """

    api_key: str
    base_url: str
    chat_api: str = "chat/completions"

    def provider(self) -> BatchProvider:
        key = clean_key(AZURE.name, self.api_key, "AZURE_OPENAI_API_KEY")
        if not self.base_url.rstrip("/").endswith("/openai/v1"):
            raise UserError(
                f"azure: base_url is {self.base_url!r}; write it as https://<resource>.openai.azure.com/openai/v1. "
                "Nothing was sent."
            )
        headers = {"api-key": key}
        profile = with_responses(AZURE, self.chat_api)
        return self.client(profile, base_url=self.base_url, api_key=key, headers=headers, shape=AzureShape)


class AzureShape(OpenAIShape):
    """`OpenAIShape`, but an uploaded file is processed before it may be used."""

    def upload(self, path: Path, filename: str) -> str:
        file_id = super().upload(path, filename)
        for _ in range(_LOOKS):
            file = an_object(self._http.get(f"/files/{path_part(file_id)}").body)
            status = str(file.get("status", "processed")).lower()
            if status in {"error", "failed", "deleted"}:
                why = str(file.get("status_details"))
                raise RefusedError(f"azure: the request file {file_id} is {status}: {why!r}. Nothing was asked.")
            if status not in _PENDING:
                return file_id
            self._clock.sleep(_LOOK_SECONDS)
        raise BusyError(f"azure: the request file {file_id} is still being processed. Nothing was asked yet.")
