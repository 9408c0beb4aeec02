"""Dying: every durable effect of a worker is counted, and the worker can be ended before any of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, Engine, event


class Died(BaseException):
    """kill -9: no handler of ours catches it, and nothing that is tried afterwards has an effect."""


class Effects:
    """Counts commits, requests, syncs, renames, deletions and file writes; ends the worker before effect `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.done: list[str] = []
        self._last = last
        self._dead = False

    @property
    def died(self) -> bool:
        return self._dead

    def next(self, what: str) -> None:
        if self._dead or len(self.done) == self._last:
            self._dead = True
            raise Died(what)
        self.done.append(what)

    @contextmanager
    def watched(self) -> Generator[None]:
        """All effects in here count."""

        def committing(connection: Connection) -> None:
            if connection.get_execution_options().get("batch_llm_write"):
                self.next("commit")

        event.listen(Engine, "commit", committing)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(httpx.MockTransport, "handle_request", self._before(httpx.MockTransport.handle_request))
                patch.setattr(os, "fsync", self._before(os.fsync))
                patch.setattr(os, "write", self._before(os.write))
                patch.setattr(Path, "replace", self._before(Path.replace))
                patch.setattr(Path, "unlink", self._before(Path.unlink))
                yield
        finally:
            event.remove(Engine, "commit", committing)

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.next(getattr(call, "__qualname__", str(call)))
            return call(*args, **kwargs)

        return counted
