"""The embedded default: a batch server on this machine, without a key and without a network."""

from __future__ import annotations

import socket
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import StorageError, UnreachableError
from ..ledger import default_home
from .profile import AT_ONCE, About, Certainty, Profile
from .protocol import BatchProvider
from .resource import BatchResource

# Our own loopback server: a create whose input file is gone is refused, and a listing reads the same database.
LOCAL = Profile(
    name="local",
    about=About(
        title="this machine",
        found_by="its token; the input file of a create that is given up is deleted first",
        certainty=Certainty.RUN,
        read="2026-11-25",
        structured="nearest of the listed values",
    ),
    max_rows=10_000,
    max_bytes=50_000_000,
    max_line_bytes=1_000_000,
    keeps_seconds=30 * 86_400.0,
    revocable=True,
    listing_lag=0.0,
    answers_late=0.0,
    poll_seconds=(1.0, 5.0),
    at_once=AT_ONCE,
)

_ENGINE = "local/all-MiniLM-L6-v2"
_EMULATOR = "local/emulator"
_CONNECT_SECONDS = 5.0


class LocalBatch(BatchResource):
    """A loopback server, started when it is needed, that speaks OpenAI's batch protocol.

    By itself it is not a language model: it picks the nearest label and embeds with all-MiniLM-L6-v2, and answers
    free text with the first sentence. With `upstream` it sends each request to a server of your own instead.

    Args:
        upstream: Address of your OpenAI-compatible server (Ollama, llama.cpp, vLLM), such as
            ``http://127.0.0.1:11434/v1``.
        upstream_key: That server's key, if it wants one; use ``dg.EnvVar``.
        weights: Folder with all-MiniLM-L6-v2's ``model.safetensors`` and ``tokenizer.json``, if they are neither
            in the Hugging Face cache nor installed.
        folder: Where the server keeps its state; below ``BATCH_LLM_HOME`` by default.
        idle_seconds: The server stops by itself after so long without work.
        min_batch_seconds: A batch takes at least so long; for trying out what waiting looks like.

    Raises:
        MissingExtraError: The extra ``local`` is not installed.
        StorageError: The weights can't be found or aren't the right ones.
    """

    upstream: str | None = None
    upstream_key: str | None = None
    weights: str | None = None
    folder: str | None = None
    idle_seconds: float = 900.0
    min_batch_seconds: float = 0.0

    def check_ready(self) -> None:
        if self.upstream is None:
            return
        address = urlsplit(self.upstream)
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise UnreachableError(
                f"local: no connection to the upstream server {self.upstream} ({error}). Nothing was asked. Start it, "
                "or correct its address, and run again."
            ) from error

    @property
    def can_be_late(self) -> bool:
        # A create is given up by deleting its file, and this server refuses one whose file is gone. Looking would
        # only start it again.
        return False

    def answering(self, model: str) -> str:
        # Its answers must never be taken for those of a paid model that was only tried out under its name.
        if (self._home() / "faults.json").exists():
            return f"{_EMULATOR}/{model}"
        return model if self.upstream else _ENGINE

    def provider(self) -> BatchProvider:
        from ..local import ensure_server  # noqa: PLC0415 - the server's packages come with the extra "local"

        home = self._home()
        start = partial(
            ensure_server,
            home,
            weights=Path(self.weights) if self.weights else None,
            upstream=self.upstream,
            upstream_key=self.upstream_key,
            idle_seconds=self.idle_seconds,
            min_batch_seconds=self.min_batch_seconds,
        )
        server = start()

        def start_again() -> str | None:
            # A run that waits by itself has nobody else who would start a server that was killed.
            try:
                return start().base_url
            except StorageError:
                return None  # it stays away, and the request's own error says so

        # The port changes when the server restarts; its folder is what stays.
        account = f"local:{home.absolute()}"
        return self.client(
            LOCAL, base_url=server.base_url, api_key=server.token, account=account, when_away=start_again
        )

    def _home(self) -> Path:
        return Path(self.folder) if self.folder else default_home() / "local"
