"""`forget`: what nothing needs is deleted, by R8b; what an open plan or attempt needs is never touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from dagster_batch_llm.resources.errors import StorageError
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import Attempt, AttemptId, AttemptState, Origin, PlanId, PlanState
from dagster_batch_llm.resources.operations import Kind, forget, leftovers, retention

from ..effects import Died, Effects
from ..world import SPEC, MakeWorld, World, a_plan, write_columns

DAYS = 86400.0
LOST = "0123456789abcdef"


def kinds(found: list[retention.Leftover]) -> list[Kind]:
    return [one.kind for one in found]


def left(world: World) -> set[str]:
    """All files but the ledger's own and locks."""
    files = (path for path in world.folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(world.folder)) for path in files if "ledger" not in path.name}


def an_ended_table(world: World) -> Attempt:
    attempt = world.ask()
    write_columns(Home(world.folder).rows(PlanId("plan")), id=[1])
    world.finish(attempt)
    world.ledger.plans.close(PlanId("plan"), PlanState.DONE)
    return attempt


def litter(world: World) -> None:
    """What killed runs leave."""
    home = Home(world.folder)
    write_columns(home.rows(PlanId(LOST)), id=[1])
    write_columns(home.manifest(f"{LOST}.parquet"), row=[0], key=["k"])
    home.request_file(LOST).parent.mkdir(exist_ok=True)
    home.request_file(LOST).write_text("{}")
    home.request_file(f"{LOST}.77").with_suffix(".part").write_text("x")


def test_files_of_an_ended_table_go_when_they_are_old_enough(world: World) -> None:
    attempt = an_ended_table(world)
    assert leftovers(world.ledger, 30 * DAYS) == []
    world.clock.sleep(31 * DAYS)
    found = leftovers(world.ledger, 30 * DAYS)
    assert kinds(found) == [Kind.PLAN, Kind.RESULTS]
    assert all(one.path.exists() for one in found)
    assert forget(world.ledger, 30 * DAYS) == found
    assert left(world) == {f"manifests/{attempt.manifest}", "answers/LEDGER", "answers/SENDS", *answers(world)}
    world.paid_once()


def answers(world: World) -> set[str]:
    return {f"answers/{file.file}" for _, file in world.ledger.upkeep.answers_files()}


def test_nothing_that_an_open_plan_or_batch_needs_is_touched(world: World) -> None:
    attempt = world.ask()
    write_columns(Home(world.folder).rows(PlanId("plan")), id=[1])
    before = left(world)
    world.clock.sleep(400 * DAYS)
    assert forget(world.ledger, 0.0) == []
    # Its table will not come, but another one waits for the batch, which is rendered from its requests.
    other = world.ledger.plans.open(a_plan("other", SPEC.task, asset="other"), Origin("run", (), {}))
    fence = world.ledger.looks.snapshot(SPEC.task).fence
    assert world.ledger.looks.insert(SPEC.task, fence, other.id, [], [attempt.id])
    world.ledger.plans.close(PlanId("plan"), PlanState.CANCELLED)
    world.clock.sleep(400 * DAYS)
    assert forget(world.ledger, 0.0) == []
    assert left(world) == before
    world.finish(attempt)
    world.paid_once()


def test_what_killed_runs_left_goes_after_a_day(world: World) -> None:
    litter(world)
    for path in world.folder.rglob("*"):
        os.utime(path, (world.clock.now(), world.clock.now()))
    assert forget(world.ledger, 0.0) == []
    world.clock.sleep(DAYS + 1.0)
    done = forget(world.ledger, 30 * DAYS)
    assert sorted(kinds(done)) == sorted([Kind.KILLED_PLAN, Kind.MANIFEST, Kind.SEND, Kind.PART])
    assert left(world) == {"answers/LEDGER"}


def test_an_attempt_that_is_inserted_while_orphans_are_looked_for_keeps_its_manifest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that was between its manifest and its insert when the manifests were listed."""
    task = world.ledger.looks.declare(SPEC)
    world.ledger.plans.open(a_plan("slow", task), Origin("run", (), {}))
    late = attempt_of(world, "a" * 16)
    write_columns(Home(world.folder).manifest(late.manifest), row=[0], key=["k"])
    write_columns(Home(world.folder).requests(PlanId("slow")), key=["k"], prompt=["k"])
    fence = world.ledger.looks.snapshot(task).fence
    move = world.ledger.upkeep.move_fences

    def inserted_before_it() -> None:
        assert world.ledger.looks.insert(task, fence, "slow", [late], [])
        move()

    monkeypatch.setattr(world.ledger.upkeep, "move_fences", inserted_before_it)
    assert forget(world.ledger, 0.0) == []
    assert Home(world.folder).manifest(late.manifest).exists()


def test_a_look_whose_manifest_was_deleted_can_not_insert_it_any_more(world: World) -> None:
    task = world.ledger.looks.declare(SPEC)
    world.ledger.plans.open(a_plan("slow", task), Origin("run", (), {}))
    late = attempt_of(world, "a" * 16)
    write_columns(Home(world.folder).manifest(late.manifest), row=[0], key=["k"])
    fence = world.ledger.looks.snapshot(task).fence
    assert kinds(forget(world.ledger, 0.0)) == [Kind.MANIFEST]
    assert not world.ledger.looks.insert(task, fence, "slow", [late], [])


def attempt_of(world: World, name: str) -> Attempt:
    return Attempt(
        id=AttemptId(name),
        state=AttemptState.PLANNED,
        task=SPEC.task,
        plan="slow",
        llm="llm",
        account="acme",
        manifest=f"{name}.parquet",
        rows=1,
        created_at=world.clock.now(),
    )


def test_a_plan_whose_files_were_deleted_can_not_be_recorded_any_more(world: World) -> None:
    world.ledger.looks.declare(SPEC)
    litter(world)
    forget(world.ledger, 0.0)
    with pytest.raises(StorageError, match=r"removed as those of a killed run.*run it again"):
        world.ledger.plans.open(a_plan(LOST, SPEC.task), Origin("run", (), {}))


def test_a_forgetting_may_be_cut_off_anywhere(make_world: MakeWorld) -> None:
    last = 0
    while True:
        world = make_world()
        attempt = an_ended_table(world)
        waiting = world.ask(["four"], name="second")
        litter(world)
        world.clock.sleep(31 * DAYS)
        effects = Effects(last)
        try:
            with effects.watched():
                forget(world.ledger, 30 * DAYS)
        except Died:
            last += 1
            forget(world.ledger, 30 * DAYS)
        kept = {f"manifests/{attempt.manifest}", f"manifests/{waiting.manifest}", "plans/second/requests.parquet"}
        assert left(world) == {"answers/LEDGER", "answers/SENDS", *kept, *answers(world)}
        world.finish(waiting)
        world.paid_once([*["one", "two", "three", "four"]])
        if not effects.died:
            break
    assert last >= 8


HOSTILE = ["..%2F..", "it's; DROP TABLE plan", "[red]x\x1b[2J", "ABCDEF0123456789", "notes", "0123", "é" * 40]


@pytest.mark.parametrize("name", HOSTILE)
def test_what_we_never_named_so_is_somebody_elses(world: World, name: str) -> None:
    for path in (f"plans/{name}/rows.parquet", f"manifests/{name}.parquet", f"sends/{name}.jsonl", f"results/{name}/x"):
        (world.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (world.folder / path).write_text("mine")
    before = left(world)
    assert forget(world.ledger, 0.0) == []
    assert left(world) == before


def test_a_link_is_not_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.parquet").write_text("mine")
    for name in ("plans", "manifests", "sends"):
        (world.folder / name).mkdir(exist_ok=True)
    (world.folder / "plans" / LOST).symlink_to(outside)
    inside = world.folder / "plans" / ("b" * 16)
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (world.folder / "manifests" / f"{LOST}.parquet").symlink_to(outside / "precious.parquet")
    assert [one.path for one in forget(world.ledger, 0.0)] == [inside]
    assert (outside / "precious.parquet").read_text() == "mine"


def test_only_one_process_deletes_at_a_time(world: World) -> None:
    holder = "import sys; from filelock import FileLock\nwith FileLock(sys.argv[1]): print('held', flush=True); input()"
    lock = str(world.folder / "upkeep.lock")
    with subprocess.Popen(
        [sys.executable, "-c", holder, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(StorageError, match="Another process deletes or repairs"):
            forget(world.ledger, 0.0)
        other.communicate("\n")
    assert forget(world.ledger, 0.0) == []
