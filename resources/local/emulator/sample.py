"""Answers that need no model: of the declared shape, the same every time, and steered by the row's own text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..answer import CHAT, EMBEDDINGS
from ..sentence import first_sentence
from ..wire import Answer
from .memory import prompt_of

_DIMENSIONS = 8


class SampleEngine:
    """Picks the listed value whose name is in the prompt, else the first; 0, false, [] and first sentences besides."""

    @property
    def endpoints(self) -> frozenset[str]:
        return frozenset({CHAT, EMBEDDINGS})

    @property
    def models(self) -> tuple[str, ...]:
        return ("emulator",)

    def answer(self, bodies: Sequence[Mapping[str, object]], endpoint: str) -> list[Answer]:
        """One answer per body, in order."""
        return [Answer(200, _vector(body) if endpoint == EMBEDDINGS else _completion(body)) for body in bodies]


def _completion(body: Mapping[str, Any]) -> Mapping[str, object]:
    prompt = prompt_of(body)
    wanted: Mapping[str, Any] = body.get("response_format") or {}
    holder: Mapping[str, Any] = wanted.get("json_schema") or {}
    content = json.dumps(_value(holder["schema"], prompt)) if holder else first_sentence(prompt)
    words = len(prompt.split()), len(content.split())
    message = {"role": "assistant", "content": content, "refusal": None}
    return {
        "id": f"chatcmpl-{hashlib.sha256(prompt.encode('utf-8', 'surrogatepass')).hexdigest()[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": str(body.get("model")),
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": words[0], "completion_tokens": words[1], "total_tokens": sum(words)},
    }


def _vector(body: Mapping[str, Any]) -> Mapping[str, object]:
    prompt = prompt_of(body)
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).digest()
    count = int(body.get("dimensions") or _DIMENSIONS)
    vector = [digest[n % len(digest)] / 256 - 0.5 for n in range(count)]
    used = {"prompt_tokens": len(prompt.split()), "total_tokens": len(prompt.split())}
    data = [{"object": "embedding", "index": 0, "embedding": vector}]
    return {"object": "list", "data": data, "model": str(body.get("model")), "usage": used}


def _value(schema: Mapping[str, Any], prompt: str) -> object:
    branches: Sequence[Mapping[str, Any]] = schema.get("anyOf", ())
    values: Sequence[object] = schema.get("enum", ())
    if branches:
        return _value(next((one for one in branches if one.get("type") != "null"), branches[0]), prompt)
    if values:
        return next((value for value in values if str(value) in prompt), values[0])
    kinds: str | Sequence[str] | None = schema.get("type")
    kind = kinds if isinstance(kinds, str) else (kinds or ("null",))[0]
    if kind == "object":
        properties: Mapping[str, Mapping[str, Any]] = schema.get("properties", {})
        return {name: _value(one, prompt) for name, one in properties.items()}
    simple: Mapping[str, object] = {"integer": 0, "number": 0.0, "boolean": False, "array": []}
    return first_sentence(prompt) if kind == "string" else simple.get(kind)
