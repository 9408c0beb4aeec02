"""What the documentation says is run, or compared with the code."""

from __future__ import annotations

import doctest
import importlib
import io
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import dagster as dg
import pytest
from dagster_batch_llm.resources import DuckDBTables, LocalBatch, ParquetTables
from dagster_batch_llm.resources.ledger import LEGAL, OPEN_ATTEMPTS, AttemptState, PlanState
from dagster_batch_llm.resources.ledger.schema import metadata
from dagster_batch_llm.resources.local import stop_server

ROOT = Path(__file__).parent.parent
ROOMS = ("assets", "pipelines", "resources")
README, ARCHITECTURE = ROOT / "README.md", ROOT / "docs" / "architecture.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"\bmake ([a-z]+(?:-[a-z]+)*)\b")
LINK = re.compile(r"\]\(([^)\s]+)\)")
VARIABLE = re.compile(r"\b(?:[A-Z]+_)+[A-Z]+\b")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is the one after its opening fence."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    def run(self) -> dict[str, Any]:
        """Execute it as a module of its own; a failure names the page and its line."""
        module = ModuleType("example")
        # Blank lines before it make line numbers those of the page.
        source = "\n" * (self.line - 1) + self.text
        try:
            exec(compile(source, str(self.page), "exec", dont_inherit=True), vars(module))
        except Exception:  # noqa: BLE001 - whatever an example does wrong, the reader wants to know where
            pytest.fail(f"The example at {self} does not run.\n{traceback.format_exc()}", pytrace=False)
        return vars(module)


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for found in FENCE.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, so that an example's relative paths lead nowhere else."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def table_under(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    _, found, below = page.read_text().partition(f"\n{heading}\n")
    assert found, f"{page.name} has no heading {heading!r} any more; this test compares the table below it."
    lines = [line for line in below.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names_in(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


@pytest.mark.parametrize("block", PYTHON, ids=str)
@pytest.mark.usefixtures("elsewhere")
def test_an_example_runs_and_its_definitions_load(block: Block) -> None:
    found = [value for value in block.run().values() if isinstance(value, dg.Definitions)]
    for definitions in found:
        dg.Definitions.validate_loadable(definitions)


def test_the_readmes_example_fills_its_tables(elsewhere: Path) -> None:
    block = next(block for block in PYTHON if block.page == README and "review_translations" in block.text)
    definitions: dg.Definitions = block.run()["defs"]
    tables = DuckDBTables(path=str(elsewhere / "warehouse.duckdb"))
    resources = {"openai": LocalBatch(folder=str(elsewhere / "local")), "tables": tables}
    assets = [asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition)]
    try:
        result = dg.materialize(assets, resources=resources)
    finally:
        stop_server(elsewhere / "local")
    assert result.success
    written = {
        event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key
    }
    assert written == {"reviews", "review_topics", "review_translations", "review_vectors"}
    for name, rows in (("review_topics", 3), ("review_translations", 1), ("review_vectors", 3)):
        counted = tables.query(f"SELECT status, count(*) AS n FROM {name} GROUP BY ALL").to_pylist()
        assert counted == [{"status": "ok", "n": rows}]
    labels = tables.query("SELECT label FROM review_topics ORDER BY review_id")["label"].to_pylist()
    assert labels == ["praise", "complaint", "question"]  # the README says that the local engine finds them


def test_the_readmes_parquet_example_makes_a_file_per_partition(elsewhere: Path) -> None:
    block = next(block for block in PYTHON if block.page == README and "ParquetTables" in block.text)
    definitions: dg.Definitions = block.run()["defs"]
    resources = {"openai": LocalBatch(folder=str(elsewhere / "local")), "warehouse": ParquetTables(folder="warehouse")}
    tickets, kinds = (asset for asset in definitions.assets or () if isinstance(asset, dg.AssetsDefinition))
    try:
        # Dagster leaves the type of `settings` open.
        with dg.DagsterInstance.ephemeral() as instance:  # pyright: ignore[reportUnknownMemberType]
            assert dg.materialize([tickets], resources=resources, instance=instance).success
            for key in ("GB", "DE"):
                assert dg.materialize(
                    [tickets, kinds], selection=[kinds], partition_key=key, resources=resources, instance=instance
                ).success
    finally:
        stop_server(elsewhere / "local")
    files = sorted(path.name for path in (elsewhere / "warehouse" / "ticket_kinds.parquet").iterdir())
    assert files == ["%44%45.parquet", "%47%42.parquet"]  # the README says so
    counted = (
        ParquetTables(folder="warehouse")
        .query("SELECT status, count(*) AS n FROM ticket_kinds GROUP BY ALL")
        .to_pylist()
    )
    assert counted == [{"status": "ok", "n": 3}]


def test_the_readmes_module_serves_the_tables_of_a_defs_folder(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = next(
        block.text
        for block in PYTHON
        if block.page == README and "assets=" not in block.text and "defs =" in block.text
    )
    table = next(block.text for block in PYTHON if block.page == README and block.text.count("\n") <= 12)
    (elsewhere / "pyproject.toml").write_text(
        '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "shop_of_the_readme"\n'
    )
    defs = elsewhere / "shop_of_the_readme" / "defs"
    defs.mkdir(parents=True)
    for file, text in ((defs.parent / "__init__.py", ""), (defs / "llm.py", module), (defs / "topics.py", table)):
        file.write_text(text)
    monkeypatch.setattr(sys, "path", [str(elsewhere), *sys.path])
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    found = dg.load_from_defs_folder(path_within_project=defs.parent)
    repository = found.get_repository_def()
    assert [key.to_user_string() for key in repository.asset_graph.materializable_asset_keys] == ["review_topics"]
    assert [sensor.name for sensor in repository.sensor_defs] == ["batch_llm_sensor"]
    assert {"openai", "tables"} <= set(repository.get_top_level_resources())


def test_the_readme_says_what_its_example_costs() -> None:
    # Counted in the test above: 3 + 1 + 3 rows, all different.
    assert "this pays for seven requests" in README.read_text()


DOCTESTED = sorted(
    path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py") if ">>> " in path.read_text()
)


@pytest.mark.parametrize("path", DOCTESTED, ids=str)
@pytest.mark.usefixtures("elsewhere")
def test_the_examples_of_docstrings_hold(path: Path) -> None:
    module = importlib.import_module("dagster_batch_llm." + ".".join(path.with_suffix("").parts))
    output = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    examples = [example for example in doctest.DocTestFinder().find(module) if example.examples]
    for example in examples:
        runner.run(example, out=output.write)
    assert examples
    assert runner.summarize(verbose=False).failed == 0, output.getvalue()


@pytest.mark.parametrize("room", ["assets", "pipelines"])
def test_what_a_user_declares_with_has_an_example(room: str) -> None:
    module = importlib.import_module(f"dagster_batch_llm.{room}")
    public = [getattr(module, name) for name in module.__all__]
    declared = [value for value in public if not isinstance(value, type) and value.__name__ != "batch_llm_sensor"]
    assert declared
    assert [value.__name__ for value in declared if ">>> " not in (value.__doc__ or "")] == []


def test_the_table_of_states_is_the_codes() -> None:
    rows = table_under(ARCHITECTURE, "## The states of an attempt")
    documented = {row[0].strip("`"): names_in(row[1]) for row in rows}
    assert documented == {state.value: {to.value for to in following} for state, following in LEGAL.items()}
    assert all(row[2] for row in rows)


def test_every_state_is_named_where_the_states_are_explained() -> None:
    below = ARCHITECTURE.read_text().partition("\n## The states of an attempt\n")[2].partition("\n## ")[0]
    closing = below.rpartition("\n\nWhile an attempt is ")[2]
    open_states, plan_states = closing.split(", nobody else may ask its requests.")
    assert names_in(open_states) == {state.value for state in OPEN_ATTEMPTS}
    assert names_in(plan_states) == {state.value for state in PlanState}


def test_the_states_of_a_send_exist() -> None:
    rows = table_under(ARCHITECTURE, "### Send")
    assert {name for row in rows for name in names_in(row[2])} <= {state.value for state in AttemptState}


def test_the_ledgers_tables_are_all_described() -> None:
    rows = table_under(ARCHITECTURE, "## The ledger's tables")
    assert [row[0].strip("`") for row in rows] == list(dict.fromkeys(row[0].strip("`") for row in rows))
    assert {row[0].strip("`") for row in rows} == set(metadata.tables)


def spoken_targets(page: Path) -> set[str]:
    """Targets of make that a page tells a reader to use: in code, not in prose such as "make one"."""
    code = [block.text for block in blocks_of(page)]
    code += re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))
    return {target for text in code for target in TARGET.findall(text)}


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {(page.name, target) for page in PAGES for target in spoken_targets(page)}
    assert {"demo", "test", "lint"} <= {target for _, target in named}
    assert sorted((page, target) for page, target in named if target not in targets) == []


def test_every_environment_variable_of_the_docs_is_read_by_the_code() -> None:
    files = {path for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py")} - {Path(__file__)}
    code = "\n".join(path.read_text() for path in files)
    documented = {name for page in PAGES for name in VARIABLE.findall(page.read_text())}
    assert {"BATCH_LLM_HOME", "BATCH_LLM_PROVIDER", "OPENAI_API_KEY"} <= documented
    assert sorted(name for name in documented if not re.search(rf"\b{name}\b", code)) == []


def test_every_setting_of_the_demo_is_in_the_readme() -> None:
    settings = (ROOT / "pipelines" / "demo" / "settings.py").read_text()
    read = set(re.findall(r'environ\.get\("(\w+)"', settings)) | set(re.findall(r'EnvVar\("(\w+)"', settings))
    assert sorted(name for name in read if f"`{name}`" not in README.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors_of(file), f"{page.name} links to {target}"


def anchors_of(page: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join([*ROOMS, 'tests', 'docs'])})/[\w./]*)`", page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_the_changelog_knows_the_version() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert f"## [{version[1]}]" in (ROOT / "CHANGELOG.md").read_text()


def test_no_page_names_a_path_of_somebodys_machine() -> None:
    private = re.compile(r"(?:/home/|/Users/|/work/|/tmp/|[A-Z]:\\)\w")
    assert [(page.name, found[0]) for page in PAGES for found in [private.search(page.read_text())] if found] == []


def test_the_documented_python_is_the_required_one() -> None:
    required = re.search(r'^requires-python = ">=(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert required is not None
    assert f"Python {required[1]} or newer" in README.read_text()
    assert sys.version_info >= tuple(int(part) for part in required[1].split("."))
