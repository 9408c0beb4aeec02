"""The emulated provider, as a test holds it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from ..errors import InputError, StorageError
from ..local import ensure_server, script_faults, stop_server
from ..local.emulator import Fault, Faults
from ..providers.local import LocalBatch
from .bill import Bill, Paid

_SECONDS = 30.0


class Emulator:
    """A batch provider on this machine that answers without a model and goes wrong as its script says.

    Use it as a context manager; it is a process of its own, stopped at the end. What it knows lies in its folder, the
    bill too, and survives a kill. An answer picks the listed value whose name is in the prompt, else the first one;
    a text is the prompt's first sentence, a number 0, a vector made of the prompt's digest.

    Args:
        folder: A folder of its own.
        faults: What goes wrong from the start; nothing if not given.
        min_batch_seconds: A batch takes at least so long.

    Raises:
        MissingExtraError: The extra ``local`` is not installed.
        StorageError: The folder can't be used, or the server does not start.
    """

    def __init__(self, folder: Path, faults: Faults | None = None, *, min_batch_seconds: float = 0.0) -> None:
        self._folder = folder
        self._faults = faults or Faults()
        self._min_batch_seconds = min_batch_seconds

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it; entering does this."""
        script_faults(self._folder, self._faults)
        self._server()

    def stop(self) -> None:
        """Stop it; leaving does this."""
        stop_server(self._folder)

    @property
    def address(self) -> str:
        """Where it listens, without a path: what a provider's resource has as `base_url`, or begins with."""
        return f"http://{self._server()[0]}"

    @property
    def key(self) -> str:
        """What it takes as an API key."""
        return self._server()[1]

    def resource(self) -> LocalBatch:
        """The resource that assets name with ``llm=``, where it speaks OpenAI's protocol."""
        return LocalBatch(folder=str(self._folder), min_batch_seconds=self._min_batch_seconds)

    def script(self, *faults: Fault, seed: int = 0) -> None:
        """Have these faults, and no others, from now on; counting starts anew, the bill goes on.

        Raises:
            InputError: A fault is unknown; the message lists the known ones.
        """
        self._say("POST", "/emulator/faults", Faults(faults, seed).to_json())

    def advance(self, seconds: float) -> None:
        """Put the provider's clock forward: windows pass, files expire, and its clock is off by as much."""
        self._say("POST", "/emulator/clock", json.dumps({"seconds": seconds}))

    def bill(self) -> Bill:
        """What was paid so far."""
        said = self._say("GET", "/emulator/bill")
        listed: Sequence[Mapping[str, object]] = said["requests"]  # pyright: ignore[reportAssignmentType]
        requests = tuple(Paid(**{**one, "custom_ids": tuple(one["custom_ids"])}) for one in listed)  # pyright: ignore[reportArgumentType]
        return Bill(int(str(said["batches"])), requests)

    def _server(self) -> tuple[str, str]:
        server = ensure_server(self._folder, min_batch_seconds=self._min_batch_seconds)
        return urlsplit(server.base_url).netloc, server.token

    def _say(self, method: str, path: str, body: str | None = None) -> Mapping[str, object]:
        netloc, token = self._server()
        connection = HTTPConnection(netloc, timeout=_SECONDS)
        try:
            connection.request(method, path, body, {"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            said = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as error:
            raise StorageError(f"The emulator in {self._folder} doesn't answer: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise InputError(f"The emulator refuses this: {said['error']['message']}")
        return said
