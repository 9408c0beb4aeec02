"""Answers that need no model: of the declared shape, the same every time, and steered by the row's own text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..answer import CHAT, EMBEDDINGS
from ..sentence import first_sentence
from ..wire import Answer
from .memory import prompt_of

_DIMENSIONS = 8
RESPONSES, MODERATIONS = "/v1/responses", "/v1/moderations"


class SampleEngine:
    """Picks the listed value whose name is in the prompt, else the first; 0, false, [] and first sentences besides."""

    @property
    def endpoints(self) -> frozenset[str]:
        return frozenset({CHAT, EMBEDDINGS, RESPONSES, MODERATIONS})

    @property
    def models(self) -> tuple[str, ...]:
        return ("emulator",)

    def answer(self, bodies: Sequence[Mapping[str, object]], endpoint: str) -> list[Answer]:
        """One answer per body, in order."""
        return [Answer(200, _ANSWERS[endpoint](body)) for body in bodies]


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


def _response(body: Mapping[str, Any]) -> Mapping[str, object]:
    """A chat's answer, as the Responses API writes it."""
    wanted: Mapping[str, Mapping[str, Any]] = body.get("text") or {}
    text = wanted.get("format") or {}
    asked: dict[str, Any] = {**body, "messages": [{"role": "user", "content": body.get("input", "")}]}
    if "schema" in text:
        asked["response_format"] = {"json_schema": {"schema": text["schema"]}}
    said: Mapping[str, Any] = _completion(asked)
    used = said["usage"]
    part: dict[str, Any] = {"type": "output_text", "text": said["choices"][0]["message"]["content"], "annotations": []}
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    return {
        "id": "resp_1",
        "object": "response",
        "status": "completed",
        "model": said["model"],
        "incomplete_details": None,
        "error": None,
        "output": [{"id": "rs_1", "type": "reasoning", "summary": list[str]()}, message],
        "usage": {
            "input_tokens": used["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": used["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": used["total_tokens"],
        },
    }


def _verdict(body: Mapping[str, Any]) -> Mapping[str, object]:
    """A text that names a category falls into it."""
    prompt = prompt_of(body)
    found = {category: category in prompt for category in ("hate", "violence")}
    scores = {category: 0.9 if hit else 0.1 for category, hit in found.items()}
    result = {"flagged": any(found.values()), "categories": found, "category_scores": scores}
    return {"id": "modr-1", "model": str(body.get("model")), "results": [result]}


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


_ANSWERS: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, object]]] = {
    CHAT: _completion,
    EMBEDDINGS: _vector,
    RESPONSES: _response,
    MODERATIONS: _verdict,
}
