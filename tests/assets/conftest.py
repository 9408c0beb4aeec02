"""Every test has a home of its own, a warehouse, an instance in memory and a provider that counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import convergence
from dagster_batch_llm.resources import DuckDBTables, Ledger, TableStore

from .fake_provider import FakeServer


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own; a run that waits looks again at once."""
    folder = tmp_path / "home"
    monkeypatch.setenv("BATCH_LLM_HOME", str(folder))
    monkeypatch.setattr(convergence, "_STEP_SECONDS", 0.01)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> FakeServer:
    """A provider that answers with the first label."""
    return FakeServer(str(tmp_path))


@dataclass
class House:
    """What a user's project has: a warehouse, an instance, and one provider under the key ``llm``."""

    server: FakeServer
    tables: TableStore
    instance: dg.DagsterInstance

    def run(
        self,
        *assets: dg.AssetsDefinition | dg.SourceAsset | dg.AssetSpec,
        select: Sequence[dg.AssetsDefinition] | None = None,
        partition: str | None = None,
        partitions: tuple[str, str] | None = None,
        resources: dict[str, Any] | None = None,
    ) -> dg.ExecuteInProcessResult:
        """Materialize, and give what came of it, also if it failed."""
        between = dict(zip(("start", "end"), partitions, strict=True)) if partitions else {}
        return dg.materialize(
            list(assets),
            instance=self.instance,
            resources={"llm": self.server.resource(), "tables": self.tables, **(resources or {})},
            selection=list(select) if select is not None else None,
            partition_key=partition,
            tags={f"dagster/asset_partition_range_{name}": key for name, key in between.items()},
            raise_on_error=False,
        )

    def done(self, *assets: Any, **how: Any) -> dict[str, Any]:
        """Materialize, and give the metadata of the last asset of the run."""
        result = self.run(*assets, **how)
        assert result.success, failure(result)
        found = result.asset_materializations_for_node(list(how.get("select") or assets)[-1].key.path[-1])
        return {name: value.value for name, value in found[-1].metadata.items()}

    def table(self, name: str, order: str = "1") -> pa.Table:
        """A whole table."""
        return self.tables.query(f"SELECT * FROM {name} ORDER BY {order}")

    def rows(self, name: str, columns: str = "*", order: str = "1") -> list[tuple[Any, ...]]:
        """A table's rows."""
        return [
            tuple(row.values())
            for row in self.tables.query(f"SELECT {columns} FROM {name} ORDER BY {order}").to_pylist()
        ]

    def types(self, query: str) -> dict[str, str]:
        """The Arrow type of each column."""
        schema: Any = self.tables.query(query).schema
        return {field.name: str(field.type) for field in schema}

    @property
    def ledger(self) -> Ledger:
        """The ledger that the runs used."""
        return Ledger()


def failure(result: dg.ExecuteInProcessResult) -> str:
    """The message that a person reads in the UI of a failed run."""
    (event,) = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    data: Any = event.event_specific_data
    failed = data.user_failure_data
    return str(failed.description) if failed else str(data.error)


@pytest.fixture
def house(tmp_path: Path, server: FakeServer) -> Iterator[House]:
    """A project with one provider."""
    # Dagster leaves the type of `settings` open.
    with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
        yield House(server, DuckDBTables(path=str(tmp_path / "warehouse.duckdb")), instance)


def rows_asset(name: str, rows: pa.Table, *, key_prefix: Sequence[str] | None = None) -> dg.AssetsDefinition:
    """An asset that stores these rows with the tables."""

    @dg.asset(name=name, key_prefix=key_prefix, io_manager_key="tables")
    def asset() -> pa.Table:
        return rows

    return asset
