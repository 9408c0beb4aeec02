from __future__ import annotations

import pytest
from dagster_batch_llm.resources import OpenAIBatch
from dagster_batch_llm.resources.errors import MissingSecretError, UserError


@pytest.mark.parametrize("key", ["", "  ", "\n"])
def test_a_missing_key_is_told_before_anything_is_sent(key: str) -> None:
    with pytest.raises(MissingSecretError, match="OPENAI_API_KEY"):
        OpenAIBatch(api_key=key).provider()


def test_a_key_may_end_its_line() -> None:
    OpenAIBatch(api_key=" sk-key\n").provider()


def test_an_address_is_one_account_however_it_ends() -> None:
    accounts = {OpenAIBatch(api_key="k", base_url=url).provider().account for url in ("https://h/v1", "https://h/v1/")}
    assert accounts == {"https://h/v1"}


def test_batches_can_be_made_smaller_but_not_larger() -> None:
    for wanted, rows in ((None, 50_000), (10, 10), (1, 1), (10**9, 50_000)):
        assert OpenAIBatch(api_key="k", max_rows_per_batch=wanted).provider().profile.max_rows == rows


@pytest.mark.parametrize("wanted", [0, -1])
def test_a_batch_has_at_least_one_row(wanted: int) -> None:
    with pytest.raises(UserError, match="max_rows_per_batch"):
        OpenAIBatch(api_key="k", max_rows_per_batch=wanted).provider()


@pytest.mark.parametrize("key", ["sk-ä", "sk\nx", "sk\x00x"])
def test_a_key_that_can_not_be_sent_is_told(key: str) -> None:
    with pytest.raises(MissingSecretError, match="OPENAI_API_KEY") as caught:
        OpenAIBatch(api_key=key).provider()
    assert key not in caught.value.message
