"""Answers that were cut off, what an error row says of them, and what a run says of a provider that refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.errors import RefusedError
from dagster_batch_llm.resources.ledger import schema
from dagster_batch_llm.resources.ledger.connect import Database
from dagster_batch_llm.resources.operations import ask_again, given_up
from dagster_batch_llm.resources.providers.protocol import Batch
from sqlalchemy import update

from .conftest import House, failure
from .fake_provider import FakeProvider, FakeServer, Rule, answered, by_first_label, errored, prompt_of
from .test_body import moods, reviews


def cut_off_below(tokens: int) -> Rule:
    """A model that needs so many tokens for `b`, and keeps to the limit that it is given."""

    def rule(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        enough = prompt != "b" or body.get("max_tokens", 0) >= tokens
        return by_first_label(prompt, body) if enough else answered('{"label": "go', finish="length")

    return rule


def reject_more_than(
    tokens: int, why: str, monkeypatch: pytest.MonkeyPatch, *, at_once: bool = False, status: int = 400
) -> None:
    """A batch with a row that may be longer fails as a whole, with these words; or its create is refused with them."""
    create = FakeServer.create

    def created(server: FakeServer, file_id: str, token: str) -> Batch:
        bodies = [json.loads(line)["body"] for line in server.content(file_id).splitlines()]
        too_much = any(body["max_tokens"] > tokens for body in bodies)
        if too_much and at_once:
            raise RefusedError(why, status=status)
        server.rejects = why if too_much else None
        return create(server, file_id, token)

    monkeypatch.setattr(FakeServer, "create", created)


def limits(house: House) -> list[tuple[str, int]]:
    return [(prompt_of(body), body["max_tokens"]) for body in house.server.requests]


def test_an_answer_that_was_cut_off_is_asked_again_with_room_for_twice_as_much(house: House) -> None:
    house.server.rule = cut_off_below(40)
    metadata = house.done(reviews("a", "b", "c"), moods(parameters={"max_tokens": 10}))
    assert limits(house) == [("a", 10), ("b", 10), ("c", 10), ("b", 20), ("b", 40)]
    assert house.rows("moods", "status") == [("ok",)] * 3
    assert metadata["batch_llm/outcomes"] == {"ok": 3, "truncated": 2}
    house.server.forget()
    house.done(reviews("a", "b", "c"), moods(parameters={"max_tokens": 10}))
    assert house.server.requests == []


def test_rows_with_several_limits_go_out_in_a_file_each(house: House) -> None:
    house.server.rule = cut_off_below(80)
    limited = moods(parameters={"max_tokens": 10})
    house.done(reviews("b"), limited)
    reason = "the answer was cut off at the output limit of 40 tokens"
    said = f'{reason}\nIt was asked 3 times.\nThe answer was: {{"label": "go'
    assert house.rows("moods", "status, error") == [("truncated", said)]
    house.server.forget()
    (found,) = given_up(house.ledger, "moods")
    assert found.keys == 1
    ask_again(house.ledger, found)
    house.done(reviews("a", "b", "d"), limited)
    assert limits(house) == [("a", 10), ("d", 10), ("b", 80)]
    assert [rows for rows, _ in house.server.sizes] == [2, 1]


@pytest.mark.parametrize("at_once", [False, True], ids=["in the batch", "at the create"])
def test_a_provider_that_takes_no_larger_limit_does_not_keep_the_table_away(
    house: House, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    house.server.rule = cut_off_below(1_000)
    reject_more_than(10, "max_tokens is too large", monkeypatch, at_once=at_once)
    limited = moods(parameters={"max_tokens": 10})
    house.done(reviews("a", "b", "c"), limited)
    *_, (status, error) = house.rows("moods", "status, error")
    assert status == "truncated"
    assert "cut off at the output limit of 10 tokens" in error
    assert error.endswith('The answer was: {"label": "go')
    kinds = {kind for kind, _, message in house.ledger.attempts.incidents() if "max_tokens is too large" in message}
    assert kinds == {"limit refused"}
    house.server.forget()
    house.done(reviews("a", "b", "c"), limited)
    assert house.server.requests == []


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_refusal_of_who_asks_is_none_of_the_limit_although_it_may_name_it(
    house: House, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    house.server.rule = cut_off_below(20)
    with monkeypatch.context() as once:
        reject_more_than(10, "more credits, or fewer max_tokens", once, at_once=True, status=status)
        assert "fewer max_tokens" in failure(house.run(reviews("a", "b"), moods(parameters={"max_tokens": 10})))
    house.done(reviews("a", "b"), moods(parameters={"max_tokens": 10}))
    assert house.rows("moods", "status") == [("ok",), ("ok",)]


def test_a_larger_limit_is_known_to_be_refused_although_the_parameter_is_not_named(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.server.rule = cut_off_below(1_000)
    reject_more_than(10, "This model's maximum context length is 8192 tokens.", monkeypatch, at_once=True)
    house.done(reviews("a", "b"), moods(parameters={"max_tokens": 10}))
    assert house.rows("moods", "id, status") == [(1, "ok"), (2, "truncated")]


def test_where_a_row_is_refused_for_its_larger_limit_the_table_keeps_what_was_cut_off(house: House) -> None:
    below = cut_off_below(1_000)
    refused = errored("invalid_value", "max_tokens is too large: 20", status=400)
    house.server.rule = lambda prompt, body: refused if body["max_tokens"] > 10 else below(prompt, body)
    house.done(reviews("a", "b"), moods(parameters={"max_tokens": 10}))
    assert limits(house) == [("a", 10), ("b", 10), ("b", 20)]
    _, (status, error) = house.rows("moods", "status, error", order="id")
    assert (status, error.split("\n")[-1]) == ("truncated", 'The answer was: {"label": "go')


def test_a_limit_that_was_refused_is_not_tried_again_but_smaller_ones_are(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.server.rule = cut_off_below(1_000)
    limited = moods(parameters={"max_tokens": 10})
    with monkeypatch.context() as once:
        reject_more_than(20, "max_tokens is too large", once, at_once=True)
        house.done(reviews("a", "b"), limited)
        assert limits(house) == [("a", 10), ("b", 10), ("b", 20)]
        house.server.rule = by_first_label
        house.server.forget()
        house.done(reviews("a", "b", "c"), limited)
        assert limits(house) == [("c", 10)]
    (found,) = given_up(house.ledger, "moods")
    assert found.keys == 1
    ask_again(house.ledger, found)
    house.done(reviews("a", "b", "c"), limited)
    assert limits(house) == [("c", 10), ("b", 40)]
    assert house.rows("moods", "status") == [("ok",)] * 3


def test_a_larger_batch_that_is_rejected_for_another_reason_fails_the_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.server.rule = cut_off_below(1_000)
    reject_more_than(10, "the account is overdrawn", monkeypatch)
    result = house.run(reviews("a", "b"), moods(parameters={"max_tokens": 10}))
    assert "overdrawn" in failure(result)
    assert house.ledger.attempts.incidents() == []


def test_an_answer_that_the_models_own_end_cut_off_is_final_until_a_person_says_otherwise(house: House) -> None:
    house.server.rule = cut_off_below(1)
    house.done(reviews("a", "b"), moods())
    assert house.server.prompts == ["a", "b"]
    assert house.rows("moods", "status, error")[1] == (
        "truncated",
        'the answer was cut off at the model\'s own output limit\nThe answer was: {"label": "go',
    )
    for _ in range(2):
        house.server.forget()
        (found,) = given_up(house.ledger, "moods")
        assert found.keys == 1
        ask_again(house.ledger, found)
        house.done(reviews("a", "b"), moods())
        assert house.server.prompts == ["b"]


def test_a_long_answer_that_can_not_be_used_is_cut_in_the_table_and_no_reason_of_its_own(house: House) -> None:
    house.server.rule = lambda prompt, body: answered("x" * 501 + prompt, finish="length")
    metadata = house.done(reviews("a", "b"), moods())
    assert metadata["batch_llm/errors"].count("| 2 | truncated |") == 1
    assert house.rows("moods", "error")[0][0].endswith("\nThe answer was: " + "x" * 500 + "…")


def test_tokens_that_the_provider_does_not_say_are_unknown_and_not_nought(house: House) -> None:
    def rule(prompt: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = dict(by_first_label(prompt, body))
        if prompt != "a":
            answer["response"]["body"]["usage"] = {"prompt_tokens": "many"}
        return answer

    house.server.rule = rule
    metadata = house.done(reviews("a", "b", "c"), moods())
    assert (metadata["batch_llm/input_tokens"], metadata["batch_llm/rows_without_tokens"]) == (7, 2)
    metadata = house.done(reviews("d"), moods())
    assert "batch_llm/input_tokens" not in metadata
    assert metadata["batch_llm/rows_without_tokens"] == 1


def test_a_key_that_is_revoked_while_a_batch_is_out_is_said_once_by_the_run(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch, refusals = FakeProvider.fetch, ["revoked", "revoked", "closed"]

    def refused(self: Any, batch: Batch, folder: Path) -> list[Path]:
        if refusals:
            raise RefusedError(f"fake: 401, {refusals.pop(0)}.", status=401, retry_after=0.0)
        return fetch(self, batch, folder)

    monkeypatch.setattr(FakeProvider, "fetch", refused)
    result = house.run(reviews("a"), moods())
    assert result.success
    logged = [entry.user_message for entry in house.instance.all_logs(result.run_id) if "401" in entry.user_message]
    assert logged == [f"fake: 401, {why}. It will be tried again." for why in ("revoked", "closed")]


def refused_beyond_twenty(house: House, monkeypatch: pytest.MonkeyPatch) -> dg.AssetsDefinition:
    """A table with a row that was cut off at 10 and at 20 tokens, more than which the provider refuses."""
    house.server.rule = cut_off_below(1_000)
    reject_more_than(20, "max_tokens is too large", monkeypatch, at_once=True)
    limited = moods(parameters={"max_tokens": 10})
    house.done(reviews("a", "b"), limited)
    return limited


def test_a_limit_that_is_refused_after_a_retry_too_leaves_the_rows_as_they_are(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = refused_beyond_twenty(house, monkeypatch)
    (found,) = given_up(house.ledger, "moods")
    ask_again(house.ledger, found)
    house.server.forget()
    house.done(reviews("a", "b"), limited)
    assert limits(house) == []
    (found,) = given_up(house.ledger, "moods")
    assert found.keys == 1


def test_a_refusal_counts_although_a_clock_that_was_ahead_has_dated_the_retry(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = refused_beyond_twenty(house, monkeypatch)
    with Database(house.ledger.home, SystemClock()).write() as c:
        c.execute(update(schema.answers).values(at=schema.answers.c.at + 10 * 86_400.0))
    (found,) = given_up(house.ledger, "moods")
    ask_again(house.ledger, found)
    for _ in range(2):
        creates = house.server.calls["create"]
        house.done(reviews("a", "b"), limited)
        assert house.server.calls["create"] == creates + 1
        ask_again(house.ledger, found)
