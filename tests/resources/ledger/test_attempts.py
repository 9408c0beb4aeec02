from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from dagster_batch_llm.resources.errors import ProtocolError, StaleFenceError
from dagster_batch_llm.resources.ledger import (
    LEGAL,
    OPEN_ATTEMPTS,
    AnswersFile,
    Attempt,
    Attempts,
    AttemptState,
    Link,
    PlanState,
    Send,
    schema,
)
from dagster_batch_llm.resources.ledger.attempts import LEASE_SECONDS
from dagster_batch_llm.resources.ledger.connect import Database

from ..world import World

STATES = list(AttemptState)
ANSWERS = AnswersFile("task/a.parquet", {"ok": 3}, 10, 5)


def a_send(attempt: Attempt, n: int = 1) -> Send:
    return Send(f"token{n}", attempt.id, n, 0.0, 30.0, f"file-{n}", attempt.rows)


def a_link(attempt: Attempt, batch: str = "batch-1", n: int = 1) -> Link:
    return Link(attempt.account, batch, attempt.id, f"token{n}", extra=False)


def taken(world: World, attempt: Attempt, owner: str = "me") -> Attempt:
    found = world.ledger.attempts.take(attempt.id, owner)
    assert found is not None
    return found


def submitted(world: World) -> Attempt:
    attempts = world.ledger.attempts
    attempt = taken(world, world.ask())
    attempt = attempts.begin_send(attempt, a_send(attempt))
    return attempts.adopt(attempt, [a_link(attempt)])


# ---- transitions ----


@pytest.mark.parametrize(("before", "after"), list(itertools.product(STATES, STATES)))
def test_only_legal_transitions_are_made(world: World, before: AttemptState, after: AttemptState) -> None:
    attempt = replace(world.ask(), state=before)
    with Database(world.folder, world.clock, url=world.url).write() as c:
        c.execute(schema.attempt.update().values(state=before))
    if after in LEGAL[before]:
        assert world.ledger.attempts.move(attempt, after).state is after
        assert world.state(attempt) is after
        return
    with pytest.raises(ProtocolError, match=f"{before} → {after} is not a legal transition"):
        world.ledger.attempts.move(attempt, after)
    assert world.state(attempt) is before


def test_nothing_leads_out_of_an_end_and_every_open_state_has_a_way_out() -> None:
    assert set(LEGAL) == set(STATES)
    assert {state for state in STATES if not LEGAL[state]} == set(STATES) - OPEN_ATTEMPTS
    for state in STATES:
        assert state not in LEGAL[state]


def test_only_a_submitted_attempt_can_be_answered() -> None:
    assert [state for state in STATES if AttemptState.ANSWERED in LEGAL[state]] == [AttemptState.SUBMITTED]


# ---- leases and fences ----


WRITES: dict[str, Callable[[Attempts, Attempt], object]] = {
    "renew": lambda attempts, attempt: attempts.renew(attempt),
    "release": lambda attempts, attempt: attempts.release(attempt, due=5.0),
    "note": lambda attempts, attempt: attempts.note(attempt, phase="running"),
    "move": lambda attempts, attempt: attempts.move(attempt, AttemptState.REFUSED),
    "begin_send": lambda attempts, attempt: attempts.begin_send(attempt, a_send(attempt, 7)),
    "adopt": lambda attempts, attempt: attempts.adopt(attempt, [a_link(attempt, "batch-7")]),
    "close": lambda attempts, attempt: attempts.close(attempt, ANSWERS),
}


@pytest.mark.parametrize("write", WRITES)
def test_every_write_fails_after_a_takeover(world: World, write: str) -> None:
    if write in {"adopt", "close", "release", "note"}:
        stale = submitted(world)
        if write == "adopt":
            stale = replace(stale, state=AttemptState.CREATING)
    else:
        stale = taken(world, world.ask())
    world.clock.sleep(LEASE_SECONDS + 1.0)
    taken(world, stale, "successor")
    before = (world.now(stale), world.ledger.attempts.sends(stale.id), world.ledger.attempts.links(stale.id))
    with pytest.raises(StaleFenceError, match="another worker"):
        WRITES[write](world.ledger.attempts, stale)
    after = (world.now(stale), world.ledger.attempts.sends(stale.id), world.ledger.attempts.links(stale.id))
    assert after == before
    assert world.ledger.attempts.answers([stale.id]) == []


@pytest.mark.parametrize("write", ["renew", "release", "note", "move", "begin_send"])
def test_every_write_names_the_state_that_it_expects(world: World, write: str) -> None:
    attempt = taken(world, world.ask())
    world.ledger.attempts.begin_send(attempt, a_send(attempt))
    with pytest.raises(StaleFenceError):
        WRITES[write](world.ledger.attempts, attempt)
    assert world.state(attempt) is AttemptState.CREATING
    assert [send.n for send in world.ledger.attempts.sends(attempt.id)] == [1]


def test_a_lease_is_anothers_until_it_expires(world: World) -> None:
    attempt = world.ask()
    mine = taken(world, attempt)
    assert world.ledger.attempts.take(attempt.id, "other") is None
    assert world.ledger.attempts.take(attempt.id, "me") is None
    world.clock.sleep(LEASE_SECONDS - 1.0)
    assert world.ledger.attempts.take(attempt.id, "other") is None
    mine = world.ledger.attempts.renew(mine)
    world.clock.sleep(LEASE_SECONDS - 1.0)
    assert world.ledger.attempts.take(attempt.id, "other") is None
    world.clock.sleep(1.0)
    successor = taken(world, attempt, "other")
    assert (successor.fence, successor.owner) == (mine.fence + 1, "other")


def test_a_released_attempt_is_free_at_once(world: World) -> None:
    attempt = taken(world, world.ask())
    world.ledger.attempts.release(attempt)
    assert taken(world, attempt, "other").fence == attempt.fence + 1


def test_a_takeover_does_not_change_the_state(world: World) -> None:
    attempt = taken(world, world.ask())
    world.ledger.attempts.begin_send(attempt, a_send(attempt))
    world.clock.sleep(LEASE_SECONDS)
    assert taken(world, attempt, "other").state is AttemptState.CREATING


def test_what_is_due_and_free_is_found(world: World) -> None:
    first, second = world.ask(["a"], name="p1"), world.ask(["b"], name="p2")
    attempts = world.ledger.attempts
    assert [a.id for a in attempts.due([AttemptState.PLANNED])] == [first.id, second.id]
    assert attempts.due([AttemptState.SUBMITTED]) == []
    assert attempts.due([AttemptState.PLANNED], "another") == []
    held = taken(world, first)
    attempts.release(taken(world, second), due=world.clock.now() + 50.0)
    assert attempts.due([AttemptState.PLANNED], "llm") == []
    attempts.release(held)
    world.clock.sleep(50.0)
    assert len(attempts.due([AttemptState.PLANNED], "llm")) == 2


# ---- sends, links and answers ----


def test_a_send_and_its_transition_are_one(world: World) -> None:
    attempt = taken(world, world.ask())
    creating = world.ledger.attempts.begin_send(attempt, a_send(attempt))
    assert (creating.state, creating.send_no, creating.file_id) == (AttemptState.CREATING, 1, "file-1")
    assert world.ledger.attempts.sends(attempt.id) == [a_send(attempt)]
    assert world.now(attempt) == creating


def test_the_survivor_is_the_first_link(world: World) -> None:
    attempt = taken(world, world.ask())
    attempt = world.ledger.attempts.begin_send(attempt, a_send(attempt))
    extra = replace(a_link(attempt, "batch-0"), extra=True)
    attempt = world.ledger.attempts.adopt(attempt, [a_link(attempt, "batch-9"), extra])
    assert attempt.batch_id == "batch-9"
    assert [link.batch_id for link in world.ledger.attempts.links(attempt.id)] == ["batch-9", "batch-0"]


def test_a_submission_that_was_taken_back_leaves_its_links_as_rejected(world: World) -> None:
    attempts = world.ledger.attempts
    attempt = submitted(world)
    attempt = attempts.move(attempt, AttemptState.PLANNED, batch_id=None)
    assert attempts.links(attempt.id) == []
    world.clock.sleep(60.0)
    attempt = attempts.begin_send(attempt, a_send(attempt, 2))
    attempt = attempts.adopt(attempt, [a_link(attempt, "batch-2", 2)])
    assert [link.batch_id for link in attempts.links(attempt.id)] == ["batch-2"]
    assert [link.batch_id for link in attempts.links(attempt.id, rejected=True)] == ["batch-1"]


def test_closing_names_the_answers_in_the_same_transaction(world: World) -> None:
    attempt = submitted(world)
    closed = world.ledger.attempts.close(attempt, ANSWERS)
    assert (closed.state, closed.lease_until) == (AttemptState.ANSWERED, 0.0)
    assert world.now(attempt) == closed
    assert world.ledger.attempts.answers([attempt.id]) == [ANSWERS]
    assert world.ledger.looks.snapshot(attempt.task).answers_files == [ANSWERS.file]


def test_an_incident_is_recorded_once(world: World) -> None:
    attempts = world.ledger.attempts
    assert attempts.incident("duplicate", "batch-1", "first words")
    assert not attempts.incident("duplicate", "batch-1", "other words")
    assert attempts.incident("duplicate", "batch-2", "x")
    assert attempts.incidents() == [("duplicate", "batch-1", "first words"), ("duplicate", "batch-2", "x")]


# ---- giving up ----


def test_what_was_not_sent_is_given_up(world: World) -> None:
    attempt = world.ask()
    assert world.ledger.attempts.void_unsent("plan") == 3
    assert world.state(attempt) is AttemptState.VOID
    assert world.ledger.attempts.void_unsent("plan") == 0


def test_what_was_sent_is_not_given_up(world: World) -> None:
    attempt = submitted(world)
    assert world.ledger.attempts.void_unsent("plan") == 0
    assert world.state(attempt) is AttemptState.SUBMITTED


def test_what_another_open_plan_waits_for_is_not_given_up(world: World) -> None:
    attempt = world.ask()
    other = world.ask(["four"], name="other")
    snapshot = world.ledger.looks.snapshot(attempt.task)
    assert world.ledger.looks.insert(attempt.task, snapshot.fence, "other", [], [attempt.id])
    assert world.ledger.attempts.void_unsent("plan") == 0
    assert [a.id for a in world.ledger.attempts.open_of_plan("other")] == [attempt.id, other.id]
    world.ledger.plans.close(other.plan, PlanState.CANCELLED)  # pyright: ignore[reportArgumentType]
    assert world.ledger.attempts.void_unsent("plan") == 3


def test_a_worker_that_is_uploading_when_its_plan_is_given_up_sends_nothing(world: World) -> None:
    attempt = world.ask()
    given_up: list[int] = []

    def meanwhile(request: object, serve: Callable[[], object]) -> object:
        given_up.append(world.ledger.attempts.void_unsent("plan"))
        return serve()

    world.server.on("POST /v1/files", meanwhile)  # pyright: ignore[reportArgumentType]
    world.machine().send(attempt.id)
    assert given_up == [3]
    assert world.state(attempt) is AttemptState.VOID
    assert world.server.creates() == 0
