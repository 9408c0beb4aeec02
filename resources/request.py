"""The provider-neutral request: everything that is asked except a row's own text.

Two assets whose `RequestSpec` is equal share a task, and so their answers, whatever they are called.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, NewType, cast

TaskHash = NewType("TaskHash", str)


LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
"""Parameters that bound an answer, in tokens, at one provider or another."""

BYTES_PER_TOKEN = 4
"""Of UTF-8: within a few percent for English and JSON; long numbers have more tokens than that says."""

MAX_TRIES = 3
"""Answers that came back unusable this often make a request final, unless its table says otherwise."""
MAX_DOUBLINGS = 6
"""Of an output limit: tries and retries may be many, and no model writes that much."""


@dataclass(frozen=True)
class Room:
    """How much more room an answer may get that was cut off.

    Attributes:
        doublings: How often the task's limit may be doubled; never where it sets none.
        is_all: Whether the provider has refused more, so that what was cut off with all of it is final.
    """

    doublings: int = 0
    is_all: bool = False


class Operation(StrEnum):
    """Which kind of endpoint answers a request."""

    CHAT = "chat"
    EMBEDDING = "embedding"
    MODERATION = "moderation"


@dataclass(frozen=True)
class RequestSpec:
    """One task: the part of a request that all rows share.

    Attributes:
        operation: Chat (one text or JSON answer per row), embedding (one vector per row) or moderation (a verdict).
        model: The provider's name of the model.
        instruction: System message; empty for none.
        schema: JSON schema that an answer must satisfy; None for free text and for embeddings.
        parameters: Sent as they are beside the messages, such as ``{"max_completion_tokens": 50}``.
        dimensions: Length of an embedding; None for the model's own.
    """

    operation: Operation
    model: str
    instruction: str = ""
    schema: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    dimensions: int | None = None

    def to_json(self) -> str:
        """Canonical JSON: equal specs give equal text; a schema's properties keep the order they are answered in."""
        return json.dumps(_canonical(asdict(self)), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> RequestSpec:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        fields["operation"] = Operation(fields["operation"])
        return cls(**fields)

    @property
    def task(self) -> TaskHash:
        """sha256 of the canonical JSON, 64 hexadecimal characters."""
        return TaskHash(hashlib.sha256(self.to_json().encode()).hexdigest())

    @property
    def limit(self) -> int | None:
        """The longest answer in tokens that the parameters allow; None for the model's own end."""
        return min((self.parameters[name] for name in LIMITS if is_count(self.parameters.get(name))), default=None)

    def enlarged(self, factor: int) -> RequestSpec:
        """The same question with room for longer answers: no other task, but another request body."""
        larger = {name: self.parameters[name] * factor for name in LIMITS if is_count(self.parameters.get(name))}
        return replace(self, parameters={**self.parameters, **larger})


def is_of_limit(refusal: str) -> bool:
    """Whether a provider's words speak of how long an answer may be."""
    words = refusal.lower().replace("_", " ")
    return any(name.replace("_", " ") in words for name in (*LIMITS, "context length", "context window"))


def is_count(value: Any) -> bool:
    """Whether a limit is a number of tokens."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _canonical(value: Any) -> Any:
    """The same JSON with sorted keys, except for the names in a schema's ``properties``."""
    if isinstance(value, Mapping):
        keys: list[tuple[str, Any]] = sorted(cast("Mapping[str, Any]", value).items())
        return {key: _each(part) if key == "properties" else _canonical(part) for key, part in keys}
    if isinstance(value, list | tuple):
        return [_canonical(part) for part in cast("Sequence[Any]", value)]
    return value


def _each(properties: Any) -> Any:
    if not isinstance(properties, Mapping):
        return _canonical(properties)
    return {name: _canonical(part) for name, part in cast("Mapping[str, Any]", properties).items()}


def request_key_sql(prompt: str) -> str:
    """SQL for a row's request key, given SQL for its prompt; the task's hash is bound as ``$task``."""
    return f"sha256($task || chr(10) || {prompt})"
