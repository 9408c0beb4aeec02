"""`make demo`: the main job as a user does it; `make demo` twice asks nothing twice. `--ui` opens Dagster on it."""

from __future__ import annotations

import subprocess
import sys

from rich.console import Console

from ...resources.clock import SystemClock
from ...resources.errors import BatchLLMError
from . import settings
from .dagster_process import command, prepare


def main(*, ui: bool) -> int:
    """Run the demo, or the UI; gives the exit code."""
    settings.STATE.mkdir(parents=True, exist_ok=True)
    if ui:
        return _open_ui()
    from .acts import play  # noqa: PLC0415 - it reads the demo's ledger, whose place the environment names

    console = Console()
    if not console.is_terminal:
        console.width = 120
    try:
        play(console, SystemClock())
    except BatchLLMError as error:
        console.print(f"[red]The demo failed:[/red] {error.message}", markup=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. What was sent is in the demo's ledger: make demo goes on from there.")
        return 130
    return 0


def _open_ui() -> int:
    port = 3000
    print(f"Dagster's UI: http://127.0.0.1:{port} (Ctrl-C stops it)", flush=True)
    try:
        return subprocess.run(command(port), env=prepare(), check=False).returncode  # noqa: S603
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main(ui="--ui" in sys.argv[1:]))
