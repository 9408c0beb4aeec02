import re
from pathlib import Path, PurePosixPath

import pytest
from dagster_batch_llm.resources.file_names import decoded, digest, encoded
from dagster_batch_llm.resources.home import Home
from hypothesis import example, given
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=400)
HOSTILE = ["", "..", "../x", "/etc/passwd", "a\0b", "x" * 300, "Ü" * 300, ".hidden", "a/b", "a\\b", "%2E", "%", "+"]


@given(TEXTS)
@example("x" * 180)
@example("x" * 181)
@example("Ä" * 300)
def test_a_name_comes_back_from_its_path(text: str) -> None:
    assert decoded(encoded(text)) == text


@given(TEXTS, TEXTS)
@example("Reviews", "reviews")
@example("ß", "SS")
@example("x" * 180 + "/y", "x" * 180 + "y")
@example("", "%")
def test_two_names_differ_even_where_case_does_not_count(one: str, other: str) -> None:
    same = str(encoded(one)).casefold() == str(encoded(other)).casefold()
    assert same == (one == other)


@given(TEXTS)
def test_a_path_stays_below_its_folder_and_no_part_of_it_is_long(text: str) -> None:
    path = encoded(text)
    assert not path.is_absolute()
    assert all(0 < len(part) <= 181 and part.isascii() and "." not in part and "\0" not in part for part in path.parts)


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_names_come_back_too(text: str) -> None:
    assert decoded(encoded(text)) == text


@pytest.mark.parametrize("path", ["a.b", "A", "%2e", "%61", "%FF", "x+/y", "+", "a b", "..", "%zz"])
def test_what_is_never_written_is_recognised(path: str) -> None:
    assert decoded(PurePosixPath(path)) is None


@given(TEXTS, TEXTS)
@example("batch_A", "batch_a")
@example("\ud800", "\udfff")
@example("file-1", "file-1/../file-1")
def test_a_strangers_word_is_one_short_name_that_differs_from_any_other(one: str, other: str) -> None:
    names = [digest(text) for text in (one, other)]
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names)
    assert (names[0] == names[1]) == (one == other)


@given(TEXTS, TEXTS)
def test_files_of_different_batches_never_meet(batch: str, other: str) -> None:
    home = Home(Path("/home"))
    late = [home.late_results("a" * 16, digest(name)) for name in (batch, other)]
    assert (late[0] == late[1]) == (batch == other)
    for path in late:
        assert path.parent == home.all_results("a" * 16)
        assert path.name not in {str(number) for number in range(3)}
        assert len(path.name) < 64


def test_what_can_be_read_is_left_readable() -> None:
    assert str(encoded("2026-11-25_en")) == "2026-11-25_en"
