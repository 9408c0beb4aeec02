"""A throw-away Postgres server of the tests' own, on this machine's loopback address."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from dagster_batch_llm.resources.ledger import Ledger

from .fake_clock import FakeClock
from .postgres_programs import programs

MISSING = "Postgres is not installed: run `make services`"
_TEMPLATE = "template_ledger"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@dataclass
class Cluster:
    """One server; every test has databases of its own in it."""

    folder: Path
    programs: Path
    port: int = field(default_factory=_free_port)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)
    _templates: bool = False

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://batch_llm@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        address = self.url(database).replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def new(self) -> str:
        """The URL of an empty database."""
        name = f"ledger{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def migrated(self, home: Path) -> str:
        """The URL of a database with a migrated ledger, of the id that a new one with a `FakeClock` has."""
        if not self._templates:
            self.execute(f"CREATE DATABASE {_TEMPLATE}")
            Ledger(home, FakeClock(), url=self.url(_TEMPLATE))
            self._templates = True
        name = f"ledger{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE}")
        return self.url(name)

    def drop(self, url: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)")

    def start(self) -> None:
        # Nothing here has to survive a power cut. Sockets in the folder, so that no other server's are in the way.
        options = f"-c fsync=off -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -p {self.port}"
        self._run("pg_ctl", "start", "-w", "-o", options, "-l", str(self.folder / "log"))

    def stop(self, mode: str = "immediate") -> None:
        """Stop it; ``immediate`` is what a crash is, ``fast`` a restart."""
        self._run("pg_ctl", "stop", "-w", "-m", mode)

    def make(self) -> None:
        self._run("initdb", "--no-sync", "--auth=trust", "--username=batch_llm", "--encoding=UTF8", "--locale=C")

    def _run(self, program: str, *arguments: str) -> None:
        who = pwd.getpwnam("postgres") if os.geteuid() == 0 else None  # Postgres refuses to run as root
        if who is not None:
            os.chown(self.folder, who.pw_uid, who.pw_gid)
        done = subprocess.run(
            [self.programs / program, "-D", str(self.folder / "data"), *arguments],
            user=who.pw_uid if who else None,
            group=who.pw_gid if who else None,
            extra_groups=[] if who else None,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not a pipe: the server would keep it open
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            log = self.folder / "log"
            raise RuntimeError(f"{program} {arguments[:1]} failed\n{log.read_text()[-2000:] if log.exists() else ''}")


@contextmanager
def running_cluster() -> Generator[Cluster]:
    """A server for as long as it is needed; without the programs a test is skipped, or fails where it has to run."""
    found = programs()
    if found is None:
        if os.environ.get("BATCH_LLM_REQUIRE_SERVICES"):
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    # Not in pytest's folders, which only this user may enter.
    folder = Path(tempfile.mkdtemp(prefix="batch-llm-postgres-"))
    cluster = Cluster(folder, found)
    try:
        cluster.make()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
