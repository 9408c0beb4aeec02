import pytest
from dagster_batch_llm.resources.errors import InputError
from dagster_batch_llm.resources.query import tables_of, without_end


def test_tables_are_found_wherever_a_query_reads_them() -> None:
    sql = "SELECT *, (SELECT max(n) FROM shop.counts) FROM a JOIN b USING (id) WHERE id IN (FROM c) UNION ALL FROM d"
    assert tables_of(sql) == [("a",), ("b",), ("c",), ("d",), ("shop", "counts")]


def test_the_querys_own_names_and_files_are_no_tables() -> None:
    assert tables_of("WITH a AS (FROM b) FROM a, 'file.parquet', read_csv('x.csv')") == [("b",)]


@pytest.mark.parametrize("sql", ["SELEKT", "SELECT 1; SELECT 2", "DROP TABLE x", ""])
def test_what_is_no_query_is_told(sql: str) -> None:
    with pytest.raises(InputError, match="source query"):
        tables_of(sql)


def test_a_semicolon_in_a_text_is_no_end() -> None:
    assert without_end("SELECT ';' -- ü;\n;") == "SELECT ';' -- ü;\n\n"
