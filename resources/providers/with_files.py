"""What providers share that take OpenAI's ``/files``."""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from ..errors import ProviderError, RefusedError
from ..request import RequestSpec
from .over_http import HttpProvider
from .profile import Recovery
from .protocol import Batch
from .replies import an_object, id_of, path_part

_A_MOMENT = 2.0


class FilesProvider(HttpProvider):
    """Batches whose requests are uploaded as a file, and whose results are files of the same account."""

    purpose: ClassVar[str] = "batch"
    """What a request file is uploaded for."""

    @abstractmethod
    def asked(self, file_id: str, spec: RequestSpec, token: str) -> Mapping[str, Any]:
        """The body of a create; equal arguments give equal bodies."""

    def made(self, reply: object) -> Batch:
        """The batch that a create's reply speaks of."""
        return self.parse(reply)

    def content(self, file: str) -> str:
        return f"/files/{path_part(file)}/content"

    def upload(self, path: Path, filename: str) -> str:
        reply = self._http.upload("/files", {"purpose": self.purpose}, path, filename)
        return id_of(an_object(reply.body))

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        idempotent = self._profile.recovery is Recovery.IDEMPOTENT
        headers = {"Idempotency-Key": token} if idempotent else None
        reply = self._http.post_once(self.batches, self.asked(file_id, spec, token), still_allowed, headers)
        return self.made(reply.body)

    def has_file(self, file_id: str) -> bool:
        try:
            self._http.get(f"/files/{path_part(file_id)}")
        except ProviderError as error:
            if error.status not in {404, 405, 410, 501}:
                raise
            return not error.is_gone
        return True

    def shows_files(self) -> bool:
        with tempfile.TemporaryDirectory(prefix="batch_llm_") as scratch:
            probe = Path(scratch) / "probe.jsonl"
            probe.write_text("{}\n")
            try:
                file_id = self.upload(probe, probe.name)
            except RefusedError:  # a server that reads what is uploaded
                return True
        shown = self.has_file(file_id)
        if not shown:  # it may take a moment
            self._clock.sleep(_A_MOMENT)
            shown = self.has_file(file_id)
        with suppress(ProviderError):
            self.delete_file(file_id)
        return shown

    def delete_file(self, file_id: str) -> None:
        self.forget(f"/files/{path_part(file_id)}")
