from __future__ import annotations

import json
import re
import subprocess
import sys
from string import Formatter

import pyarrow as pa
import pytest
from dagster_batch_llm.pipelines.demo.stdlib import DOCSTRING_LIMIT, SCHEMA, stdlib_functions
from dagster_batch_llm.pipelines.demo.topics import CHAPTER_OF_MODULE, GROUP_OF_MODULE, MODULE_GROUPS, TOPICS

Row = dict[str, str]


def read(table: pa.Table) -> list[Row]:
    return table.to_pylist()


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return stdlib_functions()


@pytest.fixture(scope="module")
def functions(table: pa.Table) -> dict[str, Row]:
    return {row["function_id"]: row for row in read(table)}


def test_there_are_a_few_thousand_rows_with_the_promised_columns(table: pa.Table) -> None:
    assert 1500 < table.num_rows < 5000
    assert table.schema == SCHEMA


def test_ids_are_unique_and_sorted(table: pa.Table) -> None:
    ids = [row["function_id"] for row in read(table)]
    assert ids == sorted(set(ids))


def test_no_value_is_null_and_only_a_signature_may_be_empty(table: pa.Table) -> None:
    assert all(table[column].null_count == 0 for column in table.column_names)
    assert all(value for row in read(table) for column, value in row.items() if column != "signature")


def test_a_docstring_is_one_bounded_line(functions: dict[str, Row]) -> None:
    docstrings = [row["docstring"] for row in functions.values()]
    assert max(map(len, docstrings)) <= DOCSTRING_LIMIT
    assert not any("\n" in docstring for docstring in docstrings)


def test_well_known_functions_read_as_documented(functions: dict[str, Row]) -> None:
    rmtree = functions["shutil.rmtree"]
    assert (rmtree["module"], rmtree["name"], rmtree["kind"]) == ("shutil", "rmtree", "function")
    assert rmtree["docstring"].startswith("Recursively delete a directory tree.")
    assert functions["json.JSONDecoder"]["kind"] == "class"
    assert functions["math.sqrt"]["signature"] == "(x, /)"


def test_a_call_at_the_start_of_a_c_docstring_becomes_the_signature(functions: dict[str, Row]) -> None:
    assert functions["socket.gethostbyname"]["signature"] == "(host)"
    assert not functions["socket.gethostbyname"]["docstring"].startswith("gethostbyname")


def test_a_function_exported_twice_is_listed_where_it_is_defined(functions: dict[str, Row]) -> None:
    assert "threading.Barrier" in functions
    assert "multiprocessing.dummy.Barrier" not in functions
    assert "random.SystemRandom" in functions
    assert "secrets.SystemRandom" not in functions


def test_builtins_under_another_name_are_left_out(functions: dict[str, Row]) -> None:
    assert not {"os.error", "socket.timeout", "io.open"} & functions.keys()


def test_a_signature_shows_nothing_of_this_process(functions: dict[str, Row]) -> None:
    telling = re.compile(rf"0x[0-9a-f]{{6}}|{re.escape(sys.prefix)}|{re.escape(sys.executable)}")
    assert not [row["function_id"] for row in functions.values() if telling.search(row["signature"])]


def test_the_table_is_the_same_in_another_process_without_pytest(table: pa.Table) -> None:
    code = (
        "import json; from dagster_batch_llm.pipelines.demo.stdlib import stdlib_functions;"
        "print(json.dumps(stdlib_functions().to_pylist()))"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(other.stdout) == read(table)


def test_a_smaller_sample_is_part_of_a_larger_one(table: pa.Table) -> None:
    small, large = read(stdlib_functions(rows=100)), read(stdlib_functions(rows=400))
    everything = read(table)
    assert (len(small), len(large)) == (100, 400)
    assert all(row in large for row in small)
    assert all(row in everything for row in large)


def test_a_sample_larger_than_the_library_is_the_library(table: pa.Table) -> None:
    assert stdlib_functions(rows=10**6).equals(table)


def test_every_gold_topic_is_declared(functions: dict[str, Row]) -> None:
    assert {row["gold_topic"] for row in functions.values()} <= TOPICS.keys()


def test_no_topic_holds_a_quarter_of_the_rows(functions: dict[str, Row]) -> None:
    golds = [row["gold_topic"] for row in functions.values()]
    assert max(map(golds.count, TOPICS)) < 0.25 * len(golds)


def test_every_topic_is_in_one_group_and_so_every_module() -> None:
    assert sorted(topic for topics in MODULE_GROUPS.values() for topic in topics) == sorted(TOPICS)
    assert GROUP_OF_MODULE.keys() == CHAPTER_OF_MODULE.keys()
    assert all(re.fullmatch("[a-z]+", group) for group in MODULE_GROUPS)


def test_every_group_has_rows_in_the_default_sample() -> None:
    assert {row["module_group"] for row in read(stdlib_functions(rows=400))} == MODULE_GROUPS.keys()


@pytest.mark.filterwarnings("ignore::dagster.BetaWarning")  # importing the assets declares backfill policies
def test_the_prompt_does_not_give_the_module_away() -> None:
    from dagster_batch_llm.pipelines.demo.assets import PROMPT  # noqa: PLC0415

    fields = {field for _, field, _, _ in Formatter().parse(PROMPT) if field}
    assert fields == {"name", "docstring"}


def test_listing_the_library_prints_nothing_and_runs_no_jokes() -> None:
    code = (
        "import sys; from dagster_batch_llm.pipelines.demo.stdlib import stdlib_functions; stdlib_functions();"
        "sys.exit(any(name in sys.modules for name in ('this', 'antigravity', 'turtle', 'idlelib')))"
    )
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert (other.stdout, other.stderr) == ("", "")
