"""Every error this package raises.

    BatchLLMError
    ├── UserError            you can mend it: a declaration, the input, the set-up
    │   ├── InputError           the source table or the template
    │   ├── MissingSecretError   a key that is not set
    │   ├── MissingExtraError    an optional dependency that is not installed
    │   └── StorageError         a folder, a disk, a database file, a ledger that does not fit
    │       └── TableLockedError     another process writes the DuckDB file
    ├── ProviderError        the provider said no, or nothing
    │   ├── RefusedError         a final no (400, 401, 402, 403, 404, 405, 413, 422): nothing was done
    │   ├── BusyError            not now (429): nothing was done, ask again later
    │   ├── UnreachableError     no connection was made: nothing was done
    │   └── AmbiguousError       the request may have been carried out, its reply was lost
    └── ProtocolError        ours: a broken promise inside the package, please report it
        └── StaleFenceError      another worker took this attempt over; leave it alone

Each message says what happened, to which asset, batch or row, and what to do.
"""

from __future__ import annotations


class BatchLLMError(Exception):
    """Root of the family: ``except BatchLLMError`` catches all that this package raises."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UserError(BatchLLMError):
    """Something you declared, passed in or set up has to change; nothing was paid for."""


class InputError(UserError):
    """The source table, the row key or the prompt template can't be used."""


class MissingSecretError(UserError):
    """A provider's key is not set."""


class MissingExtraError(UserError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class StorageError(UserError):
    """A folder, file or database that has to be read or written can't be."""


class TableLockedError(StorageError):
    """Another process holds the DuckDB file; the message names it where it can be known."""


class ProviderError(BatchLLMError):
    """A provider answered with an error, or not at all.

    Attributes:
        status: HTTP status code, if there was a reply.
        code: The provider's own error code, if it gave one.
        retry_after: Seconds the provider asked us to wait, if it did.
        in_haste: Whether who asked had little time, so that somebody who waits longer may still get a reply.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        in_haste: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.in_haste = in_haste

    @property
    def is_gone(self) -> bool:
        """Whether what was asked for isn't there: now, or for good."""
        return self.status in {404, 410}

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the keyword arguments when an executor pickles the error."""
        fields = {name: getattr(self, name) for name in ("status", "code", "retry_after", "in_haste")}
        return (_rebuild, (type(self), self.message, fields))


class RefusedError(ProviderError):
    """A final no: asking the same again without a change is pointless."""


class BusyError(ProviderError):
    """Not now: rate limit, full queue, overload. Nothing was carried out."""


class UnreachableError(ProviderError):
    """No connection could be made, so no byte of the request was sent."""


class AmbiguousError(ProviderError):
    """The request was sent and its outcome is unknown; never send it again blindly."""


class ProtocolError(BatchLLMError):
    """An illegal state or a broken invariant inside the package."""


class StaleFenceError(ProtocolError):
    """A write was fenced off because another worker owns the attempt by now."""


def _rebuild(kind: type[ProviderError], message: str, fields: dict[str, object]) -> ProviderError:
    return kind(message, **fields)  # pyright: ignore[reportArgumentType]
