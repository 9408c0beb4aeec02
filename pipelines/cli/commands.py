"""The commands; what they show is made in `screens`."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from ...resources.clock import SystemClock
from ...resources.errors import MissingExtraError
from ...resources.ledger import Ledger, default_home
from . import screens

_WIDTH = 1000
"""Where no terminal says how wide it is: in a pipe no line should be folded."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Tables that batch LLM APIs fill in. Everything is read from the folder BATCH_LLM_HOME, which your runs use.",
)
local = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The batch server on this machine.")
app.add_typer(local, name="local")


@app.command()
def status() -> None:
    """Show the tables that wait, and their batches: how far, how old, and until when."""
    _console().print(screens.waiting(Ledger(read_only=True)))


@app.command()
def watch(
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks at the ledger.")] = 1.0,
) -> None:
    """Show what `status` shows, live, from the first table that waits until none does any more, or until Ctrl-C."""
    ledger, clock = Ledger(read_only=True), SystemClock()
    seen = waits = bool(screens.lines(ledger))
    # The sensor asks the provider; looking more often here only shows sooner what it found.
    with suppress(KeyboardInterrupt), Live(screens.waiting(ledger), console=_console(), auto_refresh=False) as live:
        while waits or not seen:
            clock.sleep(seconds)
            live.update(screens.waiting(ledger), refresh=True)
            waits = bool(screens.lines(ledger))
            seen = seen or waits


@app.command()
def tables(
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 20,
) -> None:
    """Show the tables that came in: rows, requests asked, reused and failed (each time), tokens, and when."""
    _console().print(screens.done(Ledger(read_only=True), limit))


@app.command()
def incidents() -> None:
    """Show what went wrong on the way and may need a person, oldest first."""
    _console().print(screens.incidents(Ledger(read_only=True)))


@app.command()
def providers() -> None:
    """Show the providers and their limits."""
    _console().print(screens.providers())


@app.command()
def demo(
    rows: Annotated[int, typer.Option(min=1, help="How many functions of the standard library to take.")] = 400,
    ui: Annotated[bool, typer.Option("--ui", help="Open Dagster's UI on what the demo made.")] = False,
) -> None:
    """Run the whole flow on this machine, without a key; its state lies in .demo."""
    if find_spec("dagster_webserver") is None:
        raise MissingExtraError("The demo needs Dagster's webserver: pip install 'dagster-batch-llm[demo]'")
    os.environ["ROWS"] = str(rows)  # its processes read their settings from the environment
    from ..demo.__main__ import main  # noqa: PLC0415 - it reads ROWS when it is imported

    raise typer.Exit(main(ui=ui))


@local.command()
def start(
    faults: Annotated[Path | None, typer.Option(help="Emulate a provider that goes wrong as this JSON says.")] = None,
) -> None:
    """Start the server that `LocalBatch()` uses, if it isn't running; a run does that by itself too."""
    from ...resources.local import ensure_server, script_faults  # noqa: PLC0415 - comes with the extra "local"
    from ...resources.local.emulator import Faults  # noqa: PLC0415

    folder = default_home() / "local"
    script_faults(folder, Faults.from_file(faults) if faults else None)
    server = ensure_server(folder)
    _console().print(screens.plain(f"{server.base_url} (process {server.pid}); its key is in {folder / 'token'}"))


@local.command()
def stop() -> None:
    """Stop that server, if it is running; its open batches go on when it is started again, without faults."""
    from ...resources.local import script_faults, stop_server  # noqa: PLC0415 - comes with the extra "local"

    folder = default_home() / "local"
    stop_server(folder)
    if folder.exists():
        script_faults(folder, None)
    _console().print(screens.plain(f"The local server in {folder} is stopped."))


@local.command(name="faults")
def known_faults() -> None:
    """Show the faults that `start --faults` knows, and what each one does."""
    from ...resources.local.emulator import KNOWN  # noqa: PLC0415 - comes with the extra "local"

    _console().print(screens.faults(KNOWN))


@local.command()
def weights() -> None:
    """Show where the weights of all-MiniLM-L6-v2 are, after their SHA-256 was checked."""
    from ...resources.local import find_weights  # noqa: PLC0415 - comes with the extra "local"

    _console().print(screens.plain(str(find_weights())))


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _WIDTH
    return console
