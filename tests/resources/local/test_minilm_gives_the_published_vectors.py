from __future__ import annotations

import numpy as np
import pytest
from dagster_batch_llm.resources.local import find_weights, minilm
from dagster_batch_llm.resources.local.minilm import MiniLM


@pytest.fixture(scope="module")
def encoder() -> MiniLM:
    # One, because numpy was imported without the server's limit on BLAS threads, and theirs are two already.
    return MiniLM(find_weights(), threads=1)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        # Quickstart of sentence-transformers
        (
            ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."],
            [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]],
        ),
        # Example sentences of the model's page on the Hugging Face hub; numbers as a Unity port of it states them
        (
            ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"],
            [[1.0, 0.695, 0.943, 0.257]],
        ),
    ],
)
def test_cosines_are_the_documented_ones(encoder: MiniLM, texts: list[str], expected: list[list[float]]) -> None:
    vectors = encoder.embed(texts)
    found = (vectors @ vectors.T)[: len(expected)]
    np.testing.assert_allclose(found, np.array(expected), atol=6e-4)


def test_neighbours_in_a_batch_do_not_change_a_vector(encoder: MiniLM) -> None:
    texts = [f"text number {n} " + "and some more words " * (n * 5 % 8) for n in range(24)]
    together = encoder.embed(texts)
    alone = MiniLM(find_weights(), threads=1).embed(texts[7:8])
    assert together.shape == (24, 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together[7:8], alone, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def test_only_the_first_256_tokens_are_read_and_all_are_counted(encoder: MiniLM) -> None:
    long = "word " * 300
    np.testing.assert_array_equal(*encoder.embed([long, "word " * 254]))
    assert encoder.count_tokens([long, "word " * 254, ""]) == [300, 254, 0]
    assert encoder.encode([long])[0].tokens == 300


def test_the_memory_of_vectors_is_bounded(encoder: MiniLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minilm, "_CACHE_ENTRIES", 3)
    first = encoder.embed(["a", "b", "c", "d", "e"])
    assert encoder.remembered == 3
    np.testing.assert_allclose(encoder.embed(["e", "a"]), first[[4, 0]], atol=1e-6)


def test_any_text_has_a_vector(encoder: MiniLM) -> None:
    vectors = encoder.embed(["", "\ud800", "\x00\x01", "\u200b" * 1000, "x" * 100_000, "\U0001f600 " * 20])
    assert np.isfinite(vectors).all()
    assert encoder.embed([]).shape == (0, 384)
