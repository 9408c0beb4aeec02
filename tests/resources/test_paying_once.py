from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from dagster_batch_llm.resources.errors import (
    AmbiguousError,
    BatchLLMError,
    BusyError,
    ProviderError,
    RefusedError,
    UnreachableError,
)
from dagster_batch_llm.resources.ledger import Attempt, AttemptState
from dagster_batch_llm.resources.ledger.attempts import LEASE_SECONDS
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape
from dagster_batch_llm.resources.providers.protocol import Batch
from dagster_batch_llm.resources.request import RequestSpec

from .effects import Died, Effects
from .fake_openai import (
    Fault,
    Serve,
    accepts_and_answers,
    answers,
    no_connection,
    reply_lost,
    request_lost,
    twice,
)
from .world import PROMPTS, REVOCABLE, MakeWorld, World

CREATE = "POST /v1/batches"
UPLOAD = "POST /v1/files"


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_an_undisturbed_batch_is_paid_once(world: World) -> None:
    attempt = world.ask()
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"ok": 3}
    assert world.ledger.attempts.incidents() == []


# ---- the create's reply is not what it should be ----


@pytest.mark.parametrize(
    "fault",
    [reply_lost, *(accepts_and_answers(status) for status in (500, 502, 503, 504, 408, 409, 200, 202))],
    ids=lambda fault: getattr(fault, "__name__", "status"),
)
def test_a_lost_reply_is_adopted_not_paid_again(world: World, fault: Fault) -> None:
    attempt = world.ask()
    world.server.on(CREATE, fault)
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.clock.sleep(2.0)
    world.machine("another").reconcile(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1
    assert world.ledger.attempts.incidents() == []


@pytest.mark.parametrize("body", [{"object": "batch"}, [], "x", None, {"id": None}, {"id": ""}])
def test_a_reply_that_names_no_batch_is_a_lost_reply(world: World, body: object) -> None:
    def accepts_and_mumbles(request: httpx.Request, serve: Serve) -> httpx.Response:
        serve()
        return httpx.Response(200, json=body)

    attempt = world.ask()
    world.server.on(CREATE, accepts_and_mumbles)
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.finish(attempt)
    world.paid_once()


def test_a_batch_is_known_by_its_file_where_the_server_forgets_metadata(world: World) -> None:
    world.server.keeps_metadata = False
    attempt = world.ask()
    world.server.on(CREATE, reply_lost)
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_lagging_listing_is_waited_for(world: World) -> None:
    world.server.listing_lag = 100.0
    attempt = world.ask()
    world.server.on(CREATE, reply_lost)
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("skew", [-3600.0, -61.0, 61.0, 3600.0])
def test_the_provider_may_have_another_time(world: World, skew: float) -> None:
    world.server.skew = skew
    attempt = world.ask()
    world.server.on(CREATE, reply_lost)
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_lost_create_is_asked_again_only_when_it_can_no_longer_arrive(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    machine, started = world.machine(), world.clock.now()
    machine.send(attempt.id)
    given_up: float | None = None
    while world.state(attempt) is AttemptState.AMBIGUOUS:
        world.clock.sleep(30.0)
        machine.reconcile(attempt.id)
        given_up = world.clock.now() - started
    assert given_up is not None
    assert given_up >= 30.0 + world.profile.settle
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 2


def test_where_a_file_can_be_revoked_a_lost_create_is_asked_again_soon(make_world: MakeWorld) -> None:
    world = make_world(profile=REVOCABLE)
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    started = world.clock.now()
    machine = world.machine()
    machine.send(attempt.id)
    (uploaded,) = world.server.files
    while world.state(attempt) is AttemptState.AMBIGUOUS:
        world.clock.sleep(15.0)
        machine.reconcile(attempt.id)
    assert world.clock.now() - started < 400.0
    assert uploaded not in world.server.files
    world.finish(attempt)
    world.paid_once()


def test_a_revocation_that_fails_is_tried_again_before_anything_is_asked(make_world: MakeWorld) -> None:
    world = make_world(profile=REVOCABLE)
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    world.server.on("DELETE", answers(500), times=12)
    world.finish(attempt)
    world.paid_once()
    assert [name for name in world.server.seen if name.startswith("DELETE")]


def test_a_batch_that_turns_up_while_its_file_is_revoked_is_adopted(make_world: MakeWorld) -> None:
    world = make_world(profile=REVOCABLE)
    world.server.listing_lag = 110.0
    attempt = world.ask()
    late: list[Serve] = []

    def held_up(request: httpx.Request, serve: Serve) -> httpx.Response:
        late.append(serve)
        raise httpx.ReadTimeout("held up")

    world.server.on(CREATE, held_up)
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(150.0)
    late[0]()
    world.finish(attempt)
    world.paid_once()
    assert len(world.server.batches) == 1


# ---- the provider says no ----


def test_a_busy_provider_is_asked_later(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, answers(429, "slow down", retry_after="77"))
    with pytest.raises(BusyError, match="slow down"):
        world.machine().send(attempt.id)
    waiting = world.now(attempt)
    assert (waiting.state, waiting.due - world.clock.now()) == (AttemptState.PLANNED, 77.0)
    world.machine().send(attempt.id)
    assert world.server.creates() == 1
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 2


def test_waiting_backs_off_and_has_an_end(world: World) -> None:
    attempt = world.ask()
    waits: list[float] = []
    for _ in range(8):
        world.server.on(CREATE, answers(429))
        with pytest.raises(BusyError):
            world.machine().send(attempt.id)
        waits.append(world.now(attempt).due - world.clock.now())
        world.clock.sleep(waits[-1])
    assert waits == sorted(waits)
    assert waits[0] < 20.0
    assert waits[-1] == waits[-2] == 300.0


@pytest.mark.parametrize("asked", ["nan", "inf", "-5", "1e300", "soon", "Mon, 99 Foo", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_nonsense_in_retry_after_does_no_harm(world: World, asked: str) -> None:
    attempt = world.ask()
    world.server.on(CREATE, answers(429, retry_after=asked))
    with pytest.raises(BusyError):
        world.machine().send(attempt.id)
    assert 0.0 <= world.now(attempt).due - world.clock.now() <= 3600.0
    world.finish(attempt)
    world.paid_once()


def test_a_thousand_waits_do_not_overflow(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    taken = world.ledger.attempts.take(attempt.id, "x")
    assert taken is not None
    world.ledger.attempts.release(taken, waits=5000)
    world.server.on(CREATE, answers(429))
    with pytest.raises(BusyError):
        machine.send(attempt.id)
    world.server.problem = {"code": "token_limit_exceeded", "message": "queue full"}
    world.clock.sleep(400.0)
    machine.send(attempt.id)
    taken = world.ledger.attempts.take(attempt.id, "x")
    assert taken is not None
    world.ledger.attempts.release(taken, waits=5000)
    world.clock.sleep(100.0)
    machine.poll("llm")
    machine.collect(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 413, 422])
@pytest.mark.parametrize("where", [CREATE, UPLOAD])
def test_a_final_no_is_told_and_never_asked_again(world: World, status: int, where: str) -> None:
    attempt = world.ask()
    world.server.on(where, answers(status, "we don't like it"))
    with pytest.raises(RefusedError, match="we don't like it") as caught:
        world.machine().send(attempt.id)
    assert caught.value.status == status
    refused = world.now(attempt)
    assert refused.state is AttemptState.REFUSED
    assert "we don't like it" in (refused.message or "")
    asked = len(world.server.seen)
    world.clock.sleep(7200.0)
    machine = world.machine()
    machine.step(refused)
    machine.send(attempt.id)
    assert len(world.server.seen) == asked
    assert world.server.batches == {}


def test_an_exhausted_quota_is_a_final_no(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, answers(429, "buy more", code="insufficient_quota"))
    with pytest.raises(RefusedError, match="buy more"):
        world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.REFUSED


def test_an_unreachable_provider_leaves_the_attempt_planned(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, no_connection)
    with pytest.raises(UnreachableError, match="Nothing was sent"):
        world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    world.finish(attempt)
    world.paid_once()


@pytest.mark.parametrize("fault", [reply_lost, request_lost, answers(500), answers(429), no_connection])
def test_an_upload_that_fails_is_simply_done_again(world: World, fault: Fault) -> None:
    attempt = world.ask()
    world.server.on(UPLOAD, fault, times=2)
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.finish(attempt)
    world.paid_once()


def test_an_upload_that_keeps_failing_is_postponed(world: World) -> None:
    attempt = world.ask()
    world.server.on(UPLOAD, answers(500), times=5)
    with pytest.raises(AmbiguousError):
        world.machine().send(attempt.id)
    waiting = world.now(attempt)
    assert waiting.state is AttemptState.PLANNED
    assert waiting.due > world.clock.now()
    world.finish(attempt)
    world.paid_once()


# ---- workers die, sleep and meet ----


def _until_it_dies(world: World, effects: Effects, attempt_id: str) -> None:
    """What one run does, with its own connections; it ends when the attempt is through or the worker dies."""
    machine = world.machine("first")
    attempt = next(a for a in machine.ledger.attempts.find() if a.id == attempt_id)
    with effects.watched():
        for _ in range(20):
            attempt = machine.ledger.attempts.get(attempt.id)
            if attempt.state is AttemptState.ANSWERED:
                return
            machine.step(attempt)
            machine.poll("llm")
            world.clock.sleep(151.0)
    raise AssertionError("it neither died nor finished")


def _count_effects(world: World) -> int:
    effects = Effects()
    _until_it_dies(world, effects, world.ask().id)
    world.paid_once()
    return len(effects.done)


@pytest.mark.parametrize(
    ("profile_name", "dialect"), [("settles", "sqlite"), ("revocable", "sqlite"), ("settles", "postgres")]
)
def test_a_worker_may_die_before_any_of_its_effects(make_world: MakeWorld, profile_name: str) -> None:
    fields = {"profile": REVOCABLE} if profile_name == "revocable" else {}
    total = _count_effects(make_world(**fields))
    assert total > 12
    for last in range(total):
        world = make_world(**fields)
        attempt = world.ask()
        effects = Effects(last)
        with pytest.raises(Died):
            _until_it_dies(world, effects, attempt.id)
        world.clock.sleep(LEASE_SECONDS + 1.0)
        world.finish(attempt, step=301.0)
        try:
            world.paid_once()
        except AssertionError as error:
            raise AssertionError(f"died after {effects.done}") from error


@pytest.mark.parametrize("dialect", ["sqlite"])  # a minute on Postgres, and the test above has the same transactions
def test_a_worker_may_die_while_it_reconciles(make_world: MakeWorld) -> None:
    def ambiguous() -> tuple[World, str]:
        world = make_world(profile=REVOCABLE)
        attempt = world.ask()
        world.server.on(CREATE, request_lost)
        world.machine("first").send(attempt.id)
        world.clock.sleep(2.0)
        return world, attempt.id

    world, name = ambiguous()
    effects = Effects()
    _until_it_dies(world, effects, name)
    for last in range(len(effects.done)):
        world, name = ambiguous()
        with pytest.raises(Died):
            _until_it_dies(world, Effects(last), name)
        world.clock.sleep(LEASE_SECONDS + 1.0)
        world.finish(world.ledger.attempts.find()[0], step=301.0)
        world.paid_once()


def test_what_became_of_a_dead_senders_create_is_not_known_for_long(world: World) -> None:
    world.server.listing_lag = 2 * LEASE_SECONDS
    attempt = world.ask()

    def killed(request: httpx.Request, serve: Serve) -> httpx.Response:
        serve()
        raise Died

    world.server.on(CREATE, killed)
    with pytest.raises(Died):
        world.machine("dead").send(attempt.id)
    assert world.state(attempt) is AttemptState.CREATING
    world.machine("early").reconcile(attempt.id)
    assert world.state(attempt) is AttemptState.CREATING
    world.clock.sleep(LEASE_SECONDS + 1.0)
    world.machine("late").reconcile(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_sender_that_slept_through_its_lease_writes_nothing(world: World) -> None:
    attempt = world.ask()

    def stopped(request: httpx.Request, serve: Serve) -> httpx.Response:
        """SIGSTOP while the reply is on its way; meanwhile another worker takes over and finishes."""
        reply = serve()
        world.clock.sleep(LEASE_SECONDS + 60.0)
        world.finish(attempt)
        return reply

    world.server.on(CREATE, stopped)
    world.machine("sleeper").send(attempt.id)
    assert world.state(attempt) is AttemptState.ANSWERED
    world.paid_once()
    assert len(world.ledger.attempts.links(attempt.id)) == 1


def test_a_collector_that_slept_through_its_lease_leaves_no_second_file(world: World) -> None:
    attempt = world.ask()
    machine = world.machine("sleeper")
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")

    def stopped(request: httpx.Request, serve: Serve) -> httpx.Response:
        reply = serve()
        world.clock.sleep(LEASE_SECONDS + 1.0)
        world.finish(attempt)
        return reply

    world.server.on("GET /v1/files", stopped)
    machine.collect(attempt.id)
    world.paid_once()
    assert len(list((world.folder / "answers" / attempt.task).iterdir())) == 1


class _Stopped(OpenAIShape):
    """The process is stopped between the durable intent and the last check."""

    def __init__(self, world: World, meanwhile: Callable[[], None]) -> None:
        super().__init__(world.profile, world.http(), account="acme", clock=world.clock)
        self._meanwhile = meanwhile

    def create(self, file_id: str, spec: RequestSpec, token: str, still_allowed: Callable[[], None]) -> Batch:
        self._meanwhile()
        return super().create(file_id, spec, token, still_allowed)


def stopped_before_its_write(world: World, meanwhile: Callable[[], None]) -> BatchMachine:
    return BatchMachine(world.opened(), {"llm": _Stopped(world, meanwhile)}, "stopped")


def test_a_create_that_is_held_up_too_long_is_not_sent(world: World) -> None:
    attempt = world.ask()
    stopped_before_its_write(world, lambda: world.clock.sleep(31.0)).send(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    assert world.server.creates() == 0
    world.finish(attempt)
    world.paid_once()


def test_a_sender_that_was_not_allowed_any_more_does_not_undo_its_successor(world: World) -> None:
    attempt = world.ask()
    successor = world.machine("successor")

    def killed(request: httpx.Request, serve: Serve) -> httpx.Response:
        serve()
        raise Died

    def meanwhile() -> None:
        world.clock.sleep(LEASE_SECONDS + 1.0)
        successor.reconcile(attempt.id)
        world.clock.sleep(world.profile.settle)
        successor.reconcile(attempt.id)
        assert world.state(attempt) is AttemptState.PLANNED
        world.server.on(CREATE, killed)
        with pytest.raises(Died):
            successor.send(attempt.id)

    stopped_before_its_write(world, meanwhile).send(attempt.id)
    assert world.state(attempt) is AttemptState.CREATING
    assert world.now(attempt).owner != "stopped"
    world.clock.sleep(LEASE_SECONDS + 1.0)
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_a_sender_that_slept_before_its_write_sends_nothing_after_its_file_was_revoked(make_world: MakeWorld) -> None:
    world = make_world(profile=REVOCABLE)
    attempt = world.ask()

    def stopped(request: httpx.Request, serve: Serve) -> httpx.Response:
        """Stopped after the last check: the request leaves when somebody else has long finished the attempt."""
        world.clock.sleep(LEASE_SECONDS + 1.0)
        world.finish(attempt)
        return serve()

    world.server.on(CREATE, stopped)
    world.machine("sleeper").send(attempt.id)
    assert world.state(attempt) is AttemptState.ANSWERED
    world.paid_once()
    assert len(world.server.batches) == 1


def test_only_one_of_two_workers_sends(world: World) -> None:
    attempt = world.ask()
    second = world.machine("second")

    def meanwhile(request: httpx.Request, serve: Serve) -> httpx.Response:
        second.send(attempt.id)
        second.reconcile(attempt.id)
        return serve()

    world.server.on(CREATE, meanwhile)
    world.machine("first").send(attempt.id)
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


def test_an_attempt_of_another_account_is_left_alone(world: World) -> None:
    attempt = world.ask()
    stranger = OpenAIShape(world.profile, world.http(), account="another", clock=world.clock)
    machine = BatchMachine(world.ledger, {"llm": stranger}, "x")
    machine.send(attempt.id)
    assert machine.poll("llm") == []
    assert world.server.seen == []
    assert world.state(attempt) is AttemptState.PLANNED


# ---- duplicates ----


def test_of_two_batches_one_survives_and_the_other_is_cancelled_after_the_choice(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, twice)
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(2.0)
    states: list[AttemptState] = []

    def watched(request: httpx.Request, serve: Serve) -> httpx.Response:
        states.append(world.state(attempt))
        return serve()

    world.server.on("POST /v1/batches/", watched)
    machine.reconcile(attempt.id)
    assert states == [AttemptState.SUBMITTED]
    survivor, extra = world.ledger.attempts.links(attempt.id)
    assert (survivor.extra, extra.extra) == (False, True)
    assert world.server.live() == [survivor.batch_id] == [world.now(attempt).batch_id]
    ((kind, subject, words),) = world.ledger.attempts.incidents()
    assert (kind, subject) == ("duplicate", extra.batch_id)
    assert "proxy" in words
    world.finish(attempt)
    world.paid_once()


def test_what_a_duplicate_answered_is_kept_too(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, twice)
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    world.server.tick()
    first = world.server.batches["batch-1"]
    kept = world.server.files[first["output_file_id"]].splitlines(keepends=True)
    world.server.files[first["output_file_id"]] = kept[0]
    world.finish(attempt)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}
    assert len(world.ledger.attempts.incidents()) == 1


def test_a_cancel_that_fails_is_tried_again(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, twice)
    world.server.on("POST /v1/batches/", answers(500))
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(2.0)
    machine.reconcile(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    world.clock.sleep(16.0)
    assert len(world.server.live()) == 2
    machine.poll("llm")
    assert world.server.live() == [world.now(attempt).batch_id]
    world.finish(attempt)
    world.paid_once()


def test_a_worker_that_dies_before_the_cancel_leaves_the_incident(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, twice)
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(2.0)

    def killed(request: httpx.Request, serve: Serve) -> httpx.Response:
        raise Died

    world.server.on("POST /v1/batches/", killed)
    with pytest.raises(Died):
        machine.reconcile(attempt.id)
    assert [kind for kind, _, _ in world.ledger.attempts.incidents()] == ["duplicate"]
    world.clock.sleep(20.0)
    world.finish(attempt)
    world.paid_once()


def test_a_batch_of_another_application_is_neither_adopted_nor_cancelled(world: World) -> None:
    attempt = world.ask()
    foreign = {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    http = world.http()
    world.server.files["file-0"] = b""
    for metadata in ({}, {"batch_llm_token": "f" * 24}):
        http.post_once("/batches", {**foreign, "input_file_id": "file-0", "metadata": metadata}, lambda: None)
    world.server.on(CREATE, request_lost)
    world.finish(attempt)
    world.paid_once()
    assert not [name for name in world.server.seen if name.endswith("/cancel")]


# ---- after the create ----


def test_a_404_right_after_the_create_is_patience(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    for _ in range(3):
        world.server.on("GET /v1/batches/", answers(404, "no such batch"))
        world.clock.sleep(301.0)
        machine.poll("llm")
        assert world.state(attempt) is AttemptState.SUBMITTED
    assert "no such batch" in (world.now(attempt).message or "")
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("where", ["GET /v1/batches/", "GET /v1/files/"])
@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
def test_a_no_while_collecting_is_patience_too(world: World, where: str, status: int) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")
    world.server.on(where, answers(status, "not now"), times=5)
    try:
        machine.collect(attempt.id)
    except RefusedError:
        pytest.fail("a refused look is not a refused batch")
    except ProviderError:
        pass
    waiting = world.now(attempt)
    assert waiting.state is AttemptState.SUBMITTED
    assert "not now" in (waiting.message or "")
    assert waiting.due > world.clock.now()
    world.finish(attempt)
    world.paid_once()


def test_a_listing_that_fails_is_patience(world: World) -> None:
    attempts = [world.ask([f"{number}"], name=f"plan{number}") for number in range(3)]
    machine = world.machine()
    for attempt in attempts:
        machine.send(attempt.id)
    world.clock.sleep(61.0)
    world.server.on("GET /v1/batches", answers(401, "key?"))
    machine.poll("llm")
    assert {world.state(attempt) for attempt in attempts} == {AttemptState.SUBMITTED}
    for attempt in attempts:
        world.finish(attempt)
    world.paid_once(["0", "1", "2"])


def test_a_full_queue_is_asked_later_and_unpaid(world: World) -> None:
    attempt = world.ask()
    world.server.problem = {"code": "token_limit_exceeded", "message": "too many enqueued tokens", "line": None}
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")
    machine.collect(attempt.id)
    waiting = world.now(attempt)
    assert (waiting.state, waiting.batch_id) == (AttemptState.PLANNED, None)
    assert waiting.due > world.clock.now()
    world.server.problem = None
    world.finish(attempt)
    world.paid_once()
    assert [link.batch_id for link in world.ledger.attempts.links(attempt.id)] == ["batch-2"]
    assert world.now(attempt).batch_id == "batch-2"


def test_a_batch_that_was_rejected_before_is_not_taken_for_a_lost_create(world: World) -> None:
    attempt = world.ask()
    world.server.problem = {"code": "token_limit_exceeded", "message": "too many enqueued tokens"}
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")
    machine.collect(attempt.id)
    world.server.problem = None
    late: list[Serve] = []

    def held_up(request: httpx.Request, serve: Serve) -> httpx.Response:
        late.append(serve)
        raise httpx.ReadTimeout("held up")

    world.server.on(CREATE, held_up)
    world.clock.sleep(1801.0)
    machine.send(attempt.id)
    world.clock.sleep(2.0)
    machine.reconcile(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    late[0]()
    world.finish(attempt)
    world.paid_once()
    assert len(world.server.live()) == 1


def test_a_batch_that_is_rejected_as_a_whole_names_the_line(world: World) -> None:
    attempt = world.ask()
    world.server.problem = {"code": "invalid_json_line", "message": "This line is not JSON.", "line": 3}
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")
    with pytest.raises(RefusedError, match=r"invalid_json_line.*not JSON.*line 3") as caught:
        machine.collect(attempt.id)
    assert isinstance(caught.value, BatchLLMError)
    assert world.state(attempt) is AttemptState.REFUSED
    assert world.server.bill == {}
    world.clock.sleep(7200.0)
    machine.step(world.now(attempt))
    assert world.server.creates() == 1


def ended(world: World) -> Attempt:
    """An attempt whose batch was seen to have ended; its results are still at the provider."""
    attempt = world.ask()
    world.machine().send(attempt.id)
    world.clock.sleep(61.0)
    world.machine().poll("llm")
    return attempt


def test_files_that_trail_the_status_are_waited_for(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")
    job = world.server.batches["batch-1"]
    output = job.pop("output_file_id")
    job["error_file_id"] = world.server.store(b"")
    job["request_counts"] = {"total": 3, "completed": 2, "failed": 1}
    machine.collect(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    job["output_file_id"] = output
    world.finish(attempt)
    world.paid_once()


def test_answers_that_are_counted_and_trail_by_minutes_are_not_asked_and_paid_again(world: World) -> None:
    attempt = ended(world)
    job = world.server.batches["batch-1"]
    output = job.pop("output_file_id")
    until = world.clock.now() + 500.0
    while world.clock.now() < until:
        world.machine().step(world.now(attempt))
        world.clock.sleep(5.0)
    assert world.state(attempt) is AttemptState.SUBMITTED
    job["output_file_id"] = output
    world.finish(attempt)
    world.paid_once()


def test_answers_that_came_are_kept_although_the_file_is_gone_before_it_can_be_fetched_once_more(world: World) -> None:
    attempt = ended(world)
    name = world.server.batches["batch-1"]["output_file_id"]
    world.server.files[name] = b"".join(world.server.files[name].splitlines(keepends=True)[:2])
    world.machine().collect(attempt.id)
    assert world.state(attempt) is AttemptState.SUBMITTED
    del world.server.files[name]
    world.finish(attempt, within=4 * 86_400.0, step=3_600.0)
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"ok": 2, "gone": 1}


def test_what_came_once_is_kept_although_other_lines_come_when_a_file_is_fetched_once_more(world: World) -> None:
    attempt = ended(world)
    name = world.server.batches["batch-1"]["output_file_id"]
    lines = world.server.files[name].splitlines(keepends=True)
    world.server.files[name] = lines[0] + lines[1]
    world.machine().collect(attempt.id)
    world.server.files[name] = lines[1] + lines[2]
    world.clock.sleep(30.0)
    world.machine().collect(attempt.id)
    world.server.files[name] = lines[2]
    world.finish(attempt)
    world.paid_once()
    assert world.ledger.attempts.answers([attempt.id])[0].output_tokens == 3 * len(PROMPTS)


def test_lines_about_failures_do_not_hide_that_answers_came_once_and_then_not_again(world: World) -> None:
    attempt = ended(world)
    job = world.server.batches["batch-1"]
    lines = world.server.files[job["output_file_id"]].splitlines(keepends=True)
    failure = json.loads(lines[2]) | {"response": None, "error": {"code": "server_error", "message": "no"}}
    job["error_file_id"] = world.server.store(json.dumps(failure).encode() + b"\n")
    job["request_counts"] = {"total": 3, "completed": 2, "failed": 1}
    world.server.files[job["output_file_id"]] = lines[0]
    world.machine().collect(attempt.id)
    world.server.files[job["output_file_id"]] = lines[1]
    world.finish(attempt)
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"ok": 2, "errored": 1}


def test_a_run_that_comes_late_does_not_wait_for_long_where_less_came_than_is_counted(world: World) -> None:
    attempt = ended(world)
    del world.server.batches["batch-1"]["output_file_id"]
    world.clock.sleep(4 * 3_600.0)
    world.finish(attempt, within=60.0, step=5.0)


def test_answers_that_are_counted_and_never_come_are_missing_after_a_while(world: World) -> None:
    attempt = ended(world)
    del world.server.batches["batch-1"]["output_file_id"]
    world.finish(attempt, within=1200.0)
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"missing": len(PROMPTS)}


def test_a_file_that_trails_the_first_fetch_is_not_mistaken_for_it(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")
    job = world.server.batches["batch-1"]
    output = job.pop("output_file_id")
    job["error_file_id"] = world.server.store(b'{"custom_id": "nobody"}\n')
    job["request_counts"] = {"total": 3, "completed": 0, "failed": 1}
    with pytest.raises(Died), Effects(6).watched():
        machine.collect(attempt.id)
    job["output_file_id"] = output
    world.clock.sleep(LEASE_SECONDS + 1.0)
    world.finish(attempt)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}


def test_partial_results_of_a_cancelled_batch_are_kept(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    world.server.tick()
    job = world.server.batches["batch-1"]
    whole = world.server.files[job["output_file_id"]].splitlines(keepends=True)
    world.server.files[job["output_file_id"]] = whole[0]
    job["status"] = "cancelled"
    machine.poll("llm")
    world.finish(attempt)
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"ok": 1, "expired": 2}
    assert world.answers()["three"] == "re: three"


def test_results_of_strangers_are_an_incident(world: World) -> None:
    attempt = ended(world)
    job = world.server.batches["batch-1"]
    world.server.files[job["output_file_id"]] += b'{"custom_id": "nobody"}\n'
    world.finish(attempt)
    world.paid_once()
    ((kind, subject, words),) = world.ledger.attempts.incidents()
    assert (kind, subject) == ("unknown rows", "batch-1")
    assert "1 of 4 results" in words


def test_a_listing_that_is_not_complete_proves_nothing(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    machine = world.machine()
    machine.send(attempt.id)
    other = {"id": "other", "status": "completed", "created_at": world.clock.now()}
    page = {"data": [other], "has_more": True}
    world.server.on("GET /v1/batches", lambda request, serve: httpx.Response(200, json=page), times=40)
    for _ in range(20):
        world.clock.sleep(600.0)
        machine.reconcile(attempt.id)
        assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.finish(attempt)
    world.paid_once()


def test_an_unknown_status_is_waited_out_and_shown(world: World) -> None:
    attempt = world.ask()
    machine = world.machine()
    machine.send(attempt.id)
    world.server.seconds = 0.0
    world.server.batches["batch-1"]["status"] = "pondering"
    world.clock.sleep(301.0)
    machine.poll("llm")
    machine.step(world.now(attempt))
    now = world.now(attempt)
    assert (now.state, now.phase, now.ended_at) == (AttemptState.SUBMITTED, "unknown", None)
    world.server.batches["batch-1"]["status"] = "in_progress"
    world.finish(attempt)
    world.paid_once()


def test_nothing_is_asked_of_the_provider_before_it_is_due(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, request_lost)
    machine = world.machine()
    machine.send(attempt.id)
    world.clock.sleep(2.0)
    for _ in range(10):
        machine.step(world.now(attempt))
    assert world.server.seen.count("GET /v1/batches") == 1
