from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
from dagster_batch_llm import resources
from dagster_batch_llm.pipelines.cli import providers_page
from dagster_batch_llm.pipelines.cli.page import page
from dagster_batch_llm.pipelines.cli.screens import lines
from dagster_batch_llm.resources import Ledger, StorageError
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.ledger import Origin, PlanState
from dagster_batch_llm.resources.providers.catalogue import RESOURCES

from ...resources.world import SPEC, World, a_plan
from .conftest import HOSTILE, SHOWN, ran

ROOT = Path(__file__).parents[3]
Say = Callable[..., str]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """What a command prints that ends well."""

    def run(*arguments: str) -> str:
        code, out, err = ran(capsys, *arguments)
        assert code == 0, err
        return out

    return run


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code, _, err = ran(capsys, *arguments)
    assert code == 1
    return err


def _without_typer(name: str) -> object:
    return None if name == "typer" else find_spec(name)


def _nothing(name: str) -> None:
    return None


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---- what waits and what came in -----------------------------------------------------------------------------------


def test_status_shows_how_far_a_batch_is(world: World, say: Say) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.step(world.now(attempt))
    out = say("status")
    assert "table" in out.splitlines()[0]
    assert f"{world.now(attempt).batch_id}" in out
    assert "submitted" in out
    assert "0/3" in out


def test_status_counts_age_and_deadline_from_the_ledger(world: World) -> None:
    attempt = world.ask()
    world.machine().step(world.now(attempt))
    world.clock.sleep(90.0)
    [line] = lines(Ledger(world.folder, world.clock, read_only=True))
    assert (line.table, line.rows, line.done) == ("table", 3, 0)
    assert 90.0 <= line.age < 120.0
    assert line.left is None or 0 < line.left < 24 * 3600


def test_status_shows_a_table_without_a_batch_and_a_batch_without_a_table(world: World) -> None:
    attempt = world.ask()
    world.machine().step(world.now(attempt))
    world.ledger.plans.close(world.ledger.plans.find()[0].id, PlanState.CANCELLED)
    world.ledger.plans.open(a_plan("later", SPEC.task, asset="next"), Origin("run", (), {}))
    shown = {line.table: line.state for line in lines(Ledger(world.folder, world.clock, read_only=True))}
    assert shown["table"].endswith("table cancelled")
    assert shown["next"] == "a run works on it"


def test_tables_shows_what_was_asked_and_reused(world: World, say: Say) -> None:
    attempt = world.ask()
    world.finish(attempt)
    world.ledger.plans.close(world.ledger.plans.find()[0].id, PlanState.DONE)
    [head, line] = say("tables").splitlines()
    assert head.split()[:4] == ["table", "rows", "asked", "reused"]
    assert "failed" in head
    assert line.startswith("table ")


def test_watch_waits_for_a_first_table_and_ends_when_none_waits_any_more(
    world: World, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile = [
        lambda: None,
        lambda: world.finish(world.ask()),
        lambda: world.ledger.plans.close(world.ledger.plans.find()[0].id, PlanState.DONE),
    ]

    def sleep(_: SystemClock, seconds: float) -> None:
        meanwhile.pop(0)()

    monkeypatch.setattr(SystemClock, "sleep", sleep)
    assert "No table waits." in say("watch")
    assert meanwhile == []


def test_nothing_is_said_in_words(world: World, say: Say) -> None:
    assert "No table waits." in say("status")
    assert "No table has come in yet." in say("tables")
    assert "No incidents." in say("incidents")


def test_providers_shows_every_profile_and_limit(say: Say) -> None:
    out = say("providers")
    assert "openai" in out
    assert "local" in out
    assert "50,000" in out
    assert "24h, 1h" in out  # the default first


def test_looking_changes_nothing(world: World, say: Say) -> None:
    world.ask()
    before = files(world.folder)
    for command in ("status", "tables", "incidents"):
        say(command)
    assert {name: text for name, text in files(world.folder).items() if not name.endswith(("-shm", "-wal"))} == {
        name: text for name, text in before.items() if not name.endswith(("-shm", "-wal"))
    }


# ---- hostile texts -------------------------------------------------------------------------------------------------


def test_hostile_texts_are_shown_and_not_obeyed(world: World, say: Say) -> None:
    world.ledger.looks.declare(SPEC)
    for name, state in (("one", PlanState.OPEN), ("two", PlanState.DONE)):
        plan = world.ledger.plans.open(
            a_plan(name, SPEC.task, asset="t", llm=HOSTILE, partitions=(HOSTILE,)), Origin("run", (), {})
        )
        if state is not PlanState.OPEN:
            world.ledger.plans.close(plan.id, state)
    world.ledger.attempts.incident(HOSTILE, HOSTILE, HOSTILE)
    for command in ("status", "tables", "incidents"):
        out = say(command)
        assert SHOWN in out
        assert "\x1b" not in out
        assert "\u202e" not in out


# ---- errors --------------------------------------------------------------------------------------------------------


def test_an_error_of_ours_is_one_sentence_and_makes_nothing(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("status", "watch", "tables", "incidents"):
        assert "There is no ledger in" in (said := refused(capsys, command))
        assert "Traceback" not in said
    assert not home.exists()


def test_a_path_in_an_error_is_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BATCH_LLM_HOME", str(tmp_path / HOSTILE))
    said = refused(capsys, "status")
    assert SHOWN in said
    assert "\x1b" not in said


def test_a_ledger_of_another_version_is_not_touched(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster_batch_llm.resources.ledger.schema.SCHEMA_VERSION", "9999")
    with pytest.raises(StorageError, match=r"has schema \d{4}, this package knows 9999"):
        Ledger(world.folder, read_only=True)


def test_a_ledger_that_is_only_looked_at_can_not_be_written(world: World) -> None:
    ledger = Ledger(world.folder, read_only=True)
    with pytest.raises(StorageError, match="readonly"):
        ledger.attempts.incident("kind", "subject", "message")
    assert ledger.id == world.ledger.id


def test_a_missing_typer_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("dagster_batch_llm.pipelines.cli.find_spec", _without_typer)
    assert "needs typer: pip install 'dagster-batch-llm[cli]'" in refused(capsys, "status")


def test_a_demo_without_a_webserver_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dagster_batch_llm.pipelines.cli.commands.find_spec", _nothing)
    assert "pip install 'dagster-batch-llm[demo]'" in refused(capsys, "demo")


# ---- the local server and the installed command --------------------------------------------------------------------


def test_the_local_server_is_started_and_stopped(home: Path, say: Say) -> None:
    try:
        assert "http://127.0.0.1:" in say("local", "start")
        assert (home / "local" / "token").exists()
    finally:
        assert "is stopped" in say("local", "stop")
    assert Path(say("local", "weights").replace("\n", "")).is_dir()


def test_the_command_is_installed(world: World) -> None:
    command = shutil.which("dagster-batch-llm", path=str(Path(sys.executable).parent))
    assert command, "install this package again: pip install -e ."
    done = subprocess.run([command, "status"], capture_output=True, text=True, timeout=120, env=os.environ, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "No table waits.")


def test_the_page_of_the_docs_is_current() -> None:
    assert (ROOT / "docs" / "providers.md").read_text().rstrip("\n") == providers_page.page().rstrip("\n"), (
        "run `make docs`"
    )
    assert (ROOT / "docs" / "cli.md").read_text().rstrip("\n") == page().rstrip("\n"), "run `make docs`"


def test_every_command_that_the_readme_names_exists() -> None:
    named = set(
        re.findall(r"^\$ dagster-batch-llm ([\w ]+?)(?: {2,}|$)", (ROOT / "README.md").read_text(), re.MULTILINE)
    )
    assert {"status", "watch", "tables"} <= named
    headings = set(page().splitlines())
    for words in map(str.split, named):  # a table's name may follow
        assert headings & {f"## `dagster-batch-llm {' '.join(words[:count])}`" for count in (1, 2)}, words


def test_every_provider_of_the_page_can_be_imported() -> None:
    assert set(RESOURCES) == {name for name in resources.__all__ if name.endswith("Batch")}
