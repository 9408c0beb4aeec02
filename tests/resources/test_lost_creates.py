"""Lost creates where a batch's record does not say whose it is, and where a create can be repeated."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from dagster_batch_llm.resources.errors import ProviderError
from dagster_batch_llm.resources.ledger import Attempt, AttemptId, AttemptState, PlanState
from dagster_batch_llm.resources.ledger.attempts import LEASE_SECONDS
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.profile import Profile, Recovery

from .effects import Died, Effects
from .fake_openai import answers, changed, replies, reply_lost, request_lost
from .world import PROMPTS, REVOCABLE, MakeWorld, World

CREATE = "POST /v1/batches"
BY_RESULTS = replace(OPENAI, name="silent", recovery=Recovery.RESULTS)
IDEMPOTENT = replace(OPENAI, name="idempotent", recovery=Recovery.IDEMPOTENT, remembers=600.0)


@pytest.fixture(params=["sqlite"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def silent(make_world: MakeWorld) -> World:
    """A provider whose listing says neither metadata nor input files."""
    world = make_world(profile=BY_RESULTS)
    world.server.keeps_metadata = world.server.shows_files = False
    return world


@pytest.fixture
def idempotent(make_world: MakeWorld) -> World:
    """A provider that knows an Idempotency-Key again."""
    world = make_world(profile=IDEMPOTENT)
    world.server.remembers = True
    return world


def sent(world: World, *, prompts: tuple[str, ...] = PROMPTS, name: str = "plan") -> Attempt:
    """An attempt whose create's reply was lost."""
    attempt = world.ask(prompts, name=name)
    world.server.on(CREATE, reply_lost)
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    return attempt


# ---- found by its results ----


def test_a_batch_is_found_by_the_first_line_of_its_results(silent: World) -> None:
    attempt = sent(silent)
    silent.clock.sleep(2.0)
    silent.machine().reconcile(attempt.id)
    assert silent.state(attempt) is AttemptState.AMBIGUOUS  # it runs, so nobody can know whose it is
    silent.finish(attempt)
    silent.paid_once()
    assert silent.server.creates() == 1
    assert silent.ledger.attempts.incidents() == []


def test_a_result_file_that_comes_without_its_lines_does_not_say_that_a_batch_is_not_ours(silent: World) -> None:
    attempt = sent(silent)
    silent.clock.sleep(BY_RESULTS.settle + 60.0)
    silent.server.on("GET /v1/files/file-2/content", replies(httpx.Response(200)))
    silent.machine().reconcile(attempt.id)
    assert silent.state(attempt) is AttemptState.AMBIGUOUS
    silent.finish(attempt)
    silent.paid_once()
    assert silent.server.creates() == 1


def test_two_lost_creates_of_one_size_do_not_take_each_others_batches(silent: World) -> None:
    first = sent(silent, prompts=("one", "two"), name="first")
    second = sent(silent, prompts=("three", "four"), name="second")
    silent.finish(second)
    silent.finish(first)
    assert silent.answers() == {prompt: f"re: {prompt}" for prompt in ("one", "two", "three", "four")}
    assert set(silent.server.bill.values()) == {1}
    assert silent.server.creates() == 2


def test_nothing_is_asked_again_while_a_batch_that_may_be_ours_runs(silent: World) -> None:
    silent.server.seconds = 20 * 3600.0
    attempt = sent(silent)
    silent.finish(attempt, within=24 * 3600.0, step=600.0)
    silent.paid_once()
    assert silent.server.creates() == 1


def test_a_strangers_batch_of_the_same_size_is_neither_adopted_nor_cancelled(silent: World) -> None:
    other = silent.ask(name="other")  # another ledger's, for all that the listing says
    silent.machine().send(other.id)
    with silent.ledger.attempts._db.write() as c:  # pyright: ignore[reportPrivateUsage]
        c.exec_driver_sql("DELETE FROM link")
    attempt = silent.ask(("a", "b", "c"), name="mine")
    silent.server.on(CREATE, request_lost)
    silent.machine().send(attempt.id)
    silent.finish(attempt)
    assert {prompt: silent.server.bill[prompt] for prompt in "abc"} == {"a": 1, "b": 1, "c": 1}
    assert silent.server.creates() == 3  # one of them was lost
    assert not [what for what in silent.server.seen if what.endswith("/cancel")]
    assert silent.ledger.attempts.incidents() == []


def test_a_create_that_never_arrived_is_asked_again_after_the_settle_time(silent: World) -> None:
    attempt = silent.ask()
    silent.server.on(CREATE, request_lost)
    silent.machine().send(attempt.id)
    began = silent.clock.now()
    while silent.server.creates() < 2:
        silent.clock.sleep(30.0)
        silent.machine().step(silent.now(attempt))
    assert silent.clock.now() - began >= BY_RESULTS.settle
    silent.finish(attempt)
    silent.paid_once()


def test_a_clock_that_is_off_by_hours_hides_no_candidate(silent: World) -> None:
    silent.server.skew = -5 * 3600.0
    attempt = sent(silent)
    silent.finish(attempt)
    silent.paid_once()
    assert silent.server.creates() == 1


@pytest.mark.parametrize("status", [None, 404, 403, 200])
def test_a_strangers_batch_whose_results_can_not_be_read_is_not_waited_for_without_end(
    silent: World, status: int | None
) -> None:
    named = {} if status is None else {"output_file_id": silent.server.store(b"not json\n")}
    if status in {403, 404}:
        silent.server.on(f"GET /v1/files/{named['output_file_id']}", answers(status or 0), times=10_000)
    attempt = silent.ask()
    silent.server.on(CREATE, request_lost)
    silent.machine().send(attempt.id)
    silent.server.batches["theirs"] = {
        "id": "theirs",
        "status": "completed",
        "created_at": int(silent.clock.now()),
        "request_counts": {"total": len(PROMPTS), "completed": len(PROMPTS), "failed": 0},
        "_key": None,
        **named,
    }
    began = silent.clock.now()
    silent.finish(attempt, within=30 * 3600.0, step=600.0)
    silent.paid_once()
    assert silent.clock.now() - began > 24 * 3600.0


# ---- repeated under its token ----


def test_a_create_is_repeated_under_its_token_and_is_the_same_batch(idempotent: World) -> None:
    attempt = sent(idempotent)
    idempotent.clock.sleep(2.0)
    idempotent.machine().reconcile(attempt.id)
    assert idempotent.state(attempt) is AttemptState.SUBMITTED
    idempotent.finish(attempt)
    idempotent.paid_once()
    assert idempotent.server.creates() == 2
    assert len(idempotent.server.batches) == 1
    assert len(idempotent.ledger.attempts.sends(attempt.id)) == 1


def test_a_refusal_of_the_repeated_create_says_nothing_about_the_first(idempotent: World) -> None:
    attempt = sent(idempotent)
    for status in (400, 409, 429):
        idempotent.server.on(CREATE, answers(status))
        idempotent.clock.sleep(20.0)
        idempotent.machine().reconcile(attempt.id)
        assert idempotent.state(attempt) is AttemptState.AMBIGUOUS
    idempotent.finish(attempt)
    idempotent.paid_once()


def test_a_token_that_may_be_forgotten_is_looked_for_in_the_listing(idempotent: World) -> None:
    attempt = sent(idempotent)
    idempotent.server.remembers = False
    idempotent.clock.sleep(IDEMPOTENT.remembers + 60.0)
    idempotent.finish(attempt)
    idempotent.paid_once()
    assert idempotent.server.creates() == 1


def test_a_worker_that_slept_before_it_repeats_a_create_lets_it_be(idempotent: World) -> None:
    attempt = sent(idempotent)
    machine = idempotent.machine()
    upkeep = machine.ledger.upkeep
    is_wanted = upkeep.is_wanted

    def slow(asked: AttemptId) -> bool:
        idempotent.clock.sleep(IDEMPOTENT.remembers + IDEMPOTENT.send_seconds + 1.0)
        idempotent.server.remembers = False
        return is_wanted(asked)

    upkeep.is_wanted = slow  # pyright: ignore[reportAttributeAccessIssue]
    idempotent.clock.sleep(2.0)
    machine.reconcile(attempt.id)
    assert idempotent.state(attempt) is AttemptState.AMBIGUOUS
    idempotent.finish(attempt)
    idempotent.paid_once()
    assert idempotent.server.creates() == 1


def test_a_repeat_never_leaves_after_the_provider_may_have_forgotten(
    idempotent: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = sent(idempotent)
    machine = idempotent.machine()

    def slow(asked: str) -> bool:
        idempotent.clock.sleep(25.0)
        idempotent.server.remembers = False
        return True

    monkeypatch.setattr(machine.ledger.upkeep, "is_wanted", slow)
    idempotent.clock.sleep(590.0)
    machine.reconcile(attempt.id)
    idempotent.finish(attempt)
    idempotent.paid_once()
    assert len(idempotent.server.batches) == 1


def test_what_nobody_wants_any_more_is_not_repeated(idempotent: World) -> None:
    attempt = idempotent.ask()
    idempotent.server.on(CREATE, request_lost)
    idempotent.machine().send(attempt.id)
    plans = idempotent.ledger.plans
    assert plans.close(plans.get(attempt.plan).id, PlanState.CANCELLED, None)  # pyright: ignore[reportArgumentType]
    while idempotent.state(attempt) is AttemptState.AMBIGUOUS:
        idempotent.clock.sleep(60.0)
        idempotent.machine().reconcile(attempt.id)
    assert idempotent.server.creates() == 1
    assert not idempotent.server.batches


@pytest.mark.parametrize("profile", [BY_RESULTS, IDEMPOTENT], ids=lambda profile: profile.name)
def test_a_worker_may_die_before_any_of_its_effects(make_world: MakeWorld, profile: Profile) -> None:
    last, died = 0, True
    while died:
        world = make_world(profile=profile)
        world.server.keeps_metadata = world.server.shows_files = profile is not BY_RESULTS
        world.server.remembers = profile is IDEMPOTENT
        attempt = world.ask()
        world.server.on(CREATE, reply_lost)
        effects = Effects(last)
        with effects.watched():
            try:
                world.machine().send(attempt.id)
                world.clock.sleep(LEASE_SECONDS + 61.0)
                world.machine().step(world.now(attempt))
            except (Died, ProviderError):
                pass
        died = effects.died
        world.clock.sleep(LEASE_SECONDS + 1.0)
        world.finish(attempt)
        world.paid_once()
        last += 4  # each one is a world of its own
    assert last > 15


# ---- replies and results of others ----


def test_a_reply_that_names_another_sends_batch_is_not_believed(world: World) -> None:
    attempt = world.ask()
    world.server.on(CREATE, changed(lambda job: {**job, "id": "batch-9", "metadata": {"batch_llm_token": "else"}}))
    world.finish(attempt)
    world.paid_once()
    assert world.server.creates() == 1


@pytest.mark.parametrize("profile", [OPENAI, IDEMPOTENT], ids=lambda profile: profile.name)
def test_a_reply_that_names_another_of_our_batches_is_not_believed(make_world: MakeWorld, profile: Profile) -> None:
    world = make_world(profile=profile)
    world.server.keeps_metadata = False
    world.server.remembers = profile is IDEMPOTENT
    other = world.ask(("x", "y", "z"), name="other")
    world.machine().send(other.id)
    theirs = next(iter(world.server.batches))
    attempt = world.ask()
    world.server.on(CREATE, changed(lambda job: {**job, "id": theirs}))
    world.finish(attempt, within=2 * 86400.0)
    world.finish(other)
    assert {prompt: world.server.bill[prompt] for prompt in PROMPTS} == dict.fromkeys(PROMPTS, 1)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in (*PROMPTS, "x", "y", "z")}


def a_strangers_batch(world: World) -> str:
    """A batch that the ledger doesn't know, on a server that shows no metadata."""
    world.server.keeps_metadata = False
    world.machine().send(world.ask(("x", "y", "z"), name="other").id)
    with world.ledger.attempts._db.write() as c:  # pyright: ignore[reportPrivateUsage]
        c.exec_driver_sql("DELETE FROM link")
    return next(iter(world.server.batches))


def ours_is_paid_once(world: World) -> None:
    world.server.tick()
    assert {prompt: world.server.bill[prompt] for prompt in PROMPTS} == dict.fromkeys(PROMPTS, 1)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}


def test_results_of_somebody_else_are_not_kept_and_ours_are_looked_for(world: World) -> None:
    theirs = a_strangers_batch(world)
    attempt = world.ask()
    world.server.on(CREATE, changed(lambda job: {**job, "id": theirs}))
    world.finish(attempt)
    ours_is_paid_once(world)
    assert [kind for kind, _, _ in world.ledger.attempts.incidents()] == ["foreign results"]


def test_a_sweep_does_not_cancel_the_only_batch_that_is_proven_to_be_ours(world: World) -> None:
    theirs = a_strangers_batch(world)
    attempt = world.ask()
    machine = world.machine()
    world.server.on(CREATE, changed(lambda job: {**job, "id": theirs}))
    machine.send(attempt.id)
    world.clock.sleep(30.0)
    assert machine.sweep("llm") == 1
    machine.poll("llm")
    assert "cancelled" not in {job["status"] for job in world.server.batches.values()}
    world.finish(attempt)
    ours_is_paid_once(world)
    assert {link.batch_id for link in world.ledger.attempts.links(attempt.id)} == {theirs, "batch-2"}


def test_ours_are_looked_for_also_when_an_earlier_batch_was_turned_away_by_a_full_queue(world: World) -> None:
    theirs = a_strangers_batch(world)
    world.clock.sleep(120.0)
    world.server.tick()
    attempt = world.ask()
    machine = world.machine()
    world.server.problem = {"code": "token_limit_exceeded", "message": "too many enqueued tokens"}
    machine.send(attempt.id)
    world.clock.sleep(61.0)
    machine.poll("llm")
    machine.collect(attempt.id)
    assert world.state(attempt) is AttemptState.PLANNED
    world.server.problem = None
    world.server.on(CREATE, changed(lambda job: {**job, "id": theirs}))
    world.clock.sleep(200.0)
    world.finish(attempt)
    ours_is_paid_once(world)


def test_that_an_earlier_sends_file_is_deleted_proves_nothing_of_the_next_send(make_world: MakeWorld) -> None:
    world = make_world(profile=REVOCABLE)
    world.server.listing_lag = 7200.0
    world.server.problem = {"code": "token_limit_exceeded", "message": "too many enqueued tokens"}
    attempt = sent(world)
    machine = world.machine()
    while world.now(attempt).revoked_at is None:
        world.clock.sleep(20.0)
        machine.reconcile(attempt.id)
    world.server.listing_lag = 0.0  # it is found after all, and was turned away by a full queue
    while world.state(attempt) is not AttemptState.PLANNED:
        world.clock.sleep(200.0)
        machine.step(world.now(attempt))
        machine.poll("llm")
    world.server.problem = None
    world.server.listing_lag = 60.0
    world.server.on(CREATE, reply_lost)
    world.finish(attempt, step=20.0)
    world.paid_once()


@pytest.mark.parametrize("profile", [OPENAI, IDEMPOTENT], ids=lambda profile: profile.name)
def test_a_server_that_garbles_all_ids_is_not_paid_for_ever(make_world: MakeWorld, profile: Profile) -> None:
    world = make_world(profile=profile)
    world.server.remembers = profile is IDEMPOTENT
    world.server.keeps_metadata = world.server.shows_files = False
    answer = world.server.answer
    world.server.answer = lambda line: {**answer(line), "custom_id": "lost"}
    attempt = world.ask()
    world.finish(attempt, within=24 * 3600.0)
    assert world.server.creates() == 2
    assert world.ledger.attempts.answers([attempt.id])[0].outcomes == {"missing": 3}
