"""What comes before a create: the request file, rendered and uploaded, and the permission to send."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from .clock import Clock
from .home import Home
from .ledger import Attempt, Ledger, Send
from .providers.protocol import BatchProvider, TooLateError
from .render import write_request_file


def upload(ledger: Ledger, provider: BatchProvider, attempt: Attempt) -> tuple[Attempt, Send]:
    """Gives the attempt with its lease renewed, and a send that the ledger doesn't know yet.

    Raises:
        ProviderError: It didn't arrive; however it failed, it may simply be done again.
        StorageError: The file can't be written, or a file of the plan can't be read.
    """
    clock, home = ledger.clock, Home(ledger.home)
    token = ledger.id[:8] + clock.token()
    path = home.request_file(token)
    try:
        write_request_file(
            path,
            profile=provider.profile,
            spec=ledger.looks.spec(attempt.task).enlarged(attempt.limit_factor),
            manifest=home.manifest(attempt.manifest),
            requests=home.requests(attempt.plan),
            token=token,
        )
        attempt = ledger.attempts.renew(attempt)
        file_id = provider.upload(path, path.name)
    finally:
        with suppress(OSError):
            path.unlink()
    now, ahead = clock.now(), provider.clock_offset
    there = now + ahead[1] if ahead else None
    until = now + provider.profile.send_seconds
    return attempt, Send(token, attempt.id, attempt.send_no + 1, now, until, file_id, attempt.rows, there)


def permission(clock: Clock, deadline: float, seconds: float) -> Callable[[], None]:
    """What a create asks in its last moment: it raises `TooLateError` after the deadline (Unix seconds), or so long."""
    began = clock.monotonic()

    def still_allowed() -> None:
        # A laptop's sleep stops the monotonic clock, an adjustment moves the wall clock: either ends it.
        if clock.now() > deadline or clock.monotonic() - began > seconds:
            raise TooLateError

    return still_allowed
