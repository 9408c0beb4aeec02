"""The command `dagster-batch-llm`: what is out, what came in, and the local server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from ...resources.errors import BatchLLMError, MissingExtraError
from ...resources.visible import visible

_EXTRA_MODULES = ("typer", "rich")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; an error of ours is said in its own words, and the exit code is 1."""
    try:
        _require_extra()
        from .commands import app  # noqa: PLC0415 - its packages come with the extra "cli"

        app(args=None if arguments is None else list(arguments), prog_name="dagster-batch-llm")
    except BatchLLMError as error:
        print("\n".join(map(visible, error.message.splitlines())), file=sys.stderr)  # noqa: T201 - rich may be what is missing
        sys.exit(1)


def _require_extra() -> None:
    missing = [module for module in _EXTRA_MODULES if find_spec(module) is None]
    if missing:
        raise MissingExtraError(
            f"The command dagster-batch-llm needs {', '.join(missing)}: pip install 'dagster-batch-llm[cli]'"
        )
