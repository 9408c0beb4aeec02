"""A sample of `make kills`: what is most dangerous, in real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]


def test_a_run_and_a_server_that_are_killed_or_stopped_at_the_create_pay_once() -> None:
    chosen = ("--scenario", "run", "--match", "before POST /v1/batches")
    done = subprocess.run(
        [sys.executable, "-m", "tests.kills", *chosen], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 struck, 0 times the point was not reached, 0 worlds with a violation" in done.stdout
