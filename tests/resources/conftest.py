from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from dagster_batch_llm.resources.ledger import Ledger

from .fake_clock import FakeClock
from .postgres import Cluster, running_cluster
from .world import MakeWorld, World, copy_home


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """stamina repeats as often as it would, without waiting in between."""
    with stamina.set_testing(True, attempts=5, cap=True):
        yield


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("template") / "home"
    Ledger(home, FakeClock())
    return home


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def dialect() -> str:
    """Where ledgers are; tests that mean both have this fixture parametrized in their own folder or file."""
    return "sqlite"


@pytest.fixture
def make_world(
    tmp_path: Path, migrated_home: Path, no_waiting: None, dialect: str, request: pytest.FixtureRequest
) -> Iterator[MakeWorld]:
    numbers = itertools.count()
    cluster: Cluster | None = request.getfixturevalue("cluster") if dialect == "postgres" else None
    urls: list[str] = []

    def make(**fields: object) -> World:
        home = copy_home(migrated_home, tmp_path / f"home{next(numbers)}")
        if cluster is not None:
            (home / "ledger.sqlite3").unlink()
            urls.append(cluster.migrated(tmp_path / "template"))
        return World(home, url=urls[-1] if urls else "", **fields)  # pyright: ignore[reportArgumentType]

    yield make
    for url in urls:
        assert cluster is not None
        cluster.drop(url)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()
