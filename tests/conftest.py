"""What all tests share: a home of their own in memory, and one thread for linear algebra, faster on two cores."""

from __future__ import annotations

import functools
import os
import shutil

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when numpy is imported, so before anything else

from itertools import islice
from pathlib import Path

import duckdb
import pytest
from dagster_batch_llm.assets import body, collect, look, report, source
from dagster_batch_llm.resources import answers, duck, query, render
from dagster_batch_llm.resources.operations import asking_again, soundness
from hypothesis import settings

settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
settings.load_profile("no deadline")

_IN_MEMORY = Path("/dev/shm")
# What is paid for is flushed to the disk often, and a third of the suite's time would go into that. Nothing here pulls
# a plug, so the files of the tests lie in memory where there is plenty.
if _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > 2 * 1024**3:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_IN_MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin at once, on all workers but one, so that none is left for the end.

    Each worker of ``-n`` begins with an equal stretch of the list, and takes from others when it is through.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    lanes = max(workers - 1, 1)
    long = [item for item in items if item.get_closest_marker("long")]
    short = iter([item for item in items if not item.get_closest_marker("long")])
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        head = long[worker::lanes] if worker < lanes else []
        stretch = (len(items) - len(ordered)) // (workers - worker)
        ordered += [*head, *islice(short, max(stretch - len(head), 0))]
    items[:] = ordered


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's ledger."""
    folder = tmp_path / "batch_llm"
    monkeypatch.setenv("BATCH_LLM_HOME", str(folder))
    monkeypatch.delenv("BATCH_LLM_LEDGER", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    return folder


_engine = functools.cache(duck.connect)


@pytest.fixture(autouse=True)
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections to one DuckDB instead of one each, which takes 10 ms; what these modules make there is temporary."""

    def connect() -> duckdb.DuckDBPyConnection:
        engine = _engine().cursor()
        engine.execute(duck.UTC)
        return engine

    for module in (answers, asking_again, render, soundness, query, body, collect, look, report, source):
        monkeypatch.setattr(module, "connect", connect)
