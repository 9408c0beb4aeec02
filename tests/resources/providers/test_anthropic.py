"""Anthropic's Message Batches, over a small Anthropic with faults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.errors import BusyError, InputError, MissingSecretError, RefusedError
from dagster_batch_llm.resources.ledger import AttemptState
from dagster_batch_llm.resources.providers.anthropic import ANTHROPIC, AnthropicBatch, MessageBatches
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.protocol import Phase
from dagster_batch_llm.resources.providers.wires.anthropic import ANTHROPIC_WIRE, DEFAULT_MAX_TOKENS
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..fake_anthropic import FakeAnthropic, failed, message, text_of
from ..fake_openai import Serve, answers, reply_lost, request_lost
from ..world import World

CREATE = "POST /v1/messages/batches"
CHAT = RequestSpec(
    operation=Operation.CHAT,
    model="claude-haiku-4-5",
    instruction="Choose.",
    schema={
        "type": "object",
        "properties": {"label": {"type": "string", "enum": ["good", "bad"]}},
        "required": ["label"],
        "additionalProperties": False,
    },
    parameters={"max_completion_tokens": 50, "temperature": 0},
)


@dataclass
class Workspace(World):
    """A world whose provider is Anthropic."""

    def __post_init__(self) -> None:
        self.profile = ANTHROPIC
        super().__post_init__()
        self.server = self.theirs = FakeAnthropic(self.clock)

    def http(self) -> HttpClient:
        return HttpClient(
            name="anthropic",
            base_url="https://fake.test",
            api_key="sk-test",
            headers={"x-api-key": "sk-test", "anthropic-version": "2023-06-01"},
            clock=self.clock,
            transport=self.server.transport(),
        )

    def provider(self) -> Any:
        return MessageBatches(self.profile, self.http(), account="acme", clock=self.clock)


@pytest.fixture
def world(home: Path) -> Workspace:
    return Workspace(home)


def ended(world: Workspace) -> dict[str, tuple[str, str | None]]:
    """Key → outcome and reason, when an attempt is through."""
    attempt = world.ask()
    world.finish(attempt, within=48 * 3600.0, step=300.0)
    return {key: (outcome, reason) for key, outcome, reason in world.outcomes()}


def test_a_batch_is_asked_and_answered(world: Workspace) -> None:
    attempt = world.ask()
    world.finish(attempt, step=120.0)
    world.paid_once()
    (job,) = world.server.batches.values()
    assert [row["params"]["system"][0]["text"] for row in job["_requests"]] == ["Answer."] * 3
    (file,) = world.ledger.attempts.answers([attempt.id])
    assert (file.input_tokens, file.output_tokens, file.unmetered) == (3 * 7, 3 * 3, 0)
    assert list((world.folder / "sends").glob("*")) == []


def test_a_lost_create_is_found_by_the_results_of_its_batch(world: Workspace) -> None:
    attempt = world.ask()
    world.server.on(CREATE, reply_lost)
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.finish(attempt, within=48 * 3600.0, step=300.0)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("first", [b"\n", b'{"type": "meta"}\n', b"{{\n"], ids=["blank", "without an id", "no JSON"])
def test_an_odd_first_line_does_not_say_that_a_batch_is_not_ours(world: Workspace, first: bytes) -> None:
    attempt = world.ask()
    world.server.on(CREATE, reply_lost)
    world.machine().send(attempt.id)
    world.clock.sleep(120.0)
    world.server.tick()
    (job,) = world.server.batches.values()
    whole, job["_results"] = job["_results"], first + job["_results"]
    until = world.clock.now() + 8 * 3600.0
    while world.state(attempt) is AttemptState.AMBIGUOUS and world.clock.now() < until:
        world.machine().step(world.now(attempt))
        world.clock.sleep(300.0)
    job["_results"] = whole
    world.finish(attempt, within=8 * 3600.0, step=300.0)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("status", [403, 404])
def test_one_refused_look_after_a_weekend_proves_nothing(world: Workspace, status: int) -> None:
    attempt = world.ask()
    world.server.on(CREATE, reply_lost)
    world.machine().send(attempt.id)
    world.clock.sleep(3 * 86_400.0)
    world.server.on("GET /v1/messages/batches/msgbatch-1/results", answers(status))
    world.finish(attempt, within=8 * 3600.0, step=300.0)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("ahead", [900.0, 3600.0])
def test_a_clock_that_was_ahead_hides_no_candidate(world: Workspace, ahead: float) -> None:
    world.server.seconds, world.clock.ahead = 7200.0, ahead
    attempt = world.ask()
    world.server.on(CREATE, reply_lost)
    world.machine().send(attempt.id)
    world.clock.sleep(60.0)
    world.clock.ahead = 0.0
    world.finish(attempt, within=48 * 3600.0, step=300.0)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_wrong_key_is_noticed_before_the_create(world: Workspace) -> None:
    attempt = world.ask()
    world.server.on("GET /v1/messages/batches", answers(401))
    with pytest.raises(RefusedError):
        world.machine().send(attempt.id)
    assert world.server.creates() == 0
    assert list((world.folder / "sends").glob("*")) == []


def test_results_that_are_archived_are_gone_after_a_day_and_not_asked_again(world: Workspace) -> None:
    attempt = world.ask()
    world.machine().send(attempt.id)
    world.clock.sleep(3600.0)
    world.server.tick()
    (job,) = world.server.batches.values()
    job["_results"] = None
    world.finish(attempt, within=72 * 3600.0, step=600.0)
    assert {outcome for _, outcome, _ in world.outcomes()} == {"gone"}


def test_a_file_that_was_cut_short_beside_an_expired_row_is_fetched_once_more(world: Workspace) -> None:
    world.theirs.result = lambda params: {"type": "expired"} if text_of(params) == "two" else message(params)
    attempt = world.ask()
    world.machine().send(attempt.id)
    world.clock.sleep(120.0)
    world.server.tick()
    (job,) = world.server.batches.values()
    whole, job["_results"] = job["_results"], job["_results"].splitlines(keepends=True)[0]
    while not world.server.seen[-1].endswith("/results"):
        world.machine().step(world.now(attempt))
        world.machine().poll("llm")
        world.clock.sleep(60.0)
    job["_results"] = whole
    world.finish(attempt, step=60.0)
    assert sorted(outcome for _, outcome, _ in world.outcomes()) == ["expired", "ok", "ok"]


def test_a_create_that_never_arrived_is_asked_again(world: Workspace) -> None:
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    world.machine().send(attempt.id)
    world.finish(attempt, within=48 * 3600.0, step=300.0)
    world.paid_once()
    assert world.server.creates() == 2


def test_a_create_that_is_held_up_for_too_long_is_not_sent(world: Workspace) -> None:
    attempt = world.ask()

    def slowly(request: httpx.Request, serve: Serve) -> httpx.Response:
        world.clock.sleep(301.0)
        return serve()

    # The body is read by the server after it was held up.
    provider = world.provider()
    path = world.folder / "rows.jsonl"
    path.write_text('{"custom_id": "a-0"}\n')
    name = provider.upload(path, path.name)
    path.unlink()
    with pytest.raises(RuntimeError, match="too late"):
        provider.create(name, CHAT, "a", _too_late)
    assert world.server.batches == {}
    world.server.on("GET /v1/messages/batches/", slowly)
    world.finish(attempt, step=120.0)
    world.paid_once()


def _too_late() -> None:
    raise RuntimeError("too late")


def test_the_create_carries_all_lines_as_one_list(world: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dagster_batch_llm.resources.providers.inline._PART_BYTES", 7)
    lines = [{"custom_id": f"t-{n}", "params": {"messages": [{"content": f"line\n{n}"}]}} for n in range(5)]
    path = world.folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    provider = world.provider()
    batch = provider.create(provider.upload(path, path.name), CHAT, "t", lambda: None)
    assert world.server.batches[batch.id]["_requests"] == lines
    assert (batch.phase, batch.total) == (Phase.RUNNING, 5)


@pytest.mark.parametrize(
    ("result", "outcome", "reason"),
    [
        (failed("invalid_request_error", "max_tokens: too large"), "refused", "max_tokens: too large"),
        (failed("overloaded_error"), "errored", "overloaded_error"),
        ({"type": "expired"}, "expired", "batch_expired"),
        ({"type": "canceled"}, "expired", "batch_cancelled"),
        ({"type": "something new"}, "errored", "neither an answer nor a reason"),
    ],
)
def test_a_row_without_an_answer_says_why(
    world: Workspace, result: Mapping[str, Any], outcome: str, reason: str
) -> None:
    world.theirs.result = lambda params: result if text_of(params) == "two" else message(params)
    found, said = ended(world)["two"]
    assert found == outcome
    assert reason in (said or "")


@pytest.mark.parametrize(
    ("stop", "text", "outcome"),
    [
        ("end_turn", None, "ok"),
        ("stop_sequence", None, "ok"),
        ("max_tokens", "a pie", "truncated"),
        ("model_context_window_exceeded", "a pie", "truncated"),
        ("refusal", "I can't", "refused"),
        ("tool_use", "", "invalid"),
        ("end_turn", "", "invalid"),
    ],
)
def test_what_stopped_the_model_decides(world: Workspace, stop: str, text: str | None, outcome: str) -> None:
    world.theirs.result = lambda params: message(params, text, stop)
    assert {found for found, _ in ended(world).values()} == {outcome}


def test_a_body_is_what_anthropic_documents() -> None:
    body = ANTHROPIC_WIRE.body(ANTHROPIC.placed(CHAT), "hello")
    assert body["max_tokens"] == 50
    assert body["temperature"] == 0
    assert "max_completion_tokens" not in body
    assert body["system"] == [{"type": "text", "text": "Choose.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert body["output_config"]["format"] == {"type": "json_schema", "schema": CHAT.schema}
    assert ANTHROPIC_WIRE.body(RequestSpec(Operation.CHAT, "m"), "x")["max_tokens"] == DEFAULT_MAX_TOKENS


def test_an_answer_in_several_blocks_is_put_together() -> None:
    blocks: list[dict[str, str]] = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": '{"label":'},
        {"type": "text", "text": ' "good"}'},
    ]
    line: dict[str, Any] = {"custom_id": "t-0", "result": {"type": "succeeded", "message": {"content": blocks}}}
    engine = connect()
    engine.execute("CREATE TEMP TABLE lines AS SELECT $1::JSON AS line", [json.dumps(line)])
    found = rows(engine, f"SELECT outcome, answer, input_tokens, unmetered FROM ({ANTHROPIC_WIRE.result_sql(CHAT)})")
    assert found == [("ok", '{"label": "good"}', None, True)]


def test_all_pages_of_the_listing_are_read(world: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MessageBatches, "page", {"limit": 2})
    attempts = [world.ask([name], name=name) for name in ("a", "b", "c", "d", "e")]
    for attempt in attempts:
        world.machine().send(attempt.id)
    listing = world.provider().list(0.0)
    assert listing.complete
    assert {batch.id for batch in listing.batches} == {f"msgbatch-{number}" for number in range(1, 6)}


def test_an_overloaded_server_has_done_nothing(world: Workspace) -> None:
    attempt = world.ask()
    world.server.on(CREATE, lambda request, serve: httpx.Response(529, json={"error": {"type": "overloaded_error"}}))
    with pytest.raises(BusyError):
        world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED


def test_a_wrong_key_is_said(world: Workspace) -> None:
    wrong, transport = {"x-api-key": "sk-wrong"}, world.server.transport()
    http = HttpClient(
        name="anthropic", base_url="https://fake.test", api_key="sk-wrong", headers=wrong, transport=transport
    )
    with pytest.raises(RefusedError, match=r"invalid x-api-key.*API key is wrong"):
        MessageBatches(ANTHROPIC, http, account="acme").list(0.0)
    http.close()


def test_there_are_no_embeddings() -> None:
    with pytest.raises(InputError, match=r"anthropic has no batches for requests of kind 'embedding' \(it has chat\)"):
        ANTHROPIC.line_parts(RequestSpec(Operation.EMBEDDING, "m"))


def test_a_schema_that_would_be_refused_in_every_row_is_refused_before() -> None:
    nullable = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    for fields, fits in ((16, True), (17, False)):
        names = [f"f{number}" for number in range(fields)]
        schema = {"type": "object", "properties": dict.fromkeys(names, nullable), "required": names}
        spec = RequestSpec(Operation.CHAT, "m", schema=schema)
        if fits:
            ANTHROPIC.line_parts(spec)
            continue
        with pytest.raises(InputError, match="anthropic: the answer has 17 fields that may be null"):
            ANTHROPIC.line_parts(spec)


def test_the_key_is_needed_and_goes_into_its_own_header() -> None:
    with pytest.raises(MissingSecretError, match="ANTHROPIC_API_KEY"):
        AnthropicBatch(api_key=" ").provider()
    provider = AnthropicBatch(api_key="k", max_rows_per_batch=7).provider()
    assert (provider.profile.max_rows, provider.account) == (7, "https://api.anthropic.com")
    provider.close()
