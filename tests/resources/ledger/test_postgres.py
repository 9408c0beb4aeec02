"""What only a ledger on a server can meet. The other tests of this folder run on both kinds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import stamina
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from dagster_batch_llm.resources.errors import MissingExtraError, StorageError
from dagster_batch_llm.resources.ledger import (
    AnswersFile,
    Attempt,
    AttemptId,
    AttemptState,
    Ledger,
    Link,
    Origin,
    PlanId,
    PlanState,
    Send,
    connect,
    postgres,
    schema,
)
from dagster_batch_llm.resources.ledger.connect import Database
from sqlalchemy import Connection, Engine, event, make_url

from ..postgres import Cluster
from ..world import SPEC, World, a_plan


@pytest.fixture
def dialect() -> str:
    return "postgres"


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    url = cluster.new()
    yield url
    cluster.drop(url)


def tables(cluster: Cluster, url: str) -> set[object]:
    found = cluster.execute("SELECT schemaname || '.' || tablename FROM pg_tables", url.rpartition("/")[2])
    return {name for (name,) in found if not str(name).startswith(("pg_catalog.", "information_schema."))}


# ---- opening ----


def test_a_blank_database_gets_the_newest_schema_beside_what_is_there(
    cluster: Cluster, url: str, tmp_path: Path
) -> None:
    # Dagster keeps a table of the same name, and may live in the same database.
    cluster.execute("CREATE TABLE alembic_version (version_num text)", url.rpartition("/")[2])
    ledger = Ledger(tmp_path, url=url)
    assert {f"batch_llm.{name}" for name in schema.metadata.tables} < tables(cluster, url)
    assert not (tmp_path / "ledger.sqlite3").exists()
    assert Ledger(tmp_path, url=url.replace("+psycopg", "")).id == ledger.id
    database = Database(tmp_path, url=url)
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []


def test_the_environment_names_the_ledger(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_LLM_LEDGER", url)
    assert Ledger().id == Ledger(home, url=url).id
    assert not (home / "ledger.sqlite3").exists()


def test_a_newer_ledger_is_refused_and_left_alone(cluster: Cluster, world: World) -> None:
    cluster.execute("UPDATE batch_llm.alembic_version SET version_num = '9999'", world.url.rpartition("/")[2])
    for read_only, words in ((False, "newer dagster-batch-llm.*upgrade"), (True, "has schema 9999")):
        with pytest.raises(StorageError, match=words):
            world.opened(read_only=read_only)


def test_an_emptied_ledger_beside_answers_is_refused(cluster: Cluster, world: World, url: str) -> None:
    for _ in range(2):
        with pytest.raises(StorageError, match=r"has an empty ledger.*Put the right database back"):
            Ledger(world.folder, url=url)


def test_a_ledger_of_plans_that_are_in_another_home_is_refused(world: World, tmp_path: Path) -> None:
    world.ask()
    with pytest.raises(StorageError, match=r"1 plans.*same BATCH_LLM_HOME, on a disk that they share"):
        Ledger(tmp_path / "elsewhere", url=world.url)
    assert world.opened().id == world.ledger.id


def test_a_look_makes_nothing_and_can_not_write(cluster: Cluster, world: World, url: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"There is no ledger in postgresql://batch_llm@127.0.0.1"):
        Ledger(tmp_path / "none", url=url, read_only=True)
    assert tables(cluster, url) == set()
    assert not (tmp_path / "none").exists()
    looking = world.opened(read_only=True)
    assert looking.id == world.ledger.id
    with pytest.raises(StorageError, match="readonly"):
        looking.attempts.incident("kind", "subject", "message")


# ---- addresses ----


@pytest.mark.parametrize(
    "wrong",
    ["mysql://u:s3cret@h/d", "postgresql://u:s3cret@h", "postgresql://u:s3cret@h:port/d", "s3cret", "sqlite:///x"],
)
def test_an_address_that_can_not_be_one_says_how_one_looks(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(StorageError, match="postgresql\\+psycopg://user@host") as caught:
        Ledger(tmp_path, url=wrong)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("how", ["u:s3cret@127.0.0.1:1/d", "u@127.0.0.1:1/d?password=s3cret"])
def test_a_password_is_in_no_message(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "_PATIENCE", 0.1)
    with pytest.raises(StorageError, match="Is the server up") as caught:
        Ledger(tmp_path, url=f"postgresql://{how}")
    said: BaseException | None = caught.value
    while said is not None:
        assert "s3cret" not in f"{said} {said!r}"
        said = said.__cause__ or said.__context__
    store = postgres.PostgresStore(make_url(f"postgresql://{how}"))
    assert "s3cret" not in f"{store.name} {store.engine!r}"


def test_a_missing_psycopg_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        return None

    monkeypatch.setattr(postgres, "find_spec", absent)
    with pytest.raises(MissingExtraError, match=r"pip install 'dagster-batch-llm\[postgres\]'"):
        Ledger(tmp_path, url="postgresql://u@h/d")


# ---- many at once ----

_RACER = """
import sys, pathlib
from dagster_batch_llm.resources.ledger import *
folder, me = pathlib.Path(sys.argv[1]), sys.argv[2]
sys.stdin.readline()
ledger = Ledger(folder)
task = sys.argv[3]
for number in range(40):
    while True:
        snapshot = ledger.looks.snapshot(task)
        taken = {manifest for _, manifest in snapshot.open_manifests}
        if f"key{number}" in taken:
            break
        name = AttemptId(f"{me}-{number}")
        attempt = Attempt(name, AttemptState.PLANNED, task, "plan", "llm", "acme", f"key{number}", 1, 0.0)
        if ledger.looks.insert(task, snapshot.fence, "plan", [attempt], []):
            break
print(ledger.id)
"""


def _together(folder: Path, url: str, count: int) -> set[str]:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(folder), str(number), SPEC.task],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "BATCH_LLM_LEDGER": url},
        )
        for number in range(count)
    ]
    for racer in racers:  # all are loaded before the first may begin
        assert racer.stdin is not None
        racer.stdin.write("go\n")
    said = {racer.communicate(timeout=100)[0] for racer in racers}
    assert {racer.returncode for racer in racers} == {0}
    return said


def test_processes_that_want_the_same_keys_take_each_one_once(world: World) -> None:
    world.ledger.looks.declare(SPEC)
    plan = world.ledger.plans.open(a_plan("plan", SPEC.task), Origin("run", (), {}))
    (world.folder / "plans").mkdir()
    assert _together(world.folder, world.url, 3) == {f"{world.ledger.id}\n"}
    taken = [attempt.manifest for attempt in world.ledger.attempts.find()]
    assert sorted(taken) == sorted(f"key{number}" for number in range(40))
    assert world.ledger.looks.snapshot(SPEC.task).fence == 40
    assert world.ledger.plans.get(plan.id).asked == 40


def test_threads_that_open_a_blank_database_migrate_it_once(url: str, tmp_path: Path) -> None:
    ids: list[str] = []
    openers = [threading.Thread(target=lambda: ids.append(Ledger(tmp_path, url=url).id)) for _ in range(4)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert len(ids) == 4
    assert len(set(ids)) == 1


# ---- a server that goes away ----


def test_a_server_that_is_restarted_in_the_middle_of_work_is_waited_for(cluster: Cluster, world: World) -> None:
    stamina.set_testing(False)  # with the fixture's it would not wait
    attempt = world.ask()
    cluster.stop("immediate")
    back = threading.Timer(1.0, cluster.start)
    back.start()
    world.machine().send(attempt.id)
    back.join()
    assert world.state(attempt) is AttemptState.SUBMITTED
    cluster.stop("fast")
    cluster.start()
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


@contextmanager
def _cut(cluster: Cluster, *, committed: bool) -> Generator[None]:
    """The next writing transaction's connection is lost, before its commit or on the way back from it."""
    cuts = iter([True])

    def cutting(connection: Connection) -> None:
        if connection.get_execution_options().get("batch_llm_write") and next(cuts, False):
            driver = connection.connection.dbapi_connection
            assert isinstance(driver, psycopg.Connection)
            if committed:
                driver.commit()
                driver.close()  # so that the ledger's own commit fails, which comes next
            else:
                cluster.execute(f"SELECT pg_terminate_backend({driver.info.backend_pid}, 5000)")

    event.listen(Engine, "commit", cutting)
    try:
        yield
    finally:
        event.remove(Engine, "commit", cutting)
    assert next(cuts, None) is None


@pytest.mark.parametrize("committed", [False, True])
@pytest.mark.parametrize("what", ["declare", "open", "insert", "begin_send", "adopt", "close", "note", "end", "keep"])
def test_a_connection_lost_at_the_commit_changes_nothing(
    cluster: Cluster, world: World, what: str, *, committed: bool
) -> None:
    ledger, attempts = world.ledger, world.ledger.attempts
    attempt = attempts.take(world.ask().id, "me")
    assert attempt is not None
    send = Send("token", attempt.id, 1, 0.0, 30.0, "file", 3)
    link = Link("acme", "batch", attempt.id, "token", extra=False)
    if what in {"adopt", "close"}:
        attempt = attempts.begin_send(attempt, send)
    if what == "close":
        attempt = attempts.adopt(attempt, [link])
    other = Attempt(AttemptId("other"), AttemptState.PLANNED, attempt.task, "plan", "llm", "acme", "m", 1, 0.0)
    fence = ledger.looks.snapshot(attempt.task).fence
    writes: dict[str, Callable[[], object]] = {
        "declare": lambda: ledger.looks.declare(replace(SPEC, model="other")),
        "open": lambda: ledger.plans.open(a_plan("new", attempt.task), Origin("run", (), {})).id == "new",
        "insert": lambda: ledger.looks.insert(attempt.task, fence, "plan", [other], []),
        "end": lambda: ledger.plans.close(PlanId("plan"), PlanState.DONE),
        "keep": lambda: ledger.plans.keep("backfill", "run"),
        "begin_send": lambda: attempts.begin_send(attempt, send),
        "adopt": lambda: attempts.adopt(attempt, [link]),
        "close": lambda: attempts.close(attempt, AnswersFile("t/a.parquet", {"ok": 3}, 5_000_000_000, 1)),
        "note": lambda: attempts.note(attempt, message="here"),
    }
    with _cut(cluster, committed=committed):
        written = writes[what]()
    assert written
    assert ledger.looks.snapshot(attempt.task).fence == fence + (what == "insert")
    if isinstance(written, Attempt):
        now = attempts.get(attempt.id)
        assert (now.state, now.fence, now.message) == (written.state, written.fence, written.message)
        assert len(attempts.sends(attempt.id)) == (what != "note")


def test_a_lock_that_is_held_for_long_is_told(cluster: Cluster, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "BEGIN_WRITE", postgres.BEGIN_WRITE.replace("'30s'", "'50ms'"))
    with psycopg.connect(world.url.replace("+psycopg", "")) as holder:
        holder.execute(f"SELECT pg_advisory_xact_lock({postgres.WRITE_LOCK})".encode())
        assert world.ledger.attempts.incidents() == []
        with pytest.raises(StorageError, match="locked by another process"):
            world.ledger.attempts.incident("kind", "subject", "message")
    assert world.ledger.attempts.incident("kind", "subject", "message")


def test_a_ledger_may_be_used_on_both_sides_of_a_fork(world: World) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0 if world.ledger.attempts.incident("kind", "child", "x") else 1)
    assert world.ledger.attempts.incident("kind", "parent", "x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(world.opened().attempts.incidents()) == 2
