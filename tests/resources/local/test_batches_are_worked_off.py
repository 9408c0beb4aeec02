"""The worker, driven step by step over a real store, without threads or a network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from dagster_batch_llm.resources.errors import ProtocolError
from dagster_batch_llm.resources.local.answer import CHAT
from dagster_batch_llm.resources.local.batch import Batch, Status, batch_object, move
from dagster_batch_llm.resources.local.store import Store
from dagster_batch_llm.resources.local.wire import Answer
from dagster_batch_llm.resources.local.worker import Worker
from openai.types import Batch as OpenAIBatch


class FakeClock:
    def __init__(self) -> None:
        self.time = 1_000_000.0
        self._count = 0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds

    def token(self) -> str:
        self._count += 1
        return f"{self._count:016x}"


class EchoEngine:
    """Answers with the request's text; a text of "bad" is refused and one of "bomb" makes it raise."""

    endpoints = frozenset({CHAT})
    models = ("echo",)

    def __init__(self) -> None:
        self.calls: list[int] = []

    def answer(self, bodies: Sequence[Mapping[str, object]], endpoint: str) -> list[Answer]:
        self.calls.append(len(bodies))
        texts = [str(body["text"]) for body in bodies]
        if "bomb" in texts:
            raise RuntimeError("boom")
        usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
        if texts == ["deep"]:
            nested: object = 1
            for _ in range(100_000):
                nested = [nested]
            return [Answer(200, {"nested": nested})]
        if texts == ["endless"]:
            return [Answer(200, {"number": float("inf")})]
        return [
            Answer(400, {"error": {"message": "bad", "code": "bad"}})
            if text == "bad"
            else Answer(200, {"text": text, "usage": usage})
            for text in texts
        ]


class Bench:
    """A store, a worker with chunks of 3 rows, and what tests do with them."""

    def __init__(self, home: Path, min_batch_seconds: float = 0.0) -> None:
        self.home = home
        self.clock = FakeClock()
        self.engine = EchoEngine()
        self._min_batch_seconds = min_batch_seconds
        self.open()

    def open(self) -> None:
        self.store = Store(self.home, self.clock)
        self.worker = Worker(
            self.store, self.engine, self.clock, chunk_rows=3, min_batch_seconds=self._min_batch_seconds
        )

    def reopen(self) -> None:
        """As after kill -9: nothing is handed over but the folder."""
        self.store.close()
        self.open()

    def submit(self, texts: Sequence[str], window: tuple[str, int] = ("24h", 86400)) -> Batch:
        return self.submit_bytes("".join(line(f"row-{n}", text) for n, text in enumerate(texts)).encode(), window)

    def submit_bytes(self, content: bytes, window: tuple[str, int] = ("24h", 86400)) -> Batch:
        source = self.store.add_file(io.BytesIO(content), "in.jsonl")
        return self.store.add_batch(source, CHAT, window)

    def finish(self) -> None:
        for _ in range(1000):
            if not self.worker.run_once():
                return
        pytest.fail("the worker never rests")

    def see(self, batch: Batch) -> OpenAIBatch:
        found = self.store.batch(batch.id)
        assert found is not None
        return OpenAIBatch.model_validate(batch_object(found), strict=True)

    def rows(self, file_id: str | None) -> list[dict[str, Any]]:
        assert file_id is not None
        assert self.store.file(file_id) is not None
        return [json.loads(row) for row in self.store.content(file_id).read_text().splitlines()]


def line(custom_id: str, text: str, *, url: str = CHAT, model: str = "m") -> str:
    request = {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": model, "text": text}}
    return json.dumps(request) + "\n"


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(min_batch_seconds: float = 0.0) -> Bench:
        made.append(Bench(tmp_path / str(len(made)), min_batch_seconds))
        return made[-1]

    yield make
    for bench in made:
        bench.store.close()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def test_good_rows_go_to_the_output_file_and_bad_ones_to_the_error_file(bench: Bench) -> None:
    batch = bench.submit(["a", "bad", "c", "d", "e"])
    bench.finish()

    seen = bench.see(batch)
    assert seen.status == "completed"
    assert [row["custom_id"] for row in bench.rows(seen.output_file_id)] == ["row-0", "row-2", "row-3", "row-4"]
    (failed,) = bench.rows(seen.error_file_id)
    assert failed["custom_id"] == "row-1"
    assert failed["response"]["status_code"] == 400
    assert failed["error"] is None
    assert seen.request_counts is not None
    assert seen.request_counts.model_dump() == {"total": 5, "completed": 4, "failed": 1}
    assert seen.usage is not None
    assert (seen.usage.input_tokens, seen.usage.output_tokens, seen.usage.total_tokens) == (8, 4, 12)
    assert bench.engine.calls == [3, 2]
    assert list((bench.home / "work").iterdir()) == []


def test_the_states_are_passed_in_order_with_live_counts(bench: Bench) -> None:
    batch = bench.submit(["a", "b", "c", "d"])
    steps: list[tuple[str, int]] = []
    while True:
        seen = bench.see(batch)
        assert seen.request_counts is not None
        steps.append((seen.status, seen.request_counts.completed))
        bench.clock.time += 1
        if not bench.worker.run_once():
            break
    assert steps == [
        ("validating", 0),
        ("in_progress", 0),
        ("in_progress", 3),
        ("in_progress", 4),
        ("finalizing", 4),
        ("completed", 4),
    ]
    seen = bench.see(batch)
    assert seen.in_progress_at is not None
    assert seen.finalizing_at is not None
    assert seen.completed_at is not None
    assert seen.created_at < seen.in_progress_at < seen.finalizing_at < seen.completed_at


@pytest.mark.parametrize(("text", "output", "errors"), [("a", True, False), ("bad", False, True)])
def test_a_result_file_without_rows_does_not_exist(bench: Bench, text: str, output: bool, errors: bool) -> None:
    batch = bench.submit([text])
    bench.finish()
    seen = bench.see(batch)
    assert seen.status == "completed"
    assert (seen.output_file_id is not None, seen.error_file_id is not None) == (output, errors)


def test_a_row_that_breaks_the_engine_fails_alone(bench: Bench) -> None:
    batch = bench.submit(["a", "bomb", "c"])
    bench.finish()
    seen = bench.see(batch)
    assert [row["custom_id"] for row in bench.rows(seen.output_file_id)] == ["row-0", "row-2"]
    (failed,) = bench.rows(seen.error_file_id)
    assert failed["response"]["body"]["error"]["code"] == "engine_failure"


@pytest.mark.parametrize("text", ["deep", "endless"])
def test_an_answer_that_is_no_json_becomes_an_error(bench: Bench, text: str) -> None:
    batch = bench.submit([text])
    bench.finish()
    (failed,) = bench.rows(bench.see(batch).error_file_id)
    assert failed["response"]["body"]["error"]["code"] == "invalid_answer"


BAD_FILES = {
    "no line at all": (b"", [("empty_file", None)]),
    "not JSON": ((line("a", "x") + "{oops\n").encode(), [("invalid_json_line", 2)]),
    "a blank line": ((line("a", "x") + "\n" + line("b", "y")).encode(), [("invalid_json_line", 2)]),
    "not an object": (b"[1]\n", [("invalid_json_line", 1)]),
    "not a number": (b'{"custom_id": NaN}\n', [("invalid_json_line", 1)]),
    "not UTF-8": (b'{"custom_id": "\xff"}\n', [("invalid_json_line", 1)]),
    "nested too deeply": (b'{"a":' + b"[" * 100_000 + b"\n", [("invalid_json_line", 1)]),
    "a repeated id": (
        (line("a", "x") + line("b", "x") + line("a", "y") + line("b", "z")).encode(),
        [("duplicate_custom_id", 3), ("duplicate_custom_id", 4)],
    ),
    "another endpoint": (line("a", "x", url="/v1/embeddings").encode(), [("mismatched_endpoint", 1)]),
    "two models": ((line("a", "x") + line("b", "x", model="n")).encode(), [("mismatched_model", 2)]),
    "no id": (b'{"method": "POST", "url": "/v1/chat/completions", "body": {}}\n', [("missing_required_parameter", 1)]),
    "no body": (
        b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}\n',
        [("missing_required_parameter", 1)],
    ),
    "another method": (b'{"custom_id": "a", "method": "GET"}\n', [("invalid_method", 1)]),
    "an endless line": (b"x" * 5_000_000, [("request_too_large", 1)]),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_input_file_fails_the_batch_with_line_numbers(bench: Bench, name: str) -> None:
    content, expected = BAD_FILES[name]
    batch = bench.submit_bytes(content)
    bench.finish()
    seen = bench.see(batch)
    assert seen.status == "failed"
    assert seen.failed_at is not None
    assert seen.errors is not None
    assert [(problem.code, problem.line) for problem in seen.errors.data or []] == expected
    assert (seen.output_file_id, seen.error_file_id) == (None, None)
    assert bench.engine.calls == []


def test_no_more_than_a_hundred_problems_are_listed(bench: Bench) -> None:
    batch = bench.submit_bytes(b"{}\n" * 1000)
    bench.finish()
    errors = bench.see(batch).errors
    assert errors is not None
    assert len(errors.data or []) == 100


def test_cancelling_keeps_the_answers_and_lists_the_rest(bench: Bench) -> None:
    batch = bench.submit(["a", "b", "c", "d", "e"])
    bench.worker.run_once()
    bench.worker.run_once()
    bench.store.update(batch.id, lambda current: move(current, Status.CANCELLING, bench.clock.now()))
    bench.finish()

    seen = bench.see(batch)
    assert seen.status == "cancelled"
    assert [row["custom_id"] for row in bench.rows(seen.output_file_id)] == ["row-0", "row-1", "row-2"]
    rest = bench.rows(seen.error_file_id)
    assert [row["custom_id"] for row in rest] == ["row-3", "row-4"]
    assert {row["error"]["code"] for row in rest} == {"batch_cancelled"}
    assert {row["response"] for row in rest} == {None}


def test_a_batch_cancelled_before_validation_has_no_files(bench: Bench) -> None:
    batch = bench.submit(["a"])
    bench.store.update(batch.id, lambda current: move(current, Status.CANCELLING, bench.clock.now()))
    bench.finish()
    seen = bench.see(batch)
    assert (seen.status, seen.output_file_id, seen.error_file_id) == ("cancelled", None, None)


def test_a_passed_window_keeps_the_answers_and_lists_the_rest_as_expired(bench: Bench) -> None:
    batch = bench.submit(["a", "b", "c", "d"], window=("1h", 3600))
    bench.worker.run_once()
    bench.worker.run_once()
    bench.clock.time += 3600
    bench.finish()

    seen = bench.see(batch)
    assert seen.status == "expired"
    assert seen.expired_at == seen.expires_at
    assert len(bench.rows(seen.output_file_id)) == 3
    (rest,) = bench.rows(seen.error_file_id)
    assert (rest["custom_id"], rest["error"]["code"]) == ("row-3", "batch_expired")


def test_a_batch_is_not_finished_before_its_minimum_age(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(min_batch_seconds=60.0)
    batch = bench.submit(["a"])
    bench.finish()
    assert bench.see(batch).status == "in_progress"
    bench.clock.time += 60
    bench.finish()
    assert bench.see(batch).status == "completed"


def test_a_held_batch_does_not_hold_up_the_next_one(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(min_batch_seconds=60.0)
    first = bench.submit(["a"])
    bench.clock.time += 30
    second = bench.submit(["b"])
    bench.finish()
    counts = [bench.see(batch).request_counts for batch in (first, second)]
    assert [count.completed for count in counts if count] == [1, 1]


@pytest.mark.parametrize("steps", range(8))
def test_a_restart_after_any_step_answers_every_row_once(bench: Bench, steps: int) -> None:
    texts = ["a", "bad", "c", "d", "bad", "f", "g", "h"]
    batch = bench.submit(texts)
    for _ in range(steps):
        bench.worker.run_once()
    # What a process leaves that died between writing rows and counting them.
    for part in ("output", "error"):
        path = bench.home / "work" / f"{batch.id}.{part}"
        if path.exists():
            with path.open("ab") as stream:
                stream.write(b'{"custom_id":"row-0","half a li')
    bench.reopen()
    bench.finish()

    seen = bench.see(batch)
    assert seen.status == "completed"
    found = [row["custom_id"] for row in bench.rows(seen.output_file_id) + bench.rows(seen.error_file_id)]
    assert sorted(found) == [f"row-{n}" for n in range(len(texts))]


def test_a_death_between_publishing_and_committing_loses_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = bench.submit(["a", "bad"])
    for _ in range(3):
        bench.worker.run_once()
    assert bench.see(batch).status == "finalizing"

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "_insert_file", die)
        with pytest.raises(KeyboardInterrupt):
            bench.worker.run_once()
    bench.reopen()
    bench.finish()
    seen = bench.see(batch)
    assert seen.status == "completed"
    assert (len(bench.rows(seen.output_file_id)), len(bench.rows(seen.error_file_id))) == (1, 1)


def test_deleting_the_input_file_does_not_disturb_a_running_batch(bench: Bench) -> None:
    batch = bench.submit(["a", "b"])
    bench.store.delete_file(batch.input_file_id)
    bench.finish()
    assert bench.see(batch).status == "completed"


def test_a_file_is_gone_when_its_time_has_passed(bench: Bench) -> None:
    stored = bench.store.add_file(io.BytesIO(b"x"), "in.jsonl", 3600)
    bench.clock.time += 3600
    assert bench.store.file(stored.id) is None
    bench.store.delete_expired()
    assert not bench.store.content(stored.id).exists()


def test_half_surrogates_in_ids_and_texts_come_back_as_they_were(bench: Bench) -> None:
    batch = bench.submit_bytes(line("\ud800", "\udfff", model="\ud800").encode())
    bench.finish()
    (row,) = bench.rows(bench.see(batch).output_file_id)
    assert row["custom_id"] == "\ud800"
    assert row["response"]["body"]["text"] == "\udfff"


def test_an_illegal_transition_is_an_error(bench: Bench) -> None:
    batch = bench.submit(["a"])
    with pytest.raises(ProtocolError, match="can't go from validating to completed"):
        move(batch, Status.COMPLETED, 0.0)
