"""The commands; what they show is made in `screens` and `operations`."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from dagster import DagsterInstance
from rich.console import Console
from rich.live import Live

from ...resources.clock import SystemClock
from ...resources.errors import MissingExtraError
from ...resources.ledger import Ledger, default_home
from ...resources.machine import BatchMachine
from ...resources.operations import Level, ask_again, compare, cost_of, examine, given_up, leftovers, plans_named
from ...resources.operations import cancel as cancel_plans
from ...resources.operations import forget as delete
from ...resources.operations import repair as mend
from ...resources.providers.protocol import BatchProvider
from ..providers import providers_in
from . import operations, screens

_WIDTH = 1000
"""Where no terminal says how wide it is: in a pipe no line should be folded."""

_MODULE = typer.Option(
    "--module", "-m", help="A module with your Definitions, such as shop.definitions: its providers are asked."
)

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Tables that batch LLM APIs fill in. Everything lies in the folder BATCH_LLM_HOME, which your runs use. Only "
    "cancel, retry, forget and doctor --repair change something there.",
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
    """Show what went wrong on the way and may need a person, oldest first, and what to do about it."""
    _console().print(screens.incidents(Ledger(read_only=True)))


@app.command()
def cancel(
    name: Annotated[
        str, typer.Argument(metavar="TABLE_OR_PLAN", help="A table, such as shop/reviews, or a plan's id.")
    ],
    batches: Annotated[bool, typer.Option("--batches", help="Have the provider cancel what is out, too.")] = False,
    module: Annotated[str, _MODULE] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """End what a table waits for: unsent requests never will be sent; answers that are paid are fetched and kept."""
    ledger = _writable()
    plans = plans_named(ledger, name)
    cost = cost_of(ledger, plans)
    _confirm(operations.ending(cost, batches=batches), "End it?", yes=yes)
    given_up_now = cancel_plans(ledger, plans, batches=batches)
    if batches and module:
        with _speaking(ledger, module) as speaking:
            machine = BatchMachine(ledger, speaking, "cancel")
            for llm in speaking:
                machine.poll(llm, attempts=[ledger.attempts.get(a.id) for a in cost.out if a.llm == llm])
    _console().print(screens.plain(f"Ended. {given_up_now:,} request(s) were given up unsent."))


@app.command()
def retry(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table, such as shop/reviews.")],
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Let the next materialization ask rows again that were given up: refused, or failed too often."""
    ledger = _writable()
    found = [one for one in given_up(ledger, table) if one.keys]
    if not found:
        _console().print(screens.plain(f"No request of {table} was given up; there is nothing to ask again."))
        return
    _confirm(operations.asking_again(found), "Let them be asked again?", yes=yes)
    for one in found:
        ask_again(ledger, one)
    _console().print(screens.plain("Noted. Materialize the table; a plan of it that is open asks them by itself."))


@app.command()
def forget(
    older_than: Annotated[str, typer.Option(help="How long ago it ended: a number and h, d or w.")] = "30d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Delete what nothing needs any more: plans that ended, raw results, what killed runs left. Answers are kept."""
    seconds = operations.age(older_than)
    found = leftovers(Ledger(read_only=True), seconds)
    _console().print(operations.removing(found))
    if dry_run or not found:
        return
    costs = (
        "Without a batch's raw results its answers can't be rebuilt if their file is lost, nor can you read what the "
        "provider sent. Answers and tables stay; nothing is asked again."
    )
    _confirm(costs, "Delete these?", yes=yes)
    done = delete(_writable(), seconds)
    _console().print(screens.plain(f"Deleted {len(done):,}, {sum(one.bytes for one in done):,} bytes."))


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended without paying.")] = False,
    module: Annotated[str, _MODULE] = "",
    days: Annotated[int, typer.Option(min=1, help="How far back the providers' batches are compared.")] = 30,
) -> None:
    """Compare ledger and files, and say what is wrong and what to do; ends with 1 if something may be lost.

    With --module the providers are compared too: which batches they have, and what the ledger knows of them.
    """
    home = default_home()
    found = examine(home)
    if module or repair:
        ledger = Ledger(read_only=True)
        with _speaking(ledger, module) as speaking:
            if repair:
                _console().print(operations.repairs(mend(_writable(), speaking)))
                found = examine(home)
            found += compare(ledger, speaking, ledger.clock.now() - days * 86400.0)
    _console().print(operations.findings(found))
    if any(one.level is Level.ERROR for one in found):
        raise typer.Exit(1)


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


def _writable() -> Ledger:
    """The ledger that is there, of this version; a command neither makes nor migrates one."""
    Ledger(read_only=True)
    return Ledger()


@contextmanager
def _speaking(ledger: Ledger, module: str) -> Generator[Mapping[str, BatchProvider]]:
    """Clients for the providers that the ledger speaks of, as the module declares them; none without a module."""
    used = {attempt.llm for attempt in ledger.attempts.find()} if module else set[str]()
    found: Mapping[str, BatchProvider] = {}
    if used:
        with DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
            found = providers_in(module, used, instance, lambda said: _console().print(screens.plain(said)))
    try:
        yield found
    finally:
        for provider in found.values():
            provider.close()


def _confirm(told: str, question: str, *, yes: bool) -> None:
    for line in operations.lines_of(told):
        _console().print(line)
    if not yes and not typer.confirm(question):
        _console().print(screens.plain("Nothing was changed."))
        raise typer.Exit(1)


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _WIDTH
    return console
