"""What holds for every provider's resource."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from dagster_batch_llm.resources import BatchResource, DoublewordBatch, OpenAIBatch, OpenAICompatibleBatch
from dagster_batch_llm.resources.errors import MissingSecretError, UserError

ADDRESS = "https://h/v1"
Kind = Callable[..., BatchResource]
VARIABLES: dict[Kind, str] = {
    OpenAIBatch: "OPENAI_API_KEY",
    DoublewordBatch: "DOUBLEWORD_API_KEY",
    OpenAICompatibleBatch: "BATCH_SERVER_KEY",
}
PAID: list[Kind] = [OpenAIBatch, DoublewordBatch]

every = pytest.mark.parametrize("kind", VARIABLES)


@every
@pytest.mark.parametrize("key", ["  ", "\n"])
def test_a_missing_key_is_told_before_anything_is_sent(kind: Kind, key: str) -> None:
    with pytest.raises(MissingSecretError, match=VARIABLES[kind]):
        kind(api_key=key, base_url=ADDRESS).provider()


@pytest.mark.parametrize("kind", PAID)
def test_a_service_is_not_asked_without_a_key(kind: Kind) -> None:
    with pytest.raises(MissingSecretError, match=VARIABLES[kind]):
        kind(api_key="").provider()


@every
@pytest.mark.parametrize("key", ["sk-ä", "sk\nx", "sk\x00x"])
def test_a_key_that_can_not_be_sent_is_told(kind: Kind, key: str) -> None:
    with pytest.raises(MissingSecretError, match=VARIABLES[kind]) as caught:
        kind(api_key=key, base_url=ADDRESS).provider()
    assert key not in caught.value.message


@every
def test_a_key_may_end_its_line(kind: Kind) -> None:
    assert kind(api_key=" sk-key\n", base_url=ADDRESS).provider().account == ADDRESS


@every
def test_an_address_is_one_account_however_it_ends(kind: Kind) -> None:
    accounts = {kind(api_key="k", base_url=url).provider().account for url in (ADDRESS, f"{ADDRESS}/")}
    assert accounts == {ADDRESS}


@every
@pytest.mark.parametrize("base_url", ["127.0.0.1:8090/v1", "api.test/v1", "", "https://"])
def test_an_address_without_a_scheme_is_told_before_anything_is_sent(kind: Kind, base_url: str) -> None:
    with pytest.raises(UserError, match="is not an address; write it as https://host/v1"):
        kind(api_key="k", base_url=base_url).provider()


@every
@pytest.mark.parametrize(("wanted", "rows"), [(None, 50_000), (10, 10), (1, 1), (10**9, 50_000)])
def test_batches_can_be_made_smaller_but_not_larger(kind: Kind, wanted: int | None, rows: int) -> None:
    made = kind(api_key="k", base_url=ADDRESS, max_rows_per_batch=wanted)
    assert made.provider().profile.max_rows == rows


@every
@pytest.mark.parametrize("wanted", [0, -1])
def test_a_batch_has_at_least_one_row(kind: Kind, wanted: int) -> None:
    with pytest.raises(UserError, match="max_rows_per_batch"):
        kind(api_key="k", base_url=ADDRESS, max_rows_per_batch=wanted).provider()
