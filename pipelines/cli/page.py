"""docs/cli.md, from the commands themselves: `make docs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from .commands import app

_HEAD = """\
# The command `dagster-batch-llm`

Made by `make docs` from the help texts; don't edit it. It comes with `pip install 'dagster-batch-llm[cli]'`.
"""


def page() -> str:
    """The page as Markdown."""
    root: Any = typer.main.get_command(app)
    return "\n".join([_HEAD, str(root.help), "", *_sections(root, "dagster-batch-llm")])


def _sections(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        full = f"{path} {name}"
        yield from (f"## `{full}`", "", str(command.help), "")
        options = [option for option in command.params if option.name != "help"]
        if options:
            yield from ("| option | meaning | default |", "|---|---|---|")
            yield from (f"| `{_named(o)}` | {o.help} | {_default(o.default)} |" for o in options)
            yield ""
        if hasattr(command, "commands"):
            yield from _sections(command, full)


def _named(parameter: Any) -> str:
    """An option by its name, an argument by what the help calls it."""
    return str(parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar)


def _default(value: object) -> str:
    return "" if value is None or isinstance(value, bool) else f"`{value}`"


if __name__ == "__main__":
    print(page().rstrip("\n"))  # noqa: T201
