"""all-MiniLM-L6-v2 in plain numpy: text in, unit vector out.

The network is a BERT encoder of 6 layers; the vector is the mean over its tokens, scaled to length 1. Written
out here because torch and its CUDA libraries weigh gigabytes and the weights weigh 90 MB.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]
from tokenizers import Tokenizer

from .weights import TOKENIZER_FILE, WEIGHTS_FILE
from .wire import clean_text

Floats = npt.NDArray[np.float32]

DIMENSIONS = 384
MAX_TOKENS = 256

_HEADS = 12
_HEAD_SIZE = DIMENSIONS // _HEADS
_EPSILON = np.float32(1e-12)
# 256 tokens a batch was the fastest of 256, 512 and 1024: its 1.5 MB of inner values stay in the cache.
_BATCH_TOKENS = 256
_GELU_ROWS = 64
_CACHE_ENTRIES = 20_000
_MASKED = np.float32(-1e9)


@dataclass(frozen=True)
class Encoded:
    """One text's vector and how many tokens the whole text has."""

    vector: Floats
    tokens: int


class MiniLM:
    """The encoder, loaded once; safe to call from several threads.

    Args:
        folder: What `find_weights` returned.
        threads: Batches computed at the same time; numpy lets go of the interpreter lock inside its loops.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        # The file asks for padding and a cut at 128 tokens; both are done here, as the published model does them.
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._network = _Network.from_tensors(load_file(folder / WEIGHTS_FILE))
        self._pool = ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1), thread_name_prefix="minilm")
        self._cache: OrderedDict[bytes, Encoded] = OrderedDict()
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Floats:
        """Vectors of length 1, one row per text.

        Args:
            texts: Any number of texts; only the first 256 tokens of each are read.

        Returns:
            An array of shape ``(len(texts), 384)``.
        """
        if not texts:
            return np.zeros((0, DIMENSIONS), dtype=np.float32)
        return np.stack([encoded.vector for encoded in self.encode(texts)])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens the tokenizer makes of each text, without the two marks around it."""
        encodings = self._tokenizer.encode_batch_fast([clean_text(text) for text in texts], add_special_tokens=False)
        return [len(encoding.ids) for encoding in encodings]

    def encode(self, texts: Sequence[str]) -> list[Encoded]:
        """Vector and token count of each text, from memory where the same text was seen before."""
        cleaned = [clean_text(text) for text in texts]
        keys = [hashlib.sha256(text.encode()).digest() for text in cleaned]
        with self._lock:
            found = {key: self._cache[key] for key in keys if key in self._cache}
            missing = {key: text for key, text in zip(keys, cleaned, strict=True) if key not in found}
            found.update(zip(missing, self._compute(list(missing.values())), strict=True))
            for key in keys:
                self._cache[key] = found[key]
                self._cache.move_to_end(key)
            while len(self._cache) > _CACHE_ENTRIES:
                self._cache.popitem(last=False)
        return [found[key] for key in keys]

    @property
    def remembered(self) -> int:
        """How many texts' vectors are in memory; 20,000 at most, which is 40 MB."""
        return len(self._cache)

    def _compute(self, texts: list[str]) -> list[Encoded]:
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]
        cut = [row if len(row) <= MAX_TOKENS else [*row[: MAX_TOKENS - 1], row[-1]] for row in ids]
        # Neighbours in length share a batch, so that little is computed for padding.
        groups = _group(sorted(range(len(cut)), key=lambda index: len(cut[index])), cut)
        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        results = self._pool.map(self._network.forward, [[cut[index] for index in group] for group in groups])
        for group, result in zip(groups, results, strict=True):
            vectors[group] = result
        return [Encoded(vectors[index], len(row) - 2) for index, row in enumerate(ids)]


def _group(order: Sequence[int], rows: Sequence[Sequence[int]]) -> list[list[int]]:
    groups: list[list[int]] = []
    for index in order:
        if not groups or (len(groups[-1]) + 1) * len(rows[index]) > _BATCH_TOKENS:
            groups.append([])
        groups[-1].append(index)
    return groups


@dataclass(frozen=True)
class _Dense:
    weight: Floats
    bias: Floats

    def __call__(self, flat: Floats) -> Floats:
        out = flat @ self.weight
        out += self.bias
        return out


@dataclass(frozen=True)
class _Norm:
    weight: Floats
    bias: Floats

    def __call__(self, flat: Floats) -> Floats:
        centred = flat - flat.mean(axis=-1, keepdims=True)
        variance = np.einsum("ij,ij->i", centred, centred)[:, None] / np.float32(flat.shape[-1])
        centred /= np.sqrt(variance + _EPSILON)
        centred *= self.weight
        centred += self.bias
        return centred


@dataclass(frozen=True)
class _Layer:
    query_key_value: _Dense
    attended: _Dense
    attended_norm: _Norm
    inner: _Dense
    outer: _Dense
    outer_norm: _Norm

    def __call__(self, flat: Floats, bias: Floats | None, shape: tuple[int, int]) -> Floats:
        flat = self.attended_norm(flat + self.attended(self._attend(flat, bias, shape)))
        return self.outer_norm(flat + self.outer(_gelu(self.inner(flat))))

    def _attend(self, flat: Floats, bias: Floats | None, shape: tuple[int, int]) -> Floats:
        rows, length = shape
        parts = self.query_key_value(flat).reshape(rows, length, 3, _HEADS, _HEAD_SIZE)
        query, key, value = (parts[:, :, part].transpose(0, 2, 1, 3) for part in range(3))
        scores: Floats = query @ key.transpose(0, 1, 3, 2)
        if bias is not None:
            scores += bias
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        mixed: Floats = scores @ value
        return mixed.transpose(0, 2, 1, 3).reshape(rows * length, DIMENSIONS)


@dataclass(frozen=True)
class _Network:
    words: Floats
    positions: Floats
    first_norm: _Norm
    layers: tuple[_Layer, ...]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Floats]) -> _Network:
        def dense(name: str) -> _Dense:
            return _Dense(np.ascontiguousarray(tensors[f"{name}.weight"].T), tensors[f"{name}.bias"])

        def norm(name: str) -> _Norm:
            return _Norm(tensors[f"{name}.LayerNorm.weight"], tensors[f"{name}.LayerNorm.bias"])

        def layer(name: str) -> _Layer:
            query, key, value = (dense(f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
            # Scaling the query once here saves scaling every score later.
            scale = np.float32(_HEAD_SIZE**-0.5)
            weight = np.concatenate([query.weight * scale, key.weight, value.weight], axis=1)
            bias = np.concatenate([query.bias * scale, key.bias, value.bias])
            return _Layer(
                query_key_value=_Dense(weight, bias),
                attended=dense(f"{name}.attention.output.dense"),
                attended_norm=norm(f"{name}.attention.output"),
                inner=dense(f"{name}.intermediate.dense"),
                outer=dense(f"{name}.output.dense"),
                outer_norm=norm(f"{name}.output"),
            )

        return cls(
            words=tensors["embeddings.word_embeddings.weight"],
            # Every token is of type 0, so that row joins the positions.
            positions=tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0],
            first_norm=norm("embeddings"),
            layers=tuple(layer(f"encoder.layer.{number}") for number in range(6)),
        )

    def forward(self, rows: Sequence[Sequence[int]]) -> Floats:
        lengths = np.array([len(row) for row in rows])
        longest = int(lengths.max())
        ids = np.zeros((len(rows), longest), dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
        real = np.arange(longest) < lengths[:, None]
        bias = None if real.all() else np.where(real, np.float32(0), _MASKED)[:, None, None, :]
        # Two-dimensional from here on: one large matrix product is several times faster than many small ones.
        flat = (self.words[ids] + self.positions[:longest]).reshape(-1, DIMENSIONS)
        flat = self.first_norm(flat)
        for layer in self.layers:
            flat = layer(flat, bias, (len(rows), longest))
        weights = (real / lengths[:, None]).astype(np.float32)
        mean = np.einsum("bl,bld->bd", weights, flat.reshape(len(rows), longest, DIMENSIONS))
        return unit(mean)


def unit(vectors: Floats) -> Floats:
    """Scale each row to length 1; a row of zeros stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return (vectors / np.maximum(length, _EPSILON)).astype(np.float32, copy=False)


def _gelu(values: Floats) -> Floats:
    """``x * Phi(x)`` in place, in blocks that stay in the processor's cache (2 times faster than at once)."""
    for start in range(0, len(values), _GELU_ROWS):
        block = values[start : start + _GELU_ROWS]
        block *= _normal_cdf(block)
    return values


def _normal_cdf(values: Floats) -> Floats:
    """Phi by formula 26.2.17 of Abramowitz and Stegun, off by less than 7.5e-8: numpy has no erf."""
    size = np.abs(values)
    step = 1 / (1 + np.float32(0.2316419) * size)
    tail = step * np.float32(1.330274429)
    for factor in (-1.821255978, 1.781477937, -0.356563782, 0.319381530):
        tail += np.float32(factor)
        tail *= step
    size *= size
    size *= np.float32(-0.5)
    np.exp(size, out=size)
    tail *= size
    tail *= np.float32(0.3989422804)
    return np.where(values > 0, 1 - tail, tail)
