"""One table, asked of every provider by changing its resource: over HTTP, of the emulator that speaks its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import httpx
import pyarrow as pa
import pytest
from dagster_batch_llm.assets import Text, classify_asset, embed_asset, enrich_asset, llm_table, moderate_asset
from dagster_batch_llm.resources import (
    AnthropicBatch,
    AzureOpenAIBatch,
    BatchResource,
    BedrockBatch,
    CohereBatch,
    FireworksBatch,
    GeminiBatch,
    GroqBatch,
    MistralBatch,
    OpenAIBatch,
    OpenRouterBatch,
    TogetherBatch,
    VertexBatch,
    VoyageBatch,
    XaiBatch,
)
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.errors import ProviderError, UserError
from dagster_batch_llm.resources.local.emulator.dialects import DIALECTS
from dagster_batch_llm.resources.providers.profile import Profile
from pydantic import BaseModel

from ..resources.emulated import ROLE, TOKEN, EmulatedServer, rules
from ..resources.served import served
from .conftest import House, failure, rows_asset

RESOURCES: dict[str, Callable[[str], Any]] = {
    "openai": lambda at: OpenAIBatch(api_key=TOKEN, base_url=f"{at}/v1"),
    "openai-responses": lambda at: OpenAIBatch(api_key=TOKEN, base_url=f"{at}/v1", chat_api="responses"),
    "anthropic": lambda at: AnthropicBatch(api_key=TOKEN, base_url=at),
    "azure": lambda at: AzureOpenAIBatch(api_key=TOKEN, base_url=f"{at}/openai/v1"),
    "bedrock": lambda at: BedrockBatch(
        region="us-east-1",
        role_arn=ROLE,
        s3_folder="s3://bucket/folder",
        access_key_id=TOKEN,
        secret_access_key="secret",
        min_rows_per_batch=1,
        base_url=at,
        s3_url=f"{at}/s3",
    ),
    "cohere": lambda at: CohereBatch(api_key=TOKEN, base_url=at),
    "fireworks": lambda at: FireworksBatch(api_key=TOKEN, account_id="acme", base_url=at),
    "gemini": lambda at: GeminiBatch(api_key=TOKEN, base_url=at),
    "groq": lambda at: GroqBatch(api_key=TOKEN, base_url=f"{at}/openai/v1"),
    "mistral": lambda at: MistralBatch(api_key=TOKEN, base_url=f"{at}/v1"),
    "openrouter": lambda at: OpenRouterBatch(api_key=TOKEN, base_url=f"{at}/api/v1"),
    "together": lambda at: TogetherBatch(api_key=TOKEN, base_url=f"{at}/v1"),
    "vertex": lambda at: VertexBatch(
        project="my-project",
        location="us-central1",
        gcs_folder="gs://bucket/folder",
        access_token=TOKEN,
        base_url=at,
        gcs_url=at,
    ),
    "voyage": lambda at: VoyageBatch(api_key=TOKEN, base_url=f"{at}/v1"),
    "xai": lambda at: XaiBatch(api_key=TOKEN, base_url=f"{at}/v1"),
}
CHATS = sorted(set(RESOURCES) - {"voyage"})
EMBEDS = sorted({"openai", "azure", "cohere", "gemini", "mistral", "openrouter", "voyage"})
REVIEWS = ["All praise to the cook.", "A complaint about the soup.", '"; DROP TABLE x; -- ü praise']


@pytest.fixture(autouse=True)
def looking_often(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = BatchResource.limited

    def often(self: BatchResource, profile: Profile) -> Profile:
        return replace(limited(self, profile), poll_seconds=(0.01, 0.1))

    monkeypatch.setattr(BatchResource, "limited", often)


@pytest.fixture
def provider(speaks: str, tmp_path: Path) -> Iterator[tuple[Any, EmulatedServer]]:
    spoken = "openai" if speaks == "openai-responses" else speaks
    server = EmulatedServer(tmp_path / "emulator", SystemClock(), rules(speaks=spoken))
    with served(server.handle) as address:
        yield RESOURCES[speaks](address), server


def reviews() -> dg.AssetsDefinition:
    return rows_asset("reviews", pa.table({"id": range(len(REVIEWS)), "text": REVIEWS}))


def test_every_protocol_has_its_resource() -> None:
    assert set(RESOURCES) == {"openai", "openai-responses", *DIALECTS}


@pytest.mark.parametrize("speaks", CHATS)
def test_the_same_labels_are_found(house: House, provider: tuple[Any, EmulatedServer]) -> None:
    llm, server = provider
    topics = classify_asset(
        name="topics", source="reviews", row_key="id", prompt="{text}", labels=["praise", "complaint"], llm="llm",
        model="a-model", parameters={"max_completion_tokens": 50, "temperature": 0},
    )  # fmt: skip
    told = house.done(reviews(), topics, resources={"llm": llm})
    assert house.rows("topics", "id, label, status") == [
        (0, "praise", "ok"),
        (1, "complaint", "ok"),
        (2, "praise", "ok"),
    ]
    assert (told["batch_llm/rows_asked"], sum(server.bill.values())) == (3, 3)


class Review(BaseModel):
    mood: Literal["praise", "complaint"]
    stars: int | None
    dishes: list[str]


@pytest.mark.parametrize("speaks", ["openai-responses", "anthropic", "gemini", "mistral"])
def test_the_same_fields_are_filled_in(house: House, provider: tuple[Any, EmulatedServer]) -> None:
    details = enrich_asset(
        name="details", source="reviews", row_key="id", prompt="{text}", output=Review, llm="llm", model="a-model"
    )
    house.done(reviews(), details, resources={"llm": provider[0]})
    assert house.rows("details", "mood, stars, dishes, status", order="id") == [
        ("praise", 0, [], "ok"), ("complaint", 0, [], "ok"), ("praise", 0, [], "ok"),
    ]  # fmt: skip


@pytest.mark.parametrize("speaks", ["openai-responses", "anthropic", "gemini"])
def test_free_text_comes_as_it_is(house: House, provider: tuple[Any, EmulatedServer]) -> None:
    @llm_table(row_key="id", prompt="{text}", output=Text("said", instruction="Repeat."), llm="llm", model="m")
    def echoes(reviews: pa.Table) -> pa.Table:
        return reviews

    house.done(reviews(), echoes, resources={"llm": provider[0]})
    assert [said for (said,) in house.rows("echoes", "said", order="id")] == REVIEWS


@pytest.mark.parametrize("speaks", EMBEDS)
def test_the_same_vectors_are_made(house: House, provider: tuple[Any, EmulatedServer]) -> None:
    vectors = embed_asset(name="vectors", source="reviews", row_key="id", prompt="{text}", llm="llm", model="m")
    house.done(reviews(), vectors, resources={"llm": provider[0]})
    assert [(len(vector), status) for vector, status in house.rows("vectors", "vector, status", order="id")] == [
        (8, "ok")
    ] * 3


@pytest.mark.parametrize("speaks", ["openai"])
def test_a_moderation_says_what_is_flagged(house: House, provider: tuple[Any, EmulatedServer]) -> None:
    texts = rows_asset("reviews", pa.table({"id": [0, 1], "text": ["All good.", "hate and violence"]}))
    verdicts = moderate_asset(name="verdicts", source="reviews", row_key="id", prompt="{text}", llm="llm", model="m")
    told = house.done(texts, verdicts, resources={"llm": provider[0]})
    assert house.rows("verdicts", "flagged, categories, score, status", order="id") == [
        (False, [], 0.1, "ok"), (True, ["hate", "violence"], 0.9, "ok"),
    ]  # fmt: skip
    assert not any("unmetered" in name for name in told)


@pytest.mark.parametrize("speaks", CHATS)
def test_what_a_provider_does_not_take_is_said_before_anything_is_paid(
    house: House, provider: tuple[Any, EmulatedServer]
) -> None:
    llm, server = provider
    topics = classify_asset(
        name="topics", source="reviews", row_key="id", prompt="{text}", labels=["a", "b"], llm="llm", model="m",
        parameters={"n": 5},
    )  # fmt: skip
    result = house.run(reviews(), topics, resources={"llm": llm})
    assert not result.success
    assert server.store.count_batches() == 0


@pytest.mark.parametrize("speaks", sorted(RESOURCES))
def test_a_wrong_key_ends_the_run_before_anything_is_paid(
    house: House, provider: tuple[Any, EmulatedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, server = provider
    names = ("api_key", "access_key_id", "access_token")
    wrong = type(llm)(**{**llm.model_dump(), **{name: "sk-wrong" for name in names if hasattr(llm, name)}})
    vectors = embed_asset(name="vectors", source="reviews", row_key="id", prompt="{text}", llm="llm", model="m")
    labels = classify_asset(
        name="topics", source="reviews", row_key="id", prompt="{text}", labels=["a", "b"], llm="llm", model="m"
    )
    result = house.run(reviews(), vectors if isinstance(llm, VoyageBatch) else labels, resources={"llm": wrong})
    assert not result.success
    assert "Incorrect API key provided." in failure(result)
    assert "sk-wrong" not in failure(result)
    assert server.store.count_batches() == 0


@pytest.mark.parametrize("speaks", sorted(RESOURCES))
def test_an_address_without_a_scheme_is_a_mistake(speaks: str) -> None:
    with pytest.raises(UserError, match=r"base_url .* is not an address|base_url is 'api\.example\.com"):
        RESOURCES[speaks]("api.example.com").provider()


@pytest.mark.parametrize("speaks", sorted(RESOURCES))
def test_a_proxy_that_answers_with_a_page_is_named(speaks: str, tmp_path: Path) -> None:
    page = httpx.Response(200, text="<html>Please <b>log in</b></html>")
    lines = tmp_path / "0123.jsonl"
    lines.write_text('{"custom_id": "t-0"}\n')
    with served(lambda _: page) as address:
        provider = RESOURCES[speaks](address).provider()
        with pytest.raises(ProviderError) as caught:  # where nothing is uploaded, the listing is asked
            provider.upload(lines, lines.name)
        provider.close()
    assert "<html>Please" in caught.value.message
