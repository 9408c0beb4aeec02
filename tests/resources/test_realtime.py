"""What is asked at once goes through the same machine, ledger and answers as a batch, in each provider's protocol."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from dagster_batch_llm.resources.errors import ProviderError, StorageError
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import Attempt, AttemptState, Tier
from dagster_batch_llm.resources.local.emulator import Fault
from dagster_batch_llm.resources.local.emulator.dialects import DIALECTS
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers.openai import with_responses
from dagster_batch_llm.resources.request import Operation, RequestSpec

from .effects import Died, Effects
from .emulated import VECTORS, EmulatedWorld, rules
from .small_disk import SmallDisk, small_disk
from .world import PROMPTS, World, copy_home

ONE_EACH = dict.fromkeys(PROMPTS, 1)
ALL_OK = [(prompt, "ok") for prompt in sorted(PROMPTS)]
MakeEmulated = Callable[..., EmulatedWorld]


@pytest.fixture
def emulated(tmp_path: Path, migrated_home: Path, no_waiting: None) -> MakeEmulated:
    def make(*faults: Fault, speaks: str = "openai") -> EmulatedWorld:
        home = copy_home(migrated_home, tmp_path / "home")
        return EmulatedWorld(home, faults=rules(*faults, speaks=speaks), tier=Tier.REALTIME)

    return make


@pytest.fixture(params=["openai", *sorted(DIALECTS)])
def speaks(request: pytest.FixtureRequest) -> str:
    return request.param


def went(world: World) -> list[tuple[str, str]]:
    return [(key, outcome) for key, outcome, _ in world.outcomes()]


def asks(world: EmulatedWorld) -> int:
    """How often the emulator was asked at once: everything else is on our side."""
    assert all(line.startswith("POST") for line in world.emulator.seen)
    return len(world.emulator.seen)


# ---- each provider's protocol ----


def test_rows_are_answered_and_paid_once(emulated: MakeEmulated, speaks: str) -> None:
    world = emulated(speaks=speaks)
    assert world.converge() is AttemptState.ANSWERED
    assert (went(world), world.emulator.bill, asks(world)) == (ALL_OK, ONE_EACH, 3)
    (attempt,) = world.ledger.attempts.find()
    (file,) = world.ledger.attempts.answers([attempt.id])
    written = 0 if world.spec.operation is Operation.EMBEDDING else 3
    assert (file.input_tokens, file.output_tokens, file.unmetered) == (3, written, 0)


def test_responses_and_moderations_are_answered_and_paid_once(emulated: MakeEmulated) -> None:
    world = emulated()
    world.profile = with_responses(world.profile, "responses")
    assert world.converge() is AttemptState.ANSWERED
    assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)
    world.spec = RequestSpec(operation=Operation.MODERATION, model="m")
    world.finish(world.ask(["four"], name="moderated"))
    assert world.outcomes()[0][:2] == ("four", "ok")
    assert world.emulator.bill == {**ONE_EACH, "four": 1}


@pytest.mark.parametrize("speaks", ["openai", "gemini", "mistral", "openrouter"])
def test_vectors_are_answered_and_paid_once(emulated: MakeEmulated, speaks: str) -> None:
    world = emulated(speaks=speaks)
    world.spec = VECTORS
    assert world.converge() is AttemptState.ANSWERED
    assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)


def test_a_lost_reply_and_a_wrong_request_are_failures_of_their_rows(emulated: MakeEmulated, speaks: str) -> None:
    lost, wrong = Fault("ask", "lost_reply", times=1), Fault("ask", "refused", status=400, times=1, skip=1)
    world = emulated(lost, wrong, speaks=speaks)
    assert world.converge() is AttemptState.ANSWERED
    reasons = {outcome: str(reason) for _, outcome, reason in world.outcomes()}
    assert sorted(reasons) == ["errored", "ok", "refused"]
    assert "reply lost: " in reasons["errored"]
    assert "The emulated provider refuses this." in reasons["refused"]
    assert len(world.emulator.bill) == 2
    assert asks(world) == 3


@pytest.mark.parametrize("speaks", ["openai", "anthropic", "gemini"])
def test_a_wrong_key_is_everybodys_failure(emulated: MakeEmulated, speaks: str) -> None:
    world = emulated(Fault("ask", "refused", status=401), speaks=speaks)
    assert world.converge(within=600.0) is AttemptState.REFUSED
    assert ([error.status for error in world.said], world.emulator.bill) == ([401], {})


# ---- faults ----


@pytest.mark.parametrize("name", ["bad_gateway", "time_out", "server_error", "not_json", "empty_reply"])
def test_what_may_have_been_carried_out_is_not_asked_again(emulated: MakeEmulated, name: str) -> None:
    world = emulated(Fault("ask", name, times=1, seconds=0))
    assert world.converge() is AttemptState.ANSWERED
    assert sorted(outcome for _, outcome in went(world)) == ["errored", "ok", "ok"]
    assert asks(world) == 3


@pytest.mark.parametrize("status", [429, 503, 529])
def test_what_was_not_carried_out_is_asked_again_when_the_server_says(emulated: MakeEmulated, status: int) -> None:
    world = emulated(Fault("ask", "busy", times=2, status=status, seconds=7))
    began = world.clock.monotonic()
    assert world.converge() is AttemptState.ANSWERED
    assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)
    assert world.clock.monotonic() - began >= 7


def test_a_server_that_stays_busy_is_asked_later_and_nothing_is_paid(emulated: MakeEmulated) -> None:
    world = emulated(Fault("ask", "busy", seconds=3000))
    assert world.converge(within=600.0) is AttemptState.PLANNED
    assert (world.emulator.bill, went_nowhere(world)) == ({}, True)
    assert asks(world) <= 8
    world.emulator.memory.script(rules())
    world.finish(world.ledger.attempts.find()[0])
    assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)


def went_nowhere(world: World) -> bool:
    return not list(Home(world.folder).realtime.glob("*/journal"))


def test_after_failures_in_a_row_the_next_send_waits(emulated: MakeEmulated) -> None:
    world = emulated(Fault("ask", "server_error"))
    attempt = world.ask([f"row {n}" for n in range(50)])
    machine = world.machine()
    machine.step(attempt)
    assert "had an error" in str(world.now(attempt).message)
    kinds = world.kinds()
    assert kinds["errored"] + kinds["expired"] == 50
    assert 5 <= kinds["errored"] == asks(world) <= 5 + 8
    second = world.ask(["other"], name="later")
    with pytest.raises(ProviderError, match="left alone"):
        machine.send(second.id)
    assert world.state(second) is AttemptState.PLANNED
    world.emulator.memory.script(rules())
    world.finish(second)
    assert world.emulator.bill == {"other": 1}


# ---- kills and other workers ----


def struck(
    world: EmulatedWorld, prompt: str, strike: Callable[[], object], *, carried_out: bool = True
) -> BatchMachine:
    """A worker that something happens to when this prompt is asked."""
    handle = world.emulator.handle

    def striking(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)["messages"][-1]["content"] == prompt
        reply = handle(request) if carried_out or not asked else None
        if asked:
            strike()
        return reply or handle(request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world.emulator, "handle", striking)
        return world.machine("struck")


def test_a_worker_that_dies_before_a_reply_leaves_that_row_lost_and_no_other(emulated: MakeEmulated) -> None:
    world = emulated()

    def die() -> None:
        raise Died

    attempt = world.ask()
    with pytest.raises(Died):
        struck(world, "two", die).send(attempt.id)
    assert world.state(attempt) is AttemptState.CREATING
    world.clock.sleep(200.0)
    world.finish(attempt)
    found = dict(went(world))
    assert found.pop("two") == "errored"
    assert {key for key, outcome in found.items() if outcome == "ok"} == {*world.emulator.bill} - {"two"}
    assert set(found.values()) <= {"ok", "expired"}


def test_wherever_a_worker_dies_nothing_is_paid_without_an_answer_or_a_word(
    tmp_path: Path, migrated_home: Path, no_waiting: None
) -> None:
    ways = set[str]()
    for last in itertools.count(0, 2):  # between them they are a row's begin, request and reply in any order
        home = copy_home(migrated_home, tmp_path / f"home{last}")
        world = EmulatedWorld(home, faults=rules(), tier=Tier.REALTIME)
        attempt, effects = world.ask(), Effects(last)
        with suppress(Died), effects.watched():
            world.machine("mortal").step(attempt)
        world.clock.sleep(200.0)
        world.finish(attempt)
        assert world.ledger.attempts.incidents() == []
        for prompt, outcome in went(world):
            ways.add(outcome)
            paid = world.emulator.bill.get(prompt, 0)
            assert paid == {"ok": 1, "expired": 0}.get(outcome, paid) <= 1
        if not effects.died:
            assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)
            assert ways >= {"ok", "errored"}
            return


def test_two_workers_do_not_both_ask(emulated: MakeEmulated) -> None:
    world, here, go = emulated(), threading.Event(), threading.Event()

    def hang() -> None:
        here.set()
        assert go.wait(30.0)

    attempt = world.ask()
    slow = threading.Thread(target=struck(world, "two", hang, carried_out=False).step, args=[attempt])
    slow.start()
    assert here.wait(30.0)
    other = world.machine("other")
    other.step(world.now(attempt))  # the lease is held
    assert world.state(attempt) is AttemptState.CREATING
    world.clock.sleep(200.0)  # and now it has ended, but somebody is still asking
    other.step(world.now(attempt))
    other.poll("llm")
    assert (world.state(attempt), world.now(attempt).phase) == (AttemptState.SUBMITTED, "running")
    go.set()
    slow.join(30.0)
    world.finish(attempt)
    assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)
    assert world.ledger.attempts.incidents() == []


def test_who_slept_before_asking_asks_nothing(emulated: MakeEmulated, monkeypatch: pytest.MonkeyPatch) -> None:
    world = emulated()
    attempt = world.ask()
    slow, count = world.machine("slow"), slow_count(world, monkeypatch)
    slow.send(attempt.id)
    assert (world.state(attempt), world.emulator.bill, count) == (AttemptState.PLANNED, {}, [1])
    world.finish(attempt)
    assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)


def slow_count(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The first send is held up after its intent."""
    begin, count = type(world.ledger.attempts).begin_send, [0]

    def slowly(self: Any, *given: Any) -> Attempt:
        begun = begin(self, *given)
        count[0] += 1
        monkeypatch.undo()
        world.clock.sleep(100.0)
        return begun

    monkeypatch.setattr(type(world.ledger.attempts), "begin_send", slowly)
    return count


def test_a_cancelled_send_begins_no_more(emulated: MakeEmulated) -> None:
    world = emulated()
    attempt = world.ask([f"row {n}" for n in range(60)])
    side = world.provider().realtime(Home(world.folder).realtime)

    def cancel() -> None:
        (name,) = (path.parent.name for path in Home(world.folder).realtime.glob("*/journal"))
        side.cancel(name)

    struck(world, "row 20", cancel).step(attempt)
    kinds = world.kinds()
    assert kinds["ok"] == asks(world) == len(world.emulator.bill) < 60
    assert kinds["ok"] + kinds["expired"] == 60


WORKER = """
import sys
from pathlib import Path
from dagster_batch_llm.resources.ledger import AttemptId, Ledger
from dagster_batch_llm.resources.machine import BatchMachine
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai import OPENAI
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape

home, address, attempt = sys.argv[1:]
http = HttpClient(name="openai", base_url=address, api_key="sk-test")
BatchMachine(Ledger(Path(home)), {"llm": OpenAIShape(OPENAI, http, account="acme")}, "worker").send(AttemptId(attempt))
"""


def test_a_process_that_is_killed_while_it_asks_leaves_what_was_answered(emulated: MakeEmulated) -> None:
    world = emulated()
    attempt = world.ask()
    seen, all_here, gone = list[str](), threading.Barrier(3, timeout=60.0), threading.Event()
    workers: list[subprocess.Popen[bytes]] = []

    class Killer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            request = httpx.Request(
                "POST", f"https://fake.test{self.path}", headers=dict(self.headers), content=content
            )
            reply = world.emulator.handle(request)
            seen.append(json.loads(content)["messages"][-1]["content"])
            all_here.wait()  # all are under way
            if seen[0] != json.loads(content)["messages"][-1]["content"]:
                gone.wait(60.0)
                return
            self.send_response(reply.status_code)
            self.send_header("content-length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)
            self.wfile.flush()
            journal = next(Home(world.folder).realtime.glob("*/journal"))
            while b'"ok":true' not in journal.read_bytes():
                os.sched_yield()
            workers[0].kill()
            gone.set()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Killer) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        address = f"http://127.0.0.1:{server.server_port}/v1"
        workers.append(subprocess.Popen([sys.executable, "-c", WORKER, str(world.folder), address, attempt.id]))
        assert workers[0].wait(60.0) == -9
        server.shutdown()
        serving.join()
    assert world.state(attempt) is AttemptState.CREATING
    world.finish(attempt)
    assert went(world) == sorted((prompt, "ok" if prompt == seen[0] else "errored") for prompt in PROMPTS)
    assert world.emulator.bill == ONE_EACH


# ---- disks ----


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def on_disk(world: World, disk: SmallDisk) -> None:
    shutil.rmtree(Home(world.folder).realtime, ignore_errors=True)
    Home(world.folder).realtime.symlink_to(disk.folder)


def test_on_a_full_disk_nothing_is_asked(emulated: MakeEmulated, disk: SmallDisk) -> None:
    world = emulated()
    on_disk(world, disk)
    attempt = world.ask()
    for leave in (0, 1_000_000):
        with disk.full(leave), pytest.raises(StorageError, match=r"ree some space"):
            world.machine().send(attempt.id)
        assert world.emulator.seen == []
        world.clock.sleep(200.0)
    world.finish(attempt)
    assert (went(world), world.emulator.bill) == (ALL_OK, ONE_EACH)


def test_answers_survive_a_disk_that_becomes_full(emulated: MakeEmulated, disk: SmallDisk) -> None:
    world = emulated()
    on_disk(world, disk)
    attempt = world.ask([f"row {n}" for n in range(60)])
    struck(world, "row 20", disk.fill).send(attempt.id)
    disk.free()
    world.finish(attempt)
    kinds = world.kinds()
    assert kinds["ok"] == len(world.emulator.bill) == asks(world) < 60
    assert kinds["ok"] + kinds["expired"] == 60
