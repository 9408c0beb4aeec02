from __future__ import annotations

import inspect
import pickle
import re

import pytest
from dagster_batch_llm import resources
from dagster_batch_llm.resources import errors
from dagster_batch_llm.resources.errors import BatchLLMError, ProviderError

FAMILY = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, BatchLLMError) and kind.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_is_in_the_picture_and_public(kind: type[BatchLLMError]) -> None:
    assert re.search(rf"\b{kind.__name__}\b", errors.__doc__ or "")
    assert kind.__name__ in resources.__all__


@pytest.mark.parametrize("kind", FAMILY)
def test_every_error_survives_a_process_border(kind: type[BatchLLMError]) -> None:
    error = pickle.loads(pickle.dumps(kind("it broke")))
    assert type(error) is kind
    assert (error.message, str(error)) == ("it broke", "it broke")


@pytest.mark.parametrize("kind", [kind for kind in FAMILY if issubclass(kind, ProviderError)])
def test_a_providers_error_keeps_what_it_knows(kind: type[ProviderError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no", status=429, code="slow", retry_after=1.5)))
    assert (error.status, error.code, error.retry_after) == (429, "slow", 1.5)
