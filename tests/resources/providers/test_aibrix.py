"""Our client and machine against AIBrix's batch server, over HTTP, with a model behind it."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from dagster_batch_llm.resources.errors import RefusedError
from dagster_batch_llm.resources.ledger import AttemptState
from dagster_batch_llm.resources.providers.compatible import COMPATIBLE
from dagster_batch_llm.resources.providers.http import HttpClient
from dagster_batch_llm.resources.providers.openai_shape import OpenAIShape
from dagster_batch_llm.resources.providers.protocol import Batch, Phase
from dagster_batch_llm.resources.request import Operation, RequestSpec

from ..fake_clock import FakeClock
from ..world import PROMPTS, World, copy_home
from .aibrix import Model, installed, running_aibrix, running_model

pytestmark = pytest.mark.real


class Clock(FakeClock):
    """Hours pass in no time, but a little does, so that the server gets on; no two tests share a token."""

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        threading.Event().wait(0.02)

    def token(self) -> str:
        return uuid.uuid4().hex[:16]


class LosesReplies(httpx.BaseTransport):
    """The network; the replies to as many creates as it is told get lost on it."""

    def __init__(self) -> None:
        self.lost = 0
        self._network = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reply = self._network.handle_request(request)
        if self.lost and request.method == "POST" and request.url.path.endswith("/batches"):
            self.lost -= 1
            reply.read()
            reply.close()
            raise httpx.ReadTimeout("the reply was lost", request=request)
        return reply

    def close(self) -> None:
        self._network.close()


@dataclass
class RealWorld(World):
    """A small installation whose provider is a real server."""

    address: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.network = LosesReplies()

    def http(self) -> HttpClient:
        return HttpClient(name="aibrix", base_url=self.address, api_key="", clock=self.clock, transport=self.network)

    def provider(self) -> OpenAIShape:
        return OpenAIShape(self.profile, self.http(), account="acme", window="6h", clock=self.clock)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Model, str]]:
    installed()
    with running_model() as (model, behind), running_aibrix(tmp_path_factory.mktemp("aibrix"), model=behind) as address:
        yield model, address


@pytest.fixture
def world(service: tuple[Model, str], tmp_path: Path, migrated_home: Path) -> Iterator[RealWorld]:
    home = copy_home(migrated_home, tmp_path / "ledger")
    world = RealWorld(home, clock=Clock(), profile=COMPATIBLE, address=service[1])
    yield world
    world.network.close()


LINE = '{"custom_id": "%s", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "m", "messages": %s}}'


def created(world: RealWorld, tmp_path: Path, *lines: str) -> Batch:
    """A batch of these lines, made without a ledger."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    provider = world.provider()
    file_id = provider.upload(path, path.name)
    return provider.create(file_id, RequestSpec(Operation.CHAT, "m"), world.clock.token(), lambda: None)


def seen(world: RealWorld, batch: Batch, until: Callable[[Batch], bool]) -> Batch:
    """The batch as soon as something holds of it."""
    for _ in range(1500):
        if until(batch):
            return batch
        world.clock.sleep(1.0)
        batch = world.provider().check(batch.id)
    pytest.fail(f"never got there: {batch}")


def request(text: str) -> str:
    return LINE % (text.replace(" ", "-"), json.dumps([{"role": "user", "content": text}]))


def test_rows_arrive_and_a_failing_one_becomes_an_error_row(world: RealWorld) -> None:
    attempt = world.ask(("one", "bad two", "three"))
    world.finish(attempt)
    assert world.answers() == {"one": "re: one", "bad two": None, "three": "re: three"}
    (bad, *good) = world.outcomes()
    assert good == [("one", "ok", None), ("three", "ok", None)]
    assert bad[:2] == ("bad two", "errored")
    assert "HTTP 400" in str(bad[2])
    (file,) = world.ledger.attempts.answers([attempt.id])
    assert (file.input_tokens, file.output_tokens) == (14, 6)


def test_hundreds_of_rows_are_asked_once_each(world: RealWorld, service: tuple[Model, str]) -> None:
    prompts = [f"row {n}" for n in range(300)]
    attempt = world.ask(prompts)
    world.finish(attempt, within=48 * 3600.0)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in prompts}
    asked = Counter(service[0].asked)
    assert {prompt: asked[prompt] for prompt in prompts} == dict.fromkeys(prompts, 1)


def test_its_ids_windows_and_first_status_are_taken_as_they_are(world: RealWorld, tmp_path: Path) -> None:
    batch = created(world, tmp_path, request("one"))
    assert str(uuid.UUID(batch.id)) == batch.id
    assert batch.expires_at is not None
    assert batch.created_at is not None
    assert batch.expires_at - batch.created_at == 6 * 3600
    assert (batch.status, batch.phase) == ("scheduling", Phase.UNKNOWN)
    assert seen(world, batch, lambda found: found.phase.ended).phase is Phase.COMPLETED


def test_a_lost_create_is_found_in_its_listing(world: RealWorld) -> None:
    world.network.lost = 1
    attempt = world.ask()
    world.machine().send(attempt.id)
    assert world.state(attempt) is AttemptState.AMBIGUOUS
    world.finish(attempt)
    assert world.answers() == {prompt: f"re: {prompt}" for prompt in PROMPTS}
    assert len(world.ledger.attempts.sends(attempt.id)) == 1


def test_its_listing_is_read_page_by_page(world: RealWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenAIShape, "page", {"limit": 2})
    since = world.clock.now()
    made = [created(world, tmp_path, request("one")).id for _ in range(5)]
    listing = world.provider().list(since)
    assert set(made) <= {batch.id for batch in listing.batches}
    assert listing.complete


def test_a_batch_can_be_cancelled_and_what_ran_is_kept(
    world: RealWorld, service: tuple[Model, str], tmp_path: Path
) -> None:
    batch = created(world, tmp_path, *map(request, ("one", "hold two", "three")))
    while "hold two" not in service[0].asked:
        world.clock.sleep(1.0)
    world.provider().cancel(batch.id)
    service[0].let_go.set()
    ended = seen(world, batch, lambda found: found.phase.ended)
    (path,) = world.provider().fetch(ended, tmp_path / "results")
    assert ended.phase is Phase.CANCELLED
    assert [json.loads(line)["custom_id"] for line in path.read_text().splitlines()] == ["one", "hold-two"]


def test_cancelling_what_has_ended_is_fine(world: RealWorld, tmp_path: Path) -> None:
    ended = seen(world, created(world, tmp_path, request("one")), lambda found: found.phase.ended)
    world.provider().cancel(ended.id)
    assert world.provider().check(ended.id) == ended


def test_a_file_that_it_can_not_read_is_a_rejection_with_its_reason(world: RealWorld, tmp_path: Path) -> None:
    batch = seen(world, created(world, tmp_path, request("one"), "no JSON"), lambda found: found.phase.ended)
    assert batch.phase is Phase.FAILED
    assert batch.result_files == ()
    assert "Line 2" in batch.problems[0].message


def test_a_deleted_file_is_gone_and_deleting_it_again_is_fine(world: RealWorld, tmp_path: Path) -> None:
    provider = world.provider()
    path = tmp_path / "in.jsonl"
    path.write_text(request("one") + "\n")
    file_id = provider.upload(path, path.name)
    assert provider.has_file(file_id)
    provider.delete_file(file_id)
    provider.delete_file(file_id)
    assert not provider.has_file(file_id)
    with pytest.raises(RefusedError, match="File content not found"):
        world.http().download(f"/files/{file_id}/content", tmp_path / "down.jsonl")


def test_what_it_refuses_is_quoted_and_nothing_is_paid(world: RealWorld) -> None:
    provider = world.provider()
    world.profile = replace(COMPATIBLE, endpoints={"chat": "/v1/nothing"})
    with pytest.raises(RefusedError, match=r"422: \"body\.endpoint: Input should be '/v1/chat/completions'"):
        world.provider().create("any", RequestSpec(Operation.CHAT, "m"), "token", lambda: None)
    with pytest.raises(RefusedError, match="404: 'Batch not found'"):
        provider.check("any")
