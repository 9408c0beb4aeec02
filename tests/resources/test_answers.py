from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from dagster_batch_llm.resources.answers import (
    MANIFEST_COLUMNS,
    MAX_TRIES,
    MAX_UNRUN,
    Parsed,
    best_sql,
    parse_results,
    unanswered_sql,
)
from dagster_batch_llm.resources.duck import connect, literal, parquet, rows
from dagster_batch_llm.resources.operations.advice import ADVICE
from dagster_batch_llm.resources.request import Operation, RequestSpec, Room
from hypothesis import given, settings
from hypothesis import strategies as st

from .world import write_columns

TEXT = RequestSpec(operation=Operation.CHAT, model="m")
LABELS = replace(
    TEXT,
    schema={
        "type": "object",
        "properties": {"label": {"type": "string", "enum": ["good", "bad", 'it\'s "odd"']}},
        "required": ["label"],
    },
)
VECTOR = RequestSpec(operation=Operation.EMBEDDING, model="m", dimensions=2)
TOKENS = ("aa01", "bb02")
KEYS = ("k0", "k1", "k2")

Outcome = tuple[str, str | None]


def line(custom_id: object, **response: Any) -> str:
    status = response.pop("status_code", 200)
    error = response.pop("error", None)
    answer = {"status_code": status, "body": response.pop("body", None)}
    return json.dumps({"custom_id": custom_id, "response": answer, "error": error} | response)


def said(content: object, row: object = 0, *, token: str = "aa01", finish: str = "stop", **message: object) -> str:
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return line(f"{token}-{row}", body={"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})


def embedded(vector: object, row: int = 0) -> str:
    return line(f"aa01-{row}", body={"data": [{"embedding": vector}], "usage": {"prompt_tokens": 5}})


def parse(folder: Path, lines: Sequence[str | bytes], spec: RequestSpec = TEXT, **options: Any) -> Parsed:
    """Parse one result file; the sums are checked here, so in every test."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = b"".join((item.encode() if isinstance(item, str) else item) + b"\n" for item in lines)
    (folder / "result.jsonl").write_bytes(raw)
    manifest = write_columns(folder / "manifest.parquet", row=range(len(KEYS)), key=KEYS)
    results = options.pop("results", [folder / "result.jsonl"])
    parsed = parse_results(
        spec, results, manifest=manifest, tokens=TOKENS, name="n", target=folder / "a.parquet", **options
    )
    assert sum(parsed.file.outcomes.values()) == len(KEYS)
    return parsed


def outcomes(folder: Path) -> dict[str, Outcome]:
    found = rows(connect(), f"SELECT key, outcome, reason FROM read_parquet({literal(str(folder / 'a.parquet'))})")
    assert len(found) == len(KEYS)
    for _, outcome, reason in found:
        assert (reason is None) == (outcome == "ok")
        assert reason is None or reason.strip()
    return {key: (outcome, reason) for key, outcome, reason in found}


CASES: list[tuple[str, RequestSpec, str | bytes, str, str]] = [
    ("ok", TEXT, said("fine"), "ok", ""),
    ("ok with an empty error object", TEXT, said("fine")[:-1].replace('"error": null', '"error": {}') + "}", "ok", ""),
    ("ok with an empty error text", TEXT, said("fine").replace('"error": null', '"error": ""'), "ok", ""),
    ("error object", TEXT, line("aa01-0", error={"code": "boom", "message": "it broke"}), "errored", "boom: it broke"),
    ("error object without code", TEXT, line("aa01-0", error={"message": "it broke"}), "errored", "it broke"),
    ("error object of type", TEXT, line("aa01-0", error={"type": "t", "code": None}), "errored", "t"),
    ("error text", TEXT, line("aa01-0", error="it broke"), "errored", "it broke"),
    ("error list", TEXT, line("aa01-0", error=["it broke"]), "errored", "it broke"),
    ("error in the body", TEXT, line("aa01-0", status_code=400, body={"error": {"message": "bad"}}), "refused", "bad"),
    ("status 0", TEXT, line("aa01-0", status_code=0), "errored", "status 0"),
    ("status 500", TEXT, line("aa01-0", status_code=500), "errored", "status 500"),
    ("status in words", TEXT, line("aa01-0", status_code="fine", body={}), "errored", "neither"),
    ("no status", TEXT, line("aa01-0", status_code=None), "errored", "neither"),
    ("response null", TEXT, '{"custom_id": "aa01-0", "response": null, "error": null}', "errored", "neither"),
    ("no response", TEXT, '{"custom_id": "aa01-0"}', "errored", "neither"),
    ("body is text", TEXT, line("aa01-0", body="<html>\n<h1>Bad gateway"), "invalid", "sent <html> <h1>Bad gateway"),
    ("an error page", TEXT, line("aa01-0", status_code=502, body="<html>\n"), "errored", "status 502: <html>"),
    (
        "no error, but words",
        TEXT,
        line("aa01-0", status_code=404, body={"detail": "Not Found"}),
        "errored",
        "Not Found",
    ),
    ("body null", TEXT, line("aa01-0", body=None), "invalid", "empty"),
    ("body is a list", TEXT, line("aa01-0", body=[1]), "invalid", "sent [1]"),
    ("choices empty", TEXT, line("aa01-0", body={"choices": []}), "invalid", "empty"),
    ("no choices", TEXT, line("aa01-0", body={"choice": 1}), "invalid", 'sent {"choice":1}'),
    ("choices null", TEXT, line("aa01-0", body={"choices": None}), "invalid", "empty"),
    ("content null", TEXT, said(None), "invalid", "empty"),
    ("garbled", TEXT, '{"custom_id": "aa01-0", "respo', "missing", "nothing"),
    ("content in parts", LABELS, said([{"type": "text", "text": '{"label": '}, {"text": '"good"}'}]), "ok", ""),
    ("content in parts without text", TEXT, said([{"type": "audio"}]), "invalid", "empty"),
    ("a tool call", TEXT, said(None, tool_calls=[{"id": "1"}]), "invalid", "called a tool"),
    ("several choices", TEXT, line("aa01-0", body={"choices": [{"message": {"content": "x"}}] * 3}), "ok", ""),
    ("garbage bytes", TEXT, b'{"custom_id": "aa01-0", "\xff\xfe": 1}', "errored", "neither"),
    ("bytes that are no text", TEXT, said("x").replace("x", "%").encode().replace(b"%", b"\xff"), "invalid", "no text"),
    ("half a surrogate pair", TEXT, said("x\ud83d"), "invalid", "no text"),
    ("a refused row with half a pair", TEXT, said(None, refusal="\udc00 no"), "refused", "no"),
    ("a vector beside half a pair", VECTOR, embedded([1, 2])[:-1] + ', "x": "\\ud800"}', "invalid", "no text"),
    ("a pair of surrogates", TEXT, said("\U0001f600"), "ok", ""),
    ("NUL in the answer", TEXT, said("a\x00b"), "ok", ""),
    ("a control character as it is", TEXT, said("x").replace("x", "a\x01\tb"), "ok", ""),
    ("a byte order mark", TEXT, "\ufeff" + said("x"), "ok", ""),
    (
        "too deep for us",
        TEXT,
        '{"custom_id": "aa01-0", "x": "\x01", "y": ' + "[" * 99999 + "]" * 99999 + "}",
        "missing",
        "",
    ),
    ("a number", TEXT, "5", "missing", "nothing"),
    ("null", TEXT, "null", "missing", "nothing"),
    ("blank", TEXT, "", "missing", "nothing"),
    ("NUL", TEXT, b"\x00", "missing", "nothing"),
    ("two objects", TEXT, said("x") + said("y"), "missing", "nothing"),
    ("no id", TEXT, line(None, body={}), "missing", "nothing"),
    ("another's id", TEXT, said("x", token="cc03"), "missing", "nothing"),
    ("a row that was not sent", TEXT, said("x", row=99), "missing", "nothing"),
    ("a row in other words", TEXT, said("x", row="00"), "missing", "nothing"),
    ("a fraction of a row", TEXT, said("x", row="0.4"), "missing", "nothing"),
    ("a row with a tail", TEXT, said("x", row="0-1"), "missing", "nothing"),
    ("a row with a new line", TEXT, said("x", row="0\n"), "missing", "nothing"),
    ("a huge row", TEXT, said("x", row="9" * 40), "missing", "nothing"),
    ("an earlier send's id", TEXT, said("x", token="bb02"), "ok", ""),
    ("refusal", TEXT, said(None, refusal="I'd rather not"), "refused", "I'd rather not"),
    ("content filter", TEXT, said("x", finish="content_filter"), "refused", "content filter"),
    (
        "a wrong request",
        TEXT,
        line("aa01-0", status_code=400, body={"error": {"code": "too_long", "message": "9 > 8"}}),
        "refused",
        "too_long: 9 > 8",
    ),
    ("a wrong request without a word", TEXT, line("aa01-0", status_code=422, body=None), "refused", "status 422"),
    ("cut off", TEXT, said("x", finish="length"), "truncated", "cut off"),
    ("expired", TEXT, line("aa01-0", error={"code": "batch_expired", "message": "late"}), "expired", "late"),
    ("cancelled", TEXT, line("aa01-0", error={"code": "batch_cancelled", "message": "off"}), "expired", "off"),
    ("label", LABELS, said('{"label": "good"}'), "ok", ""),
    ("label with quotes", LABELS, said('{"label": "it\'s \\"odd\\""}'), "ok", ""),
    ("label not in the list", LABELS, said('{"label": "ugly"}'), "invalid", 'label is "ugly", not one of good'),
    ("label missing", LABELS, said("{}"), "invalid", "label is missing"),
    ("label null", LABELS, said('{"label": null}'), "invalid", "label is null, not"),
    ("label is a list", LABELS, said('{"label": ["good"]}'), "invalid", 'label is ["good"], not'),
    ("answer not JSON", LABELS, said("good"), "invalid", "not JSON"),
    ("answer cut in JSON", LABELS, said('{"label": "goo'), "invalid", "not JSON"),
    ("answer empty", LABELS, said(""), "invalid", "empty"),
    ("answer is a JSON list", LABELS, said("[1]"), "invalid", "the answer is [1], not an object"),
    ("vector", VECTOR, embedded([0.5, 1]), "ok", ""),
    ("vector too short", VECTOR, embedded([0.5]), "invalid", "no vector"),
    ("vector too long", VECTOR, embedded([1, 2, 3]), "invalid", "no vector"),
    ("vector with a gap", VECTOR, embedded([0.5, None]), "invalid", "no vector"),
    ("vector with a word", VECTOR, embedded([0.5, "x"]), "invalid", "no vector"),
    ("vector beyond a float", VECTOR, embedded([0.5, 1e39]), "invalid", "no vector"),
    ("vector as text", VECTOR, embedded("AAAA"), "invalid", "no vector"),
    ("vector null", VECTOR, embedded(None), "invalid", "no vector"),
    ("vector of any length", replace(VECTOR, dimensions=None), embedded([1, 2, 3]), "ok", ""),
    ("vector of no length", replace(VECTOR, dimensions=None), embedded([]), "invalid", "no vector"),
    ("no data", VECTOR, line("aa01-0", body={"data": []}), "invalid", "no vector"),
]


@pytest.mark.parametrize(("spec", "raw", "outcome", "reason"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_each_line_becomes_one_outcome_with_a_readable_reason(
    tmp_path: Path, spec: RequestSpec, raw: str | bytes, outcome: str, reason: str
) -> None:
    good: str = embedded([1, 2], 1) if spec.operation is Operation.EMBEDDING else said('{"label": "bad"}', 1)
    parsed = parse(tmp_path, [raw, good], spec)
    found = outcomes(tmp_path)
    assert found["k0"][0] == outcome
    assert reason in (found["k0"][1] or "")
    assert found["k1"] == ("ok", None)
    assert found["k2"][0] == "missing"
    assert parsed.file.outcomes["ok"] >= 1


def test_answers_are_matched_by_id_not_by_order(tmp_path: Path) -> None:
    parse(tmp_path, [said("two", 2), said("zero", 0), said("one", 1)])
    found = rows(connect(), f"SELECT key, answer FROM {parquet([tmp_path / 'a.parquet'], '')}")
    assert dict(found) == {"k0": "zero", "k1": "one", "k2": "two"}


def test_of_duplicates_the_first_ok_wins(tmp_path: Path) -> None:
    parse(tmp_path, [line("aa01-0", status_code=500), said("first"), said("second"), said("third", token="bb02")])
    found = rows(connect(), f"SELECT answer FROM {parquet([tmp_path / 'a.parquet'], '')} WHERE key = 'k0'")
    assert found == [("first",)]


def test_lines_of_strangers_are_counted_and_left_out(tmp_path: Path) -> None:
    parsed = parse(tmp_path, [said("x", token="cc03"), said("y", row=77), said("z"), "garbled"])
    assert (parsed.lines, parsed.unknown) == (3, 2)


def test_lines_that_can_not_be_read_are_counted_and_told(tmp_path: Path) -> None:
    broken = [b"\x00", '{"custom_id": "aa01-1', "<html>", "5", said("x\ud800"), "", "  ", line(None)]
    parsed = parse(tmp_path, [said("x", 1), *broken, said("y", 2, token="cc03")])
    assert (parsed.lines, parsed.unknown, parsed.unreadable) == (3, 1, 6)
    assert [(one.kind, one.subject) for one in parsed.incidents("b", tmp_path)] == [
        ("unknown rows", "b"),
        ("unreadable lines", "b"),
    ]
    assert all(one.kind in ADVICE and str(tmp_path) in one.message for one in parsed.incidents("b", tmp_path))
    assert parse(tmp_path, [said("x")]).incidents("b", tmp_path) == []


def test_what_a_mended_line_says_is_kept_as_it_was(tmp_path: Path) -> None:
    parse(tmp_path, [said("%").replace("%", "tab\there\x01"), said("nul\x00", 1), said("half \ud83d", 2)])
    found = rows(connect(), f"SELECT key, answer FROM {parquet([tmp_path / 'a.parquet'], '')}")
    assert dict(found) == {"k0": "tab\there\x01", "k1": "nul\x00", "k2": "half \ufffd"}


def test_a_line_beyond_the_limit_is_one_line_that_can_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dagster_batch_llm.resources.result_lines._MAX_LINE_BYTES", 1 << 24)
    parsed = parse(tmp_path, [said("x"), said("long" * (9 << 20), 1), said("y", 2)])
    assert (parsed.file.outcomes, parsed.unreadable) == ({"ok": 2, "missing": 1}, 1)


def test_tokens_are_summed_and_nonsense_is_not(tmp_path: Path) -> None:
    odd = '{"custom_id": "aa01-1", "response": {"status_code": 200, "body": {"usage": {"prompt_tokens": %s}}}}'
    lines = [said("x"), *(odd % value for value in ("-5", '"many"', "9223372036854775807", "1e30", "null", "[1]"))]
    parsed = parse(tmp_path, lines)
    assert (parsed.file.input_tokens, parsed.file.output_tokens) == (5, 2)
    assert parsed.file.unmetered == 6
    found = rows(connect(), f"SELECT key, input_tokens FROM {parquet([tmp_path / 'a.parquet'], '')}")
    assert dict(found) == {"k0": 5, "k1": None, "k2": None}


def test_a_row_that_was_not_answered_needs_no_tokens_and_a_vector_none_for_its_answer(tmp_path: Path) -> None:
    failed = [line("aa01-0", status_code=500), line("aa01-1", error={"code": "batch_expired"}), said("x", token="cc03")]
    assert parse(tmp_path, failed).file.unmetered == 0
    assert parse(tmp_path, [embedded([1, 2]), line("aa01-1", body={})], VECTOR).file.unmetered == 1


def test_no_results_at_all_are_missing_rows(tmp_path: Path) -> None:
    assert parse(tmp_path, [], results=[]).file.outcomes == {"missing": 3}
    assert parse(tmp_path, []).file.outcomes == {"missing": 3}


def test_rows_of_a_batch_that_was_cut_short_did_not_have_their_turn(tmp_path: Path) -> None:
    assert parse(tmp_path, [said("x")], absent="expired").file.outcomes == {"ok": 1, "expired": 2}
    assert "turn" in (outcomes(tmp_path)["k2"][1] or "")


def test_a_last_line_without_an_end_counts(tmp_path: Path) -> None:
    path = tmp_path / "unended.jsonl"
    path.write_text(said("x"))
    assert parse(tmp_path, [], results=[path]).file.outcomes == {"ok": 1, "missing": 2}


def test_several_files_are_read_as_one(tmp_path: Path) -> None:
    paths = [tmp_path / "output.jsonl", tmp_path / "it's an error.jsonl"]
    paths[0].write_text(said("x", 0) + "\n")
    paths[1].write_text(said("y", 1) + "\n")
    assert parse(tmp_path, [], results=paths).file.outcomes == {"ok": 2, "missing": 1}


@pytest.mark.parametrize("name", ["it's", 'say "x"', "a.b", "$", "a b", "ü", "a\\b", "{x}", "[0]", "*", "label'; --"])
def test_an_answer_column_may_have_any_name(tmp_path: Path, name: str) -> None:
    rule = {"type": "string", "enum": ["good"]}
    spec = replace(TEXT, schema={"type": "object", "properties": {name: rule}, "required": [name]})
    parse(tmp_path, [said(json.dumps({name: "good"})), said(json.dumps({name: "bad"}), 1)], spec)
    found = outcomes(tmp_path)
    assert (found["k0"][0], found["k1"][0]) == ("ok", "invalid")


# ---- anything may come back; `make fuzz` tries more of it ----

EXAMPLES = int(os.environ.get("BATCH_LLM_FUZZ", "60"))
GOOD = [
    said('{"label": "good"}', refusal=None, tool_calls=None),
    embedded([0.5, 1]),
    line("aa01-0", error={"code": "boom", "message": "it broke", "type": "t"}),
]
PLACES = (
    *("custom_id", "response", "status_code", "body", "error", "code", "message", "choices", "content", "refusal"),
    *("tool_calls", "finish_reason", "usage", "prompt_tokens", "completion_tokens", "data", "embedding"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def _put(tree: object, place: str, value: object) -> object:
    if isinstance(tree, dict):
        fields = cast("dict[str, object]", tree)
        return {name: value if name == place else _put(field, place, value) for name, field in fields.items()}
    return [_put(item, place, value) for item in cast("list[object]", tree)] if isinstance(tree, list) else tree


@st.composite
def result_files(draw: st.DrawFn) -> bytes:
    """Good lines with any value in any place, repeated and in any order; then bytes of the file are spliced."""
    lines: list[bytes] = []
    for _ in range(draw(st.integers(1, 5))):
        tree: object = json.loads(draw(st.sampled_from(GOOD)).replace("aa01-0", f"aa01-{draw(st.integers(0, 3))}"))
        for place in draw(st.lists(st.sampled_from(PLACES), max_size=2)):
            tree = _put(tree, place, draw(_JSON))
        lines += [json.dumps(tree, ensure_ascii=draw(st.booleans())).encode(errors="surrogatepass")] * draw(
            st.integers(1, 2)
        )
    raw = bytearray(b"\n".join(draw(st.permutations(lines))) + b"\n")
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(raw)))
        end = draw(st.integers(start, min(start + 5, len(raw))))
        raw[start:end] = draw(st.binary(max_size=5))
    return bytes(raw[: draw(st.integers(0, len(raw)))] if draw(st.booleans()) else raw)


@settings(max_examples=EXAMPLES)
@given(raw=result_files(), spec=st.sampled_from([TEXT, LABELS, VECTOR]))
def test_whatever_comes_back_the_sums_add_up(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes, spec: RequestSpec
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    parsed = parse(folder, [raw], spec)
    outcomes(folder)
    assert 0 <= parsed.unknown <= parsed.lines
    assert parsed.unreadable >= 0
    assert min(parsed.file.input_tokens, parsed.file.output_tokens, parsed.file.unmetered) >= 0


# ---- what is still to be asked ----


def _unanswered(folder: Path, files: Sequence[Sequence[tuple[str, str]]], opened: Sequence[str] = ()) -> set[str]:
    answers = [_answers(folder, number, pairs) for number, pairs in enumerate(files)]
    manifests = [write_columns(folder / "open.parquet", row=range(len(opened)), key=opened)] if opened else []
    engine = connect()
    engine.execute("CREATE TABLE request AS SELECT unnest(['k0', 'k1', 'k2']) AS key")
    return {key for (key,) in rows(engine, f"SELECT key FROM ({unanswered_sql('request', manifests, answers)})")}


def _answers(folder: Path, number: int, pairs: Sequence[tuple[str, str]]) -> Path:
    return write_columns(
        folder / f"{number}.parquet",
        key=[key for key, _ in pairs],
        outcome=[outcome for _, outcome in pairs],
        answer=[f"{number}: {outcome}" for _, outcome in pairs],
    )


def test_what_is_answered_or_under_way_is_not_asked(tmp_path: Path) -> None:
    assert _unanswered(tmp_path, []) == {"k0", "k1", "k2"}
    assert _unanswered(tmp_path, [[("k0", "ok")]], ["k1"]) == {"k2"}


def test_a_refusal_is_final_and_other_failures_are_tried_a_few_times(tmp_path: Path) -> None:
    failed = [[("k0", "refused"), ("k1", "errored"), ("k2", "expired")]]
    assert _unanswered(tmp_path, failed) == {"k1", "k2"}
    assert _unanswered(tmp_path, failed * (MAX_TRIES - 1)) == {"k1", "k2"}
    assert _unanswered(tmp_path, failed * MAX_TRIES) == {"k2"}
    assert _unanswered(tmp_path, failed * MAX_UNRUN) == set()


@pytest.mark.parametrize(
    ("room", "asked"),
    [(Room(6), {"k0": 1, "k1": 4, "k2": 2}), (Room(1, is_all=True), {"k0": 1, "k2": 2}), (Room(), {"k0": 1})],
)
def test_a_larger_limit_is_tried_where_there_is_one(tmp_path: Path, room: Room, asked: dict[str, int]) -> None:
    tries = [[("k1", "truncated"), ("k2", "truncated")], [("k0", "invalid"), ("k1", "truncated"), ("k2", "errored")]]
    files = [_answers(tmp_path, number, pairs) for number, pairs in enumerate(tries)]
    engine = connect()
    engine.execute("CREATE TABLE request AS SELECT unnest(['k0', 'k1', 'k2']) AS key")
    query = unanswered_sql("request", [], files, room=room)
    assert dict(rows(engine, f"SELECT key, limit_factor FROM ({query})")) == asked


def test_the_best_answer_is_an_ok_one_and_else_the_last(tmp_path: Path) -> None:
    pairs = [[("k0", "ok"), ("k1", "errored")], [("k0", "errored"), ("k1", "truncated")]]
    files = [_answers(tmp_path, number, item) for number, item in enumerate(pairs)]
    found = rows(connect(), f"SELECT key, answer FROM ({best_sql(files)}) ORDER BY key")
    assert found == [("k0", "0: ok"), ("k1", "1: truncated")]
    assert rows(connect(), best_sql([])) == []


def test_a_home_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "it's [a] *home*?"
    assert _unanswered(folder, [[("k0", "ok")]], ["k1"]) == {"k2"}
    parse(folder, [said("x")])
    assert rows(connect(), f"FROM {parquet([folder / 'manifest.parquet'], MANIFEST_COLUMNS)}")
    assert rows(connect(), f"SELECT key FROM ({best_sql([folder / '0.parquet'])})") == [("k0",)]
