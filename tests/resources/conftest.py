from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import stamina
from dagster_batch_llm.resources.ledger import Ledger

from .fake_clock import FakeClock
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


@pytest.fixture
def make_world(tmp_path: Path, migrated_home: Path, no_waiting: None) -> MakeWorld:
    numbers = itertools.count()

    def make(**fields: object) -> World:
        return World(copy_home(migrated_home, tmp_path / f"home{next(numbers)}"), **fields)  # pyright: ignore[reportArgumentType]

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()
