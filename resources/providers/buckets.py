"""What providers share that read requests from a bucket of yours and write results into it."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from ..clock import Clock
from ..errors import RefusedError, UserError
from .http import HttpClient
from .over_http import HttpProvider
from .profile import Profile
from .protocol import Batch, Phase

_BUCKET = r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"
_FOLDER = r"(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*"
"""Parts of a name that neither a signature nor an address has to escape, and none that leads elsewhere."""


class Bucket(ABC):
    """Objects in buckets, by addresses such as ``s3://bucket/key``.

    Args:
        http: Where the buckets are, with what is needed to get in.
    """

    scheme: ClassVar[str]

    def __init__(self, http: HttpClient) -> None:
        self.http = http

    def split(self, address: str) -> tuple[str, str]:
        """An object's bucket and its key."""
        bucket, _, key = address.removeprefix(f"{self.scheme}://").partition("/")
        return bucket, key

    @abstractmethod
    def put(self, path: Path, address: str) -> None:
        """Write a file; repeating it is safe."""

    @abstractmethod
    def below(self, folder: str) -> list[str]:
        """The addresses of all objects in a folder, whose address ends with a slash."""

    @abstractmethod
    def content(self, address: str) -> str:
        """The path at which an object is read."""

    @abstractmethod
    def has(self, address: str) -> bool:
        """Whether there is such an object."""

    @abstractmethod
    def delete(self, address: str) -> None:
        """Delete an object; one that is gone already is fine."""


def clean_folder(name: str, setting: str, scheme: str, address: str) -> str:
    """An address of a folder as it is used, without a slash at its end.

    Args:
        name: The provider's, for the message.
        setting: What it is configured as.
        scheme: ``s3`` or ``gs``.
        address: As it was configured.

    Raises:
        UserError: It is none.
    """
    folder = address.strip().rstrip("/")
    if re.fullmatch(f"{scheme}://{_BUCKET}{_FOLDER}", folder):
        return folder
    raise UserError(
        f"{name}: {setting} is {address!r}; write it as '{scheme}://bucket/folder', a folder of a bucket of yours "
        "whose name has letters, digits and . _ - only. Nothing was sent."
    )


class BucketProvider(HttpProvider):
    """Batches whose requests lie in a bucket, and whose results are written into a folder beside them.

    Args:
        profile: The facts about the provider.
        http: The API's address, with what is needed to get in.
        bucket: Where files are.
        folder: The address of the folder that they go into.
        account: Whose batches these are.
        clock: For tests.
    """

    results: ClassVar[str]
    """How the names of result files end; there may be others beside them."""

    def __init__(
        self,
        profile: Profile,
        http: HttpClient,
        *,
        bucket: Bucket,
        folder: str,
        account: str,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(profile, http, account=account, clock=clock)
        self._store = bucket.http
        self._bucket = bucket
        self._folder = folder

    def output(self, token: str) -> str:
        """The folder of a send's results: its own, because two batches could write the same file."""
        return f"{self._folder}/results/{token}"

    def upload(self, path: Path, filename: str) -> str:
        # Whether batches can be listed is found out before one is made; and what time it is there.
        self._http.get(self.batches, self.page)
        address = f"{self._folder}/requests/{filename}"
        self._bucket.put(path, address)
        return address

    def content(self, file: str) -> str:
        return self._bucket.content(file)

    def fetch(self, batch: Batch, folder: Path) -> list[Path]:
        found = [file for place in batch.result_files for file in self._bucket.below(place)]
        files = tuple(file for file in found if file.endswith(self.results))
        if not files and (batch.phase is Phase.COMPLETED or batch.completed + batch.failed > 0):
            where = ", ".join(batch.result_files) or "its bucket"
            raise RefusedError(f"{self._profile.name}: batch {batch.id} has no results in {where}.", status=404)
        return super().fetch(replace(batch, result_files=files), folder)

    def has_file(self, file_id: str) -> bool:
        return self._bucket.has(file_id)

    def shows_files(self) -> bool:
        return True

    def delete_file(self, file_id: str) -> None:
        self._bucket.delete(file_id)
