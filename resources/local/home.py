"""The server's folder: which files are in it and who writes them.

server.lock    held while someone starts or stops the server
process.lock   held by the server as long as it lives, so that one process writes the state
server.json    its process id and port
token          the bearer token, readable by the owner only
server.log     what it prints
faults.json    there if the server emulates a provider with these faults; it then has an emulator.sqlite
state.sqlite, files/, work/   see `store`
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from ..errors import StorageError
from .emulator import Faults

_LOG_BYTES = 1_000_000


@dataclass(frozen=True)
class Running:
    """The last server that was started in this folder; it may be gone."""

    pid: int
    port: int


@dataclass(frozen=True)
class Home:
    """The paths below a server's folder."""

    folder: Path

    @classmethod
    def prepare(cls, folder: Path) -> Home:
        """Make the folder, for its owner only.

        Raises:
            StorageError: It can't be made or written.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise StorageError(f"The local server's folder {folder} can't be used: {error}") from error
        return cls(folder.resolve())

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def faults(self) -> Path:
        return self.folder / "faults.json"

    def script(self, faults: Faults | None) -> None:
        """Have the folder's server emulate a provider with these faults from its next start on; None for none."""
        if faults is None:
            self.faults.unlink(missing_ok=True)
        else:
            _write_private(self.faults, faults.to_json())

    def starting(self, timeout: float) -> FileLock:
        """The lock of those who start or stop a server."""
        return FileLock(self.folder / "server.lock", timeout=timeout)

    def living(self, timeout: float) -> FileLock:
        """The lock that a server holds as long as it lives."""
        return FileLock(self.folder / "process.lock", timeout=timeout)

    def token(self) -> str:
        """The bearer token; made when there is none."""
        path = self.folder / "token"
        if not path.exists():
            _write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    def running(self) -> Running | None:
        """What ``server.json`` says."""
        try:
            fields = json.loads((self.folder / "server.json").read_text())
            return Running(int(fields["pid"]), int(fields["port"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def announce(self, running: Running) -> None:
        """Write ``server.json``."""
        _write_private(self.folder / "server.json", json.dumps(asdict(running)))

    def open_log(self) -> int:
        """The log, opened to be written at its end by the server; an old long one is started afresh."""
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.unlink()
        return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _write_private(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
