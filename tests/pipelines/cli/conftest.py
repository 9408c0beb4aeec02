"""What the tests of the command share."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster_batch_llm.pipelines.cli import main

from ...resources.world import World

HOSTILE = "[red]x[/red]\x1b[2J\u202e[/nowhere]"
SHOWN = r"[red]x[/red]\x1b[2J\u202e[/nowhere]"


@pytest.fixture
def world(home: Path) -> World:
    return World(home)


def ran(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """A command's exit code, and what it prints to its two streams."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err
