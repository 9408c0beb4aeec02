"""A run converges: what was answered once is never asked again, and what failed is."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import Labels, classify_asset, convergence, embed_asset, llm_table
from dagster_batch_llm.resources import DuckDBTables
from dagster_batch_llm.resources.answers import MAX_TRIES, MAX_UNRUN
from dagster_batch_llm.resources.errors import BusyError, InputError, StorageError
from dagster_batch_llm.resources.ledger import PlanState
from dagster_batch_llm.resources.providers.protocol import Batch

from .conftest import House, failure, rows_asset
from .fake_provider import PROFILE, FakeBatch, FakeProvider, answered, by_first_label, embedded, errored, expired

LABELS = {"good": "says what is good", "bad": "says what is bad"}


def moods(**changed: Any) -> dg.AssetsDefinition:
    given: dict[str, Any] = {
        "name": "moods",
        "source": "reviews",
        "row_key": "id",
        "prompt": "{text}",
        "labels": LABELS,
        "llm": "llm",
        "model": "m",
    }
    return classify_asset(**{**given, **changed})


def reviews(*texts: str) -> dg.AssetsDefinition:
    return rows_asset("reviews", pa.table({"id": range(1, len(texts) + 1), "text": texts}))


def asked(metadata: Mapping[str, Any]) -> tuple[int, int]:
    return metadata["batch_llm/rows_asked"], metadata["batch_llm/rows_reused"]


def by_prompt(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The label that the text itself names."""
    return answered(json.dumps({"label": prompt.rsplit(maxsplit=1)[-1]}))


def test_two_rows_with_equal_prompts_are_asked_once(house: House) -> None:
    house.server.rule = by_prompt
    metadata = house.done(reviews("good", "bad", "good"), moods())
    assert sorted(house.server.prompts) == ["bad", "good"]
    assert house.rows("moods", "id, label") == [(1, "good"), (2, "bad"), (3, "good")]
    assert (asked(metadata), metadata["dagster/row_count"]) == ((2, 0), 3)
    assert metadata["batch_llm/input_tokens"] == 14


def test_a_second_run_asks_nothing(house: House) -> None:
    house.done(reviews("a", "b"), moods())
    before = house.rows("moods")
    house.server.forget()
    metadata = house.done(reviews("a", "b"), moods())
    assert (asked(metadata), metadata["batch_llm/input_tokens"]) == ((0, 2), 0)
    assert house.rows("moods") == before
    assert set(house.server.calls) == {"provider"}


def test_an_added_row_asks_one_and_a_removed_row_is_gone(house: House) -> None:
    house.done(reviews("a", "b"), moods())
    house.server.forget()
    assert asked(house.done(reviews("a", "c", "b"), moods())) == (1, 2)
    assert house.server.prompts == ["c"]
    assert asked(house.done(reviews("b"), moods())) == (0, 1)
    assert house.rows("moods", "id, status") == [(1, "ok")]


@pytest.mark.parametrize(
    "changed",
    [
        {"prompt": "{text}?"},
        {"model": "other"},
        {"labels": {**LABELS, "odd": "says neither"}},
        {"labels": {"good": "is good", "bad": "is bad"}},
        {"instruction": "Guess."},
        {"parameters": {"temperature": 0}},
    ],
)
def test_a_changed_question_is_asked_of_every_row(house: House, changed: dict[str, Any]) -> None:
    house.done(reviews("a", "b"), moods())
    house.server.forget()
    assert asked(house.done(reviews("a", "b"), moods(**changed))) == (2, 0)
    assert len(house.server.requests) == 2


def test_a_source_that_changes_while_a_batch_is_out_changes_the_next_table_not_this_one(house: House) -> None:
    def written(rows: str) -> None:
        assert isinstance(house.tables, DuckDBTables)
        with house.tables.connection() as db:
            db.execute(f"CREATE OR REPLACE TABLE reviews AS SELECT * FROM (VALUES {rows}) AS row(id, text)")

    def rule(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        written("(1, 'other'), (3, 'new')")
        return by_first_label(prompt, body)

    source = dg.AssetSpec("reviews").with_io_manager_key("tables")
    written("(1, 'a'), (2, 'b')")
    house.server.rule = rule
    house.done(source, moods(keep=["text"]), select=[moods()])
    assert house.rows("moods", "id, text, status") == [(1, "a", "ok"), (2, "b", "ok")]
    house.server.rule = by_first_label
    house.server.forget()
    house.done(source, moods(keep=["text"]), select=[moods()])
    assert house.rows("moods", "id, text, status") == [(1, "other", "ok"), (3, "new", "ok")]
    assert sorted(house.server.prompts) == ["new", "other"]


def test_a_row_that_is_asked_again_after_a_change_back_is_remembered(house: House) -> None:
    house.done(reviews("a"), moods())
    house.done(reviews("a"), moods(model="other"))
    house.server.forget()
    assert asked(house.done(reviews("a"), moods())) == (0, 1)


def test_what_is_not_part_of_the_question_changes_the_table_without_asking(house: House) -> None:
    house.done(reviews("a"), moods())
    house.server.forget()
    house.done(reviews("a"), moods(keep=["text"]))
    assert house.rows("moods", "id, text, label") == [(1, "a", "good")]
    assert house.server.requests == []


def test_two_assets_that_ask_the_same_share_the_answers(house: House) -> None:
    house.done(reviews("a", "b"), moods())
    house.server.forget()
    assert asked(house.done(reviews("b", "c"), moods(name="other_moods"))) == (1, 1)
    assert house.server.prompts == ["c"]


def test_two_assets_of_one_run_that_ask_the_same_share_the_answers(house: House) -> None:
    house.done(reviews("a", "b"), moods(), moods(name="other_moods"))
    assert sorted(house.server.prompts) == ["a", "b"]
    assert house.rows("moods") == house.rows("other_moods")


def test_a_plan_is_cut_by_rows(house: House) -> None:
    house.server.profile = replace(PROFILE, max_rows=3)
    house.done(reviews(*"abcdefgh"), moods())
    assert sorted(rows for rows, _ in house.server.sizes) == [2, 3, 3]
    assert house.rows("moods", "count(*), count(DISTINCT id)", "1") == [(8, 8)]


def test_a_plan_is_cut_by_bytes(house: House) -> None:
    house.server.profile = replace(PROFILE, max_bytes=4_000)
    house.done(reviews(*(letter * 1_000 for letter in "abcdefgh")), moods())
    assert len(house.server.sizes) > 2
    assert max(size for _, size in house.server.sizes) <= 4_000
    assert sorted(house.server.prompts) == [letter * 1_000 for letter in "abcdefgh"]


@pytest.mark.parametrize(("limit", "rows"), [(2, 2), (None, 3), (5, 3)])
def test_a_resource_may_ask_for_smaller_batches_never_for_larger_ones(limit: int | None, rows: int) -> None:
    assert FakeBatch(server="any", max_rows_per_batch=limit).limited(replace(PROFILE, max_rows=3)).max_rows == rows


def test_the_order_of_answers_means_nothing(house: House) -> None:
    house.server.rule = by_prompt
    texts = [f"{number} {'good' if number % 3 else 'bad'}" for number in range(60)]
    house.server.profile = replace(PROFILE, max_rows=25)
    house.done(reviews(*texts), moods())
    assert [label for _, label in house.rows("moods", "id, label")] == [text.split()[-1] for text in texts]


def test_how_often_a_row_is_asked_is_the_tables_choice(house: House) -> None:
    house.server.rule = lambda prompt, body: errored("e", "no") if prompt == "b" else by_first_label(prompt, body)
    house.done(reviews("a", "b"), moods(max_attempts=1))
    assert house.server.prompts == ["a", "b"]
    house.done(reviews("a", "b"), moods(max_attempts=1))
    assert house.server.prompts == ["a", "b"]
    house.done(reviews("a", "b"), moods(max_attempts=4))
    assert Counter(house.server.prompts) == {"a": 1, "b": 4}
    assert house.rows("moods", "id, status") == [(1, "ok"), (2, "errored")]


@pytest.mark.parametrize("wanted", [0, -1, 21, True, 1.5, "3", None])
def test_a_number_of_attempts_that_can_not_be_one_is_said(wanted: Any) -> None:
    with pytest.raises(InputError, match="moods: max_attempts"):
        moods(max_attempts=wanted)


@pytest.mark.parametrize(
    ("answer", "status", "reason"),
    [
        (errored("server_error", "it broke"), "errored", "server_error: it broke"),
        (answered('{"label": "ugly"}'), "invalid", 'label is "ugly", not one of good, bad'),
        (answered("good"), "invalid", "the answer is not JSON: good"),
        (answered('{"mood": "good"}'), "invalid", "label is missing"),
        (answered(None), "invalid", "the answer is empty"),
    ],
)
def test_a_row_that_fails_is_asked_again_and_then_is_an_error_row(
    house: House, answer: Mapping[str, Any], status: str, reason: str
) -> None:
    house.server.rule = lambda prompt, body: answer if prompt == "b" else by_first_label(prompt, body)
    metadata = house.done(reviews("a", "b", "c"), moods())
    assert Counter(house.server.prompts) == {"a": 1, "b": MAX_TRIES, "c": 1}
    _, failed, _ = house.rows("moods")
    assert house.rows("moods") == [(1, "good", "ok", None), failed, (3, "good", "ok", None)]
    assert failed[:3] == (2, None, status)
    said = answer["response"]["body"].get("choices", [{"message": {"content": None}}])[0]["message"]["content"]
    words = [reason, f"It was asked {MAX_TRIES} times.", *([f"The answer was: {said}"] if said else [])]
    assert failed[3].split("\n") == words
    assert f"| {MAX_TRIES} |" not in metadata["batch_llm/errors"]
    assert metadata["batch_llm/outcomes"] == {"ok": 2, status: MAX_TRIES}
    assert (metadata["batch_llm/rows_failed"], metadata["batch_llm/rows_reused"]) == (1, 0)
    house.server.forget()
    house.done(reviews("a", "b", "c"), moods())
    assert house.server.requests == []


def test_a_row_that_fails_once_is_mended_by_the_second_answer(house: House) -> None:
    seen: Counter[str] = Counter()

    def rule(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        seen[prompt] += 1
        failed = prompt != "a" and seen[prompt] == 1
        return errored("server_error", "it broke") if failed else by_first_label(prompt, body)

    house.server.rule = rule
    metadata = house.done(reviews("a", "b", "c", "a"), moods())
    assert [row[2] for row in house.rows("moods")] == ["ok"] * 4
    assert [rows for rows, _ in house.server.sizes] == [3, 2]
    # Five requests were sent for three questions, and none of them had been answered before.
    assert asked(metadata) == (5, 0)


def test_what_comes_back_during_a_look_is_looked_at_too(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.server.profile = replace(PROFILE, max_rows=1)
    times = Counter[str]()

    def rule(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        times[prompt] += 1
        return errored("x", "boom") if prompt == "b" and times[prompt] == 1 else by_first_label(prompt, body)

    house.server.rule = rule
    fetch, busy = FakeProvider.fetch, [True]

    def once_busy(provider: FakeProvider, batch: Batch, folder: Path) -> list[Path]:
        if busy and batch.id == f"batch-{house.server.prompts.index('b')}":
            busy.pop()
            raise BusyError("slow down", status=429, retry_after=0.0)
        return fetch(provider, batch, folder)

    monkeypatch.setattr(FakeProvider, "fetch", once_busy)
    house.done(reviews("a", "b"), moods())
    assert not busy
    assert times == {"a": 1, "b": 2}


def test_rows_asked_again_do_not_hide_the_reused_ones(house: House) -> None:
    house.done(reviews("a", "b"), moods())
    house.server.rule = lambda prompt, body: errored("server_error", "it broke")
    assert house.done(reviews("a", "b", "c"), moods())["batch_llm/rows_reused"] == 2


def test_a_refused_row_is_not_asked_again(house: House) -> None:
    refusal = answered(None, refusal="I can't help with that.")
    house.server.rule = lambda prompt, body: refusal if prompt == "b" else by_first_label(prompt, body)
    house.done(reviews("a", "b"), moods())
    assert house.rows("moods")[1] == (2, None, "refused", "I can't help with that.")
    assert Counter(house.server.prompts) == {"a": 1, "b": 1}


def test_a_row_whose_turn_never_comes_is_given_up_later_than_one_that_fails(house: House) -> None:
    house.server.rule = lambda prompt, body: expired() if prompt == "b" else by_first_label(prompt, body)
    house.done(reviews("a", "b"), moods())
    assert Counter(house.server.prompts) == {"a": 1, "b": MAX_UNRUN}
    assert house.rows("moods", "id, status") == [(1, "ok"), (2, "expired")]


def test_a_row_that_the_provider_forgets_is_asked_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its counts say more than its files have, so the files are fetched anew for a minute.
    monkeypatch.setattr("dagster_batch_llm.resources.looking._FILES_LATE_SECONDS", 0.0)
    house.server.loses = {"b"}
    house.done(reviews("a", "b"), moods())
    assert Counter(house.server.prompts) == {"a": 1, "b": MAX_TRIES}
    words = f"the provider returned nothing for this row\nIt was asked {MAX_TRIES} times."
    assert house.rows("moods")[1] == (2, None, "missing", words)


def test_a_long_batch_is_looked_at_until_it_has_ended(house: House) -> None:
    house.server.checks_before_end = 5
    house.done(reviews("a"), moods())
    assert (house.server.calls["create"], house.rows("moods", "status")) == (1, [("ok",)])


def test_a_waiting_run_says_so_once(house: House) -> None:
    house.server.checks_before_end = 5
    result = house.run(reviews("a", "b"), moods())
    (observed,) = [event for event in result.all_events if event.event_type_value == "ASSET_OBSERVATION"]
    data: Any = observed.event_specific_data
    metadata = {name: value.value for name, value in data.asset_observation.metadata.items()}
    assert metadata["batch_llm/rows_waiting"] == 2
    assert metadata["batch_llm/batch_ids"] == ["batch-0"]


def test_a_finished_plan_is_closed_and_nobody_holds_it(house: House) -> None:
    house.done(reviews("a"), moods())
    (plan,) = house.ledger.plans.find()
    assert (plan.state, plan.holder, plan.asset, plan.rows, plan.keys) == (PlanState.DONE, None, "moods", 1, 1)


def test_a_refused_batch_fails_the_run_and_the_next_run_asks_anew(house: House) -> None:
    house.server.rejects = "the model does not exist"
    result = house.run(reviews("a", "b"), moods())
    assert not result.success
    assert "moods: fake rejected batch batch-0 as a whole, unpaid: " in failure(result)
    assert "the model does not exist" in failure(result)
    (plan,) = house.ledger.plans.find()
    assert plan.state is PlanState.FAILED
    house.server.rejects = None
    assert asked(house.done(reviews("a", "b"), moods())) == (2, 0)


def test_the_asset_of_a_stored_code_version_is_stamped_with_it(house: House) -> None:
    table = moods()
    result = house.run(reviews("a"), table)
    (materialization,) = result.asset_materializations_for_node("moods")
    tags = materialization.tags or {}
    assert tags["dagster/code_version"] == table.code_versions_by_key[table.key]
    assert "dagster/input_event_pointer/reviews" in tags


def test_a_chain_of_llm_tables_is_materialized_in_one_run(house: House) -> None:
    second = moods(name="second", source="moods", prompt="{label}")
    house.done(reviews("a", "b"), moods(), second)
    assert house.server.prompts[-1] == "good"
    assert house.rows("second", "id, label") == [(1, "good"), (2, "good")]


def test_a_vector_table_and_a_label_table_over_one_source(house: House) -> None:
    vectors = embed_asset(name="vectors", source="reviews", row_key="id", prompt="{text}", llm="llm", model="e")
    house.done(reviews("a", "bb"), moods(), vectors)
    assert house.rows("vectors", "id, vector") == [(1, [1.0, 1.0, 0.5]), (2, [2.0, 1.0, 0.5])]


def test_a_vector_of_another_length_than_declared_is_invalid(house: House) -> None:
    house.server.rule = lambda prompt, body: embedded([1.0, 2.0] if prompt == "b" else [1.0, 2.0, 3.0, 4.0])
    vectors = embed_asset(
        name="vectors", source="reviews", row_key="id", prompt="{text}", llm="llm", model="e", dimensions=4
    )
    house.done(reviews("a", "b"), vectors)
    assert house.rows("vectors", "id, vector, status") == [(1, [1.0, 2.0, 3.0, 4.0], "ok"), (2, None, "invalid")]
    assert [body["dimensions"] for body in house.server.requests] == [4] * (1 + MAX_TRIES)


def test_a_function_is_the_source_of_a_table(house: House) -> None:
    @llm_table(row_key="id", prompt="{text}", output=Labels(["good", "bad"]), llm="llm", model="m")
    def moods(reviews: pa.Table) -> pa.Table:
        return reviews.slice(1)

    house.done(reviews("a", "b", "c"), moods)
    assert sorted(house.server.prompts) == ["b", "c"]


def test_what_a_request_says_is_what_was_declared(house: House) -> None:
    house.done(reviews("a"), moods(parameters={"max_completion_tokens": 9}))
    (body,) = house.server.requests
    assert (body["model"], body["max_completion_tokens"]) == ("m", 9)
    assert body["messages"][0]["role"] == "system"
    assert "- good: says what is good" in body["messages"][0]["content"]
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["good", "bad"]


def test_a_plan_that_a_failed_run_of_no_code_location_left_open_ends_with_the_next_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: object) -> None:
        raise StorageError("the table is locked")

    with monkeypatch.context() as patch:
        patch.setattr(convergence, "write_table", locked)
        assert not house.run(reviews("a"), moods()).success
    [left] = house.ledger.plans.find()
    assert left.state is PlanState.OPEN
    house.done(reviews("a", "b"), moods())
    assert [plan.state for plan in house.ledger.plans.find()] == [PlanState.SUPERSEDED, PlanState.DONE]
    assert sorted(house.server.prompts) == ["a", "b"]
