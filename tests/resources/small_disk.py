"""A real disk of a few megabytes, which can be filled, emptied and made read-only; for root on Linux."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MISSING = "only root can mount a small disk here; run these tests as root, as CI does"


@dataclass(frozen=True)
class SmallDisk:
    """A tmpfs."""

    folder: Path

    @property
    def _ballast(self) -> Path:
        return self.folder / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Leave so many bytes, to the page."""
        free = os.statvfs(self.folder)
        with self._ballast.open("ab") as out:
            os.posix_fallocate(out.fileno(), 0, max(free.f_bavail * free.f_frsize - leave, 1))

    def free(self) -> None:
        """There is space again."""
        self._ballast.unlink()

    @contextmanager
    def full(self, leave: int = 0) -> Generator[None]:
        """Full in here."""
        self.fill(leave)
        try:
            yield
        finally:
            self.free()

    @contextmanager
    def read_only(self) -> Generator[None]:
        """Nothing can be written in here, by root neither."""
        _run("mount", "-o", "remount,ro", str(self.folder))
        try:
            yield
        finally:
            _run("mount", "-o", "remount,rw", str(self.folder))


@contextmanager
def small_disk(folder: Path, megabytes: int = 8) -> Generator[SmallDisk]:
    """Mounted for as long as it is needed; skipped where that isn't allowed, or failed where it has to be."""
    folder.mkdir()
    if os.geteuid() != 0 or not _mounted(folder, megabytes):
        if os.environ.get("BATCH_LLM_REQUIRE_SERVICES"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    try:
        yield SmallDisk(folder)
    finally:
        _run("umount", "--lazy", str(folder))


def _mounted(folder: Path, megabytes: int) -> bool:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    return subprocess.run(mount, capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
