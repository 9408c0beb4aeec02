"""Rows that are asked at once, many at a time: none too early, none too many, none twice, and all of it noted."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from dagster_batch_llm.resources.errors import (
    AmbiguousError,
    BusyError,
    ProviderError,
    RefusedError,
    StorageError,
    UnreachableError,
)
from dagster_batch_llm.resources.providers.asking import Asking
from dagster_batch_llm.resources.providers.http import RawReply
from dagster_batch_llm.resources.providers.journal import Journal, Told, read_journal
from dagster_batch_llm.resources.providers.limits import pause_until
from dagster_batch_llm.resources.providers.protocol import TooLateError
from dagster_batch_llm.resources.providers.wires.openai import OPENAI_WIRE
from hypothesis import given
from hypothesis import strategies as st

from ..fake_clock import FakeClock

NEVER = 1e9
ANTHROPICS = "anthropic-ratelimit"


class Server:
    """Answers what it is asked, or does what it is told with the number of the request."""

    def __init__(self, clock: FakeClock, rule: Callable[[int], RawReply | ProviderError | None] | None = None) -> None:
        self.clock, self.rule = clock, rule
        self.times: list[float] = []
        self.asked: list[str] = []

    def ask(self, body: Mapping[str, Any], still_allowed: Callable[[], None]) -> RawReply:
        still_allowed()
        self.times.append(self.clock.monotonic())
        self.asked.append(str(body["prompt"]))
        said = self.rule(len(self.asked)) if self.rule else None
        if isinstance(said, ProviderError):
            raise said
        return said or RawReply(200, {}, '{"answer": 1}')


def asked(
    server: Server, path: Path, rows: int = 3, *, until: float = NEVER, at_a_time: int = 1, stopped: bool = False
) -> tuple[Asking, Told]:
    """Ask rows ``r0`` … of a server."""
    clock = server.clock

    def still_allowed() -> None:
        if clock.monotonic() > until:
            raise TooLateError

    with Journal(path, rows=rows, now=clock.now()) as journal:
        asking = Asking(
            server.ask,
            wire=OPENAI_WIRE,
            journal=journal,
            clock=clock,
            still_allowed=still_allowed,
            seconds=90.0,
            is_stopped=lambda: stopped,
        )
        asking.all_of(iter([(f"r{n}", {"prompt": f"r{n}"}) for n in range(rows)]), at_a_time)
    return asking, read_journal(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_each_row_is_asked_once_and_has_its_line(clock: FakeClock, path: Path) -> None:
    server = Server(clock)
    asking, told = asked(server, path, rows=50, at_a_time=8)
    assert sorted(server.asked) == sorted(f"r{n}" for n in range(50))
    assert (len(told.answered), told.ok, told.lost, asking.why) == (50, 50, (), None)


@pytest.mark.parametrize(
    "busy",
    [
        BusyError("429", status=429, retry_after=30.0),
        AmbiguousError("503", status=503, retry_after=30.0),
        BusyError("529", status=529, retry_after=30.0),
    ],
    ids=lambda error: error.message,
)
def test_a_server_that_wants_to_be_left_alone_is_left_alone_so_long(
    clock: FakeClock, path: Path, busy: ProviderError
) -> None:
    server = Server(clock, lambda number: busy if number == 2 else None)
    asking, told = asked(server, path)
    assert server.asked == ["r0", "r1", "r1", "r2"]
    assert server.times[2] - server.times[1] >= 30.0
    assert (told.ok, told.lost, asking.why) == (3, (), None)


def test_no_connection_is_tried_again_with_growing_pauses(clock: FakeClock, path: Path) -> None:
    server = Server(clock, lambda number: UnreachableError("away") if number < 4 else None)
    _, told = asked(server, path)
    pauses = [later - earlier for earlier, later in zip(server.times[:3], server.times[1:4], strict=True)]
    assert all(longest / 2 <= pause <= longest for pause, longest in zip(pauses, (1.0, 2.0, 4.0), strict=True))
    assert told.ok == 3


@pytest.mark.parametrize("error", [AmbiguousError("500", status=500), UnreachableError("away")], ids=str)
def test_after_failures_in_a_row_nothing_more_is_begun(clock: FakeClock, path: Path, error: ProviderError) -> None:
    server = Server(clock, lambda _: error)
    asking, told = asked(server, path, rows=20)
    assert len(server.asked) == 5
    assert asking.why is error or asking.why is None or str(asking.why) == error.message
    assert asking.is_paid is isinstance(error, AmbiguousError)
    assert (len(told.answered), told.ok, told.lost) == (5 if asking.is_paid else 0, 0, ())


def test_an_answer_in_between_ends_the_row_of_failures(clock: FakeClock, path: Path) -> None:
    server = Server(clock, lambda number: AmbiguousError("500", status=500) if number % 5 else None)
    asking, told = asked(server, path, rows=20)
    assert (len(server.asked), told.ok, asking.why) == (20, 4, None)


def test_what_may_have_been_carried_out_is_not_asked_again(clock: FakeClock, path: Path) -> None:
    server = Server(clock, lambda number: AmbiguousError("connection reset") if number == 2 else None)
    _, told = asked(server, path)
    assert server.asked == ["r0", "r1", "r2"]
    assert told.answered["r1"]["error"]["message"] == "reply lost: connection reset"
    assert told.ok == 2


def test_a_refusal_of_who_asks_ends_it(clock: FakeClock, path: Path) -> None:
    server = Server(clock, lambda _: RefusedError("wrong key", status=401))
    asking, told = asked(server, path, at_a_time=2)
    assert len(server.asked) <= 2
    assert (str(asking.why), asking.is_paid, told.answered, told.lost) == ("wrong key", False, {}, ())


@pytest.mark.parametrize("text", ["", "<html>", "[1", '"half'])
def test_a_reply_that_is_no_json_is_the_rows_failure(clock: FakeClock, path: Path, text: str) -> None:
    _, told = asked(Server(clock, lambda number: RawReply(200, {}, text) if number == 1 else None), path)
    assert "no JSON" in told.answered["r0"]["error"]["message"]
    assert (len(told.answered), told.ok) == (3, 2)


def test_used_up_limits_are_waited_for(clock: FakeClock, path: Path) -> None:
    spent = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}
    server = Server(clock, lambda number: RawReply(200, spent, "{}") if number == 1 else None)
    _, told = asked(server, path)
    assert server.times[1] - server.times[0] >= 20.0
    assert told.ok == 3


def test_nothing_is_begun_when_it_is_too_late(clock: FakeClock, path: Path) -> None:
    def slow(_: int) -> None:
        clock.sleep(40.0)

    server = Server(clock, slow)
    asking, told = asked(server, path, rows=10, until=clock.monotonic() + 90.0)
    assert server.asked == ["r0", "r1", "r2"]
    assert isinstance(asking.why, TooLateError)
    assert (told.ok, told.lost) == (3, ())


def test_a_pause_beyond_the_time_ends_it_at_once(clock: FakeClock, path: Path) -> None:
    server = Server(clock, lambda _: BusyError("later", status=429, retry_after=600.0))
    asking, _ = asked(server, path)
    assert (len(server.asked), str(asking.why), asking.is_paid) == (1, "later", False)
    assert clock.monotonic() < 600.0


def test_what_is_stopped_begins_nothing(clock: FakeClock, path: Path) -> None:
    server = Server(clock)
    asked(server, path, stopped=True)
    assert server.asked == []


def test_no_more_are_under_way_than_may_be(clock: FakeClock, path: Path) -> None:
    together, most, lock = threading.Barrier(4, timeout=30.0), [0, 0], threading.Lock()

    def counted(_: int) -> None:
        with lock:
            most[0] += 1
            most[1] = max(most)
        together.wait()  # passed by four at a time only
        with lock:
            most[0] -= 1

    _, told = asked(Server(clock, counted), path, rows=12, at_a_time=4)
    assert (told.ok, most[1]) == (12, 4)


class Killed(BaseException):
    """kill -9."""


def test_whoever_dies_takes_the_others_with_it(clock: FakeClock, path: Path) -> None:
    def dies(number: int) -> None:
        if number == 3:
            raise Killed

    server = Server(clock, dies)
    with pytest.raises(Killed):
        asked(server, path, rows=100, at_a_time=2)
    told = read_journal(path)
    assert len(told.lost) == 1
    assert len(server.asked) == told.ok + 1 < 100


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"x-ratelimit-remaining-tokens": "5", "x-ratelimit-reset-tokens": "1m"}, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}, 360.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"}, 0.0),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "-3"}, 0.0),
        ({f"{ANTHROPICS}-requests-remaining": "0", f"{ANTHROPICS}-requests-reset": "1970-01-01T00:01:40Z"}, 60.0),
        ({f"{ANTHROPICS}-tokens-remaining": "0", f"{ANTHROPICS}-tokens-reset": "1970-01-01T00:00:10Z"}, 0.0),
    ],
)  # fmt: skip
def test_headers_say_how_long_to_wait(headers: Mapping[str, str], seconds: float) -> None:
    assert pause_until(headers, 40.0) == pytest.approx(seconds)


# ---- the journal ----

EVENTS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from(["begin", "unasked", "ok", "failed"])), max_size=20
)


@given(EVENTS, st.floats(0, 1))
def test_a_journal_reads_back_whatever_the_order_and_wherever_it_ends(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str]], part: float
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal"
    with Journal(path, rows=9, now=1.0) as journal:
        for row, what in events:
            match what:
                case "begin":
                    journal.begin(row)
                case "unasked":
                    journal.was_not_asked(row)
                case _:
                    journal.answer(row, {"of": row}, ok=what == "ok")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    noted = whole[: int(len(whole) * part)].count(b"}\n") - 1
    begun, lines = set[str](), set[str]()
    for row, what in events[: max(noted, 0)]:
        if what in {"ok", "failed"}:
            lines.add(row)
        elif what == "begin":
            begun.add(row)
        else:
            begun.discard(row)
    told = read_journal(path)
    assert told.rows == (9 if noted >= 0 else 0)
    assert set(told.answered) == lines
    assert set(told.lost) == begun - lines
    assert all(json.loads(json.dumps(line))["of"] == row for row, line in told.answered.items())


class FullOnce:
    """The journal's file, on a disk that is full for one write; meanwhile another thread gives the room away."""

    def __init__(self, path: Path, out: FileIO) -> None:
        self._path, self._out = path, out

    def write(self, line: bytes) -> int:
        room = self._path.with_name("room")
        if room.exists():
            room.unlink()
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._out.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


def test_an_answer_is_kept_if_another_thread_made_the_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal(path, rows=1, now=1.0) as journal:
        monkeypatch.setattr(journal, "_out", FullOnce(path, vars(journal)["_out"]))
        with pytest.raises(StorageError, match="ree some space"):
            journal.answer("a", {"of": "a"}, ok=True)
    assert read_journal(path).answered == {"a": {"of": "a"}}
