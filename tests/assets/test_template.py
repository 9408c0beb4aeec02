"""A template is parsed once; what a row holds is never interpreted."""

from __future__ import annotations

import re
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from dagster_batch_llm.assets.template import Template
from dagster_batch_llm.resources.duck import connect, quoted
from dagster_batch_llm.resources.errors import InputError
from hypothesis import example, given
from hypothesis import strategies as st

HOSTILE = [
    "{text}",
    "{0}",
    "{{}}",
    "}{",
    "'; DROP TABLE source; --",
    '" || (SELECT 1) || "',
    "$task",
    "$partitions ?1 :name",
    "nul \x00 inside",
    "line\r\nbreak\ttab",
    "😀 e\u0301 \u202e right to left",
    "\\ back \\n slash",
    "",
    "%s %(x)s",
]


def rendered(template: str, rows: list[dict[str, Any]]) -> list[str | None]:
    engine = connect()
    engine.register("source", pa.Table.from_pylist(rows))
    return [row[0] for row in engine.execute(f"SELECT {Template.parse(template).sql()} FROM source").fetchall()]


def test_columns_are_listed_once_in_their_order() -> None:
    assert Template.parse("{b} {a} {b}").columns == ("b", "a")


def test_doubled_braces_are_braces() -> None:
    assert rendered('{{"q": "{text}"}} {{{text}}}', [{"text": "x"}]) == ['{"q": "x"} {x}']


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{text", "expected '}'"),
        ("text}", "Single '}'"),
        ("{}", "{} names no column"),
        ("{text} {}", "{} names no column"),
        ("{text!r}", "{text} may not carry a format"),
        ("{text:>5}", "{text} may not carry a format"),
        ("{text:{width}}", "{text} may not carry a format"),
        ("{te{xt}}", "unexpected '{'"),
        ("what is this?", "names no column, so every row would ask the same"),
        ("", "names no column"),
        ("{{text}}", "names no column"),
    ],
)
def test_a_template_that_cannot_be_meant_is_refused_with_its_text(template: str, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)) as caught:
        Template.parse(template)
    assert repr(template) in caught.value.message


def test_an_unknown_column_is_named_beside_those_that_are_there() -> None:
    with pytest.raises(InputError, match=r"\['txet'\].*'id', 'text'"):
        Template.parse("{txet} {text}").check(["id", "text"])


@pytest.mark.parametrize(
    "column", ["a b", "a.b", 'quo"te', "it's", "a[0]", "a[b]", "SELECT", "ünï😀", "0", "$x", "a;b"]
)
def test_a_column_may_have_any_name(column: str) -> None:
    template = Template.parse("<{" + column + "}>")
    assert template.columns == (column,)
    template.check([column])
    assert rendered(template.text, [{column: "v", "a": {"b": "wrong"}}]) == ["<v>"]


def test_a_dot_never_reaches_into_a_struct() -> None:
    with pytest.raises(InputError, match=re.escape("['a.b']")):
        Template.parse("{a.b}").check(["a", "b"])


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_value_stays_text(value: str) -> None:
    assert rendered("say '{text}' {{again}} {text}", [{"text": value}]) == [f"say '{value}' {{again}} {value}"]


@pytest.mark.parametrize("words", [text.replace("{", "{{").replace("}", "}}") for text in HOSTILE])
def test_hostile_words_of_the_template_stay_text(words: str) -> None:
    assert rendered(words + "{text}", [{"text": "v"}]) == [words.replace("{{", "{").replace("}}", "}") + "v"]


def test_a_null_makes_no_prompt_and_names_its_column() -> None:
    template = Template.parse("{a}: {b's}")
    engine = duckdb.connect()
    engine.register("source", pa.table({"a": ["x", None, "x"], "b's": ["y", "y", None]}))
    query = f"SELECT {template.sql()}, {template.null_reason_sql()} FROM source"
    assert engine.execute(query).fetchall() == [
        ("x: y", None),
        (None, "column 'a' is null"),
        (None, """column "b's" is null"""),
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Names that a field can have in a Python format string, apart from those that Python itself reads as a path.
NAME = st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}[].:!"), min_size=1, max_size=8)


@st.composite
def templates(draw: st.DrawFn) -> tuple[str, list[dict[str, str | int]]]:
    # DuckDB's names don't tell upper from lower case, so neither do the columns of one source.
    names = draw(st.lists(NAME, min_size=1, max_size=3, unique_by=lambda name: name.lower()))
    words = TEXT.map(lambda text: text.replace("{", "{{").replace("}", "}}"))
    pieces = draw(st.lists(st.one_of(words, st.sampled_from(names).map(lambda name: "{" + name + "}")), max_size=6))
    template = "".join([*pieces, "{" + names[0] + "}"])
    values = {name: st.one_of(TEXT, st.sampled_from(HOSTILE)) for name in names[:-1]} | {
        names[-1]: st.integers(-(2**63), 2**63 - 1)
    }
    return template, draw(st.lists(st.fixed_dictionaries(values), min_size=1, max_size=5))


@given(templates())
@example(("{0}{{", [{"0": 1}]))
def test_sql_renders_what_python_would(case: tuple[str, list[dict[str, str | int]]]) -> None:
    template, rows = case
    # str.format_map would look a number up by position, so the fields get other names first.
    fields = {name: f"f{number}" for number, name in enumerate(rows[0])}
    renamed = re.sub(
        r"\{\{|\}\}|\{([^{}]+)\}", lambda m: "{" + fields[m.group(1)] + "}" if m.group(1) else m.group(0), template
    )
    assert rendered(template, rows) == [renamed.format_map({fields[k]: v for k, v in row.items()}) for row in rows]


def test_quoting_survives_what_a_name_may_contain() -> None:
    assert quoted('a"b') == '"a""b"'
