"""What providers share whose create carries the requests themselves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..clock import Clock
from ..request import RequestSpec
from .http import HttpClient
from .over_http import HttpProvider
from .profile import Profile
from .protocol import Batch

_PART_BYTES = 1 << 20


class InlineProvider(HttpProvider):
    """Batches without files."""

    def __init__(self, profile: Profile, http: HttpClient, *, account: str, clock: Clock | None = None) -> None:
        super().__init__(profile, http, account=account, clock=clock)
        self._requests: dict[str, BinaryIO] = {}

    @abstractmethod
    def envelope(self, spec: RequestSpec) -> tuple[bytes, bytes]:
        """What stands before and after the requests in a create's body."""

    def upload(self, path: Path, filename: str) -> str:
        """Nothing is uploaded before the create: the file is kept open for it, whoever removes its name.

        But the key is tried, and the provider's clock is read, by which a lost create is looked for.
        """
        self._http.get(self.batches, {**self.page, next(iter(self.page)): 1})
        self._requests[filename] = path.open("rb")
        return filename

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        del token  # each row's id has it
        opening, closing = self.envelope(spec)
        with self._requests.pop(file_id) as lines:
            length = len(opening) + lines.seek(0, 2) - 1 + len(closing)  # the last line's end isn't sent
            lines.seek(0)
            body = _listed(lines, opening, closing)
            return self.parse(self._http.stream_once(self.batches, body, length, still_allowed).body)

    def has_file(self, file_id: str) -> bool:
        """There are no files, so nothing can be told by them."""
        del file_id
        return True

    def shows_files(self) -> bool:
        return False

    def delete_file(self, file_id: str) -> None:
        if lines := self._requests.pop(file_id, None):
            lines.close()

    def close(self) -> None:
        for name in list(self._requests):
            self.delete_file(name)
        super().close()


def _listed(lines: BinaryIO, opening: bytes, closing: bytes) -> Iterator[bytes]:
    """Lines of JSON as the list that a create carries."""
    yield opening
    part = lines.read(_PART_BYTES)
    while part:
        following = lines.read(_PART_BYTES)
        # JSON has no line ends within a line, and the last one isn't followed by anything.
        yield (part if following else part[:-1]).replace(b"\n", b",")
        part = following
    yield closing
