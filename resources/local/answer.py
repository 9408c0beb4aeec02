"""Answers to requests without a network: nearest label, first sentence, sentence vector.

Pure functions of the requests. A request that can't be answered honestly gets an error with the reason, and no
request makes another one fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from .body import ChatPlan, EmbeddingPlan, Plan, read_body
from .minilm import DIMENSIONS, Encoded, Floats, unit
from .schema import Label, LabelProperty, SentenceProperty
from .sentence import first_sentence
from .wire import Answer, RefusalError, error_body

CHAT = "/v1/chat/completions"
EMBEDDINGS = "/v1/embeddings"

EMBEDDING_NAME = "all-MiniLM-L6-v2"
LABEL_NAME = "all-MiniLM-L6-v2/nearest-label"
SENTENCE_NAME = "first-sentence"


class Encoder(Protocol):
    """What the answers need of `MiniLM`."""

    def encode(self, texts: Sequence[str]) -> Sequence[Encoded]: ...

    def count_tokens(self, texts: Sequence[str]) -> Sequence[int]: ...


class EngineAwayError(Exception):
    """What answers is not there at the moment; no row is to blame, and the batch waits."""


class Engine(Protocol):
    """Something that answers the bodies of requests: this machine, or a server behind it."""

    @property
    def endpoints(self) -> frozenset[str]:
        """The paths whose requests it answers."""
        ...

    @property
    def models(self) -> tuple[str, ...]:
        """What ``GET /v1/models`` lists."""
        ...

    def answer(self, bodies: Sequence[Mapping[str, object]], endpoint: str) -> Sequence[Answer]:
        """One answer per body, in order."""
        ...


class LocalEngine:
    """Answers from all-MiniLM-L6-v2 and the first sentence; generates nothing.

    Args:
        encoder: Makes vectors and counts tokens.
        now: Unix seconds, for the ``created`` field.
    """

    def __init__(self, encoder: Encoder, now: Callable[[], float] = time.time) -> None:
        self._encoder = encoder
        self._now = now
        # An instruction is the same in every row, so its tokens are counted once.
        self._count = lru_cache(maxsize=16)(self._count_afresh)

    @property
    def endpoints(self) -> frozenset[str]:
        return frozenset({CHAT, EMBEDDINGS})

    @property
    def models(self) -> tuple[str, ...]:
        return (EMBEDDING_NAME, LABEL_NAME, SENTENCE_NAME)

    def answer(self, bodies: Sequence[Mapping[str, object]], endpoint: str) -> list[Answer]:
        """Answer each body; an unanswerable one is answered with status 400 and the reason."""
        plans = [_plan(body, endpoint) for body in bodies]
        wanted = dict.fromkeys(text for plan in plans if not isinstance(plan, Answer) for text in _texts(plan))
        encoded = dict(zip(wanted, self._encoder.encode(list(wanted)), strict=True)) if wanted else {}
        return [plan if isinstance(plan, Answer) else self._render(plan, encoded) for plan in plans]

    def _count_afresh(self, text: str) -> int:
        return self._encoder.count_tokens([text])[0]

    def _render(self, plan: Plan, encoded: Mapping[str, Encoded]) -> Answer:
        try:
            if isinstance(plan, EmbeddingPlan):
                return Answer(200, _embeddings(plan, [encoded[text] for text in plan.texts]))
            return Answer(200, self._completion(plan, encoded))
        except RefusalError as refusal:
            return refusal.answer()

    def _completion(self, plan: ChatPlan, encoded: Mapping[str, Encoded]) -> Mapping[str, object]:
        if plan.properties is None:
            content = first_sentence(plan.text)
        else:
            content = json.dumps(_object(plan, encoded), ensure_ascii=False)
        prompt = sum(encoded[text].tokens if text in encoded else self._count(text) for text in plan.prompt)
        used = _Used(prompt, self._encoder.count_tokens([content])[0])
        message: Mapping[str, object] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        return {
            "id": f"chatcmpl-{hashlib.sha256(plan.identity).hexdigest()[:24]}",
            "object": "chat.completion",
            "created": int(self._now()),
            "model": LABEL_NAME if _labelled(plan) else SENTENCE_NAME,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": used.chat(),
        }


@dataclass(frozen=True)
class _Used:
    prompt: int
    completion: int

    def chat(self) -> Mapping[str, int]:
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
        }


def _plan(body: Mapping[str, object], endpoint: str) -> Plan | Answer:
    try:
        return read_body(body, embedding=endpoint == EMBEDDINGS)
    except RefusalError as refusal:
        return refusal.answer()
    except RecursionError:
        return Answer(400, error_body("The request is nested too deeply.", status=400, code="invalid_request"))


def _labelled(plan: ChatPlan) -> bool:
    return any(isinstance(prop, LabelProperty) for prop in plan.properties or ())


def _texts(plan: Plan) -> Iterable[str]:
    if isinstance(plan, EmbeddingPlan):
        yield from plan.texts
    elif _labelled(plan):
        yield plan.text
        for prop in plan.properties or ():
            if isinstance(prop, LabelProperty):
                yield from (label.text for label in prop.labels)


def _object(plan: ChatPlan, encoded: Mapping[str, Encoded]) -> Mapping[str, str | None]:
    values: dict[str, str | None] = {}
    for prop in plan.properties or ():
        if isinstance(prop, LabelProperty):
            values[prop.name] = _nearest(encoded[plan.text].vector, prop.labels, encoded)
        elif isinstance(prop, SentenceProperty):
            values[prop.name] = _bounded_sentence(plan.text, prop)
        else:
            values[prop.name] = None
    return values


def _nearest(vector: Floats, labels: Sequence[Label], encoded: Mapping[str, Encoded]) -> str:
    """The label whose text is nearest by cosine; all vectors are of length 1."""
    matrix = np.stack([encoded[label.text].vector for label in labels])
    return labels[int(np.argmax(matrix @ vector))].value


def _bounded_sentence(text: str, prop: SentenceProperty) -> str:
    sentence = first_sentence(text)[: prop.max_length]
    if len(sentence) < prop.min_length:
        raise RefusalError(
            f"The first sentence is shorter than property {prop.name!r} allows.", param="response_format"
        )
    return sentence


def _embeddings(plan: EmbeddingPlan, encoded: Sequence[Encoded]) -> Mapping[str, object]:
    vectors = np.stack([one.vector for one in encoded])
    if plan.dimensions < DIMENSIONS:
        vectors = unit(vectors[:, : plan.dimensions])
    tokens = sum(one.tokens for one in encoded)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _written(vector, plan.as_base64)}
            for index, vector in enumerate(vectors)
        ],
        "model": EMBEDDING_NAME,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _written(vector: Floats, as_base64: bool) -> object:
    if as_base64:
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
