"""Reading the bodies of ``/v1/chat/completions`` and ``/v1/embeddings``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .minilm import DIMENSIONS
from .schema import Property, read_properties
from .wire import UNSUPPORTED, RefusalError, is_array, is_object

_MAX_INPUTS = 2048
_ROLES_OF_INSTRUCTION = ("system", "developer")


@dataclass(frozen=True)
class EmbeddingPlan:
    """Texts to turn into vectors of some length."""

    texts: tuple[str, ...]
    dimensions: int
    as_base64: bool


@dataclass(frozen=True)
class ChatPlan:
    """A text to answer about.

    Attributes:
        text: The last user message.
        prompt: All messages, for counting tokens.
        properties: What the JSON answer has to hold; None for a plain text answer.
        identity: What the answer's id is made from.
    """

    text: str
    prompt: tuple[str, ...]
    properties: tuple[Property, ...] | None
    identity: bytes


Plan = EmbeddingPlan | ChatPlan


def read_body(body: Mapping[str, object], *, embedding: bool) -> Plan:
    """Say what a body asks for.

    Raises:
        RefusalError: It is malformed, or it asks for something that can't be answered here.
    """
    if not isinstance(body.get("model"), str):
        raise RefusalError("You must provide a model parameter.", code="missing_required_parameter", param="model")
    return _read_embedding(body) if embedding else _read_chat(body)


def _read_embedding(body: Mapping[str, object]) -> EmbeddingPlan:
    given = body.get("input")
    texts = [given] if isinstance(given, str) else given
    if not is_array(texts) or not texts or len(texts) > _MAX_INPUTS:
        raise RefusalError(f"'input' has to be a text or a list of 1 to {_MAX_INPUTS} texts.", param="input")
    strings = tuple(text for text in texts if isinstance(text, str))
    if len(strings) < len(texts):
        raise _unsupported("'input' holds something else than texts (token numbers are not read here)", "input")
    if "" in strings:
        raise RefusalError("'input' can't be an empty text.", param="input")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise RefusalError("'encoding_format' has to be 'float' or 'base64'.", param="encoding_format")
    dimensions = body.get("dimensions", DIMENSIONS)
    if dimensions is None:
        dimensions = DIMENSIONS
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= DIMENSIONS:
        raise RefusalError(f"'dimensions' has to be a whole number from 1 to {DIMENSIONS}.", param="dimensions")
    return EmbeddingPlan(strings, dimensions, encoding == "base64")


def _read_chat(body: Mapping[str, object]) -> ChatPlan:
    _refuse_features(body)
    messages = body.get("messages")
    if not is_array(messages) or not messages:
        raise RefusalError("'messages' has to be a list with at least one message.", param="messages")
    turns = [_read_message(message) for message in messages]
    asked = [text for role, text in turns if role == "user"]
    if not asked or not asked[-1].strip():
        raise RefusalError("There is no text in the last user message.", param="messages")
    instruction = "\n".join(text for role, text in turns if role in _ROLES_OF_INSTRUCTION)
    return ChatPlan(
        text=asked[-1],
        prompt=tuple(text for _, text in turns),
        properties=_read_format(body.get("response_format"), instruction),
        identity=json.dumps(body, sort_keys=True).encode(),
    )


def _refuse_features(body: Mapping[str, object]) -> None:
    for name in ("tools", "functions", "audio", "logprobs", "stream", "web_search_options"):
        if body.get(name):
            raise _unsupported(f"it has no {name!r}", name)
    choices = body.get("n")
    if choices is not None and (isinstance(choices, bool) or choices != 1):
        raise _unsupported("there is one answer ('n' has to be 1)", "n")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise _unsupported("answers are text ('modalities')", "modalities")


def _read_message(message: object) -> tuple[str, str]:
    role = message.get("role") if is_object(message) else None
    if not is_object(message) or not isinstance(role, str):
        raise RefusalError("Every message has to be an object with a role.", param="messages")
    content = message.get("content")
    if content is None:
        return role, ""
    if isinstance(content, str):
        return role, content
    if not is_array(content):
        raise RefusalError("A message's content has to be a text or a list of parts.", param="messages")
    return role, "\n".join(_read_parts(content))


def _read_parts(parts: Sequence[object]) -> list[str]:
    texts: list[str] = []
    for part in parts:
        kind = part.get("type") if is_object(part) else None
        text = part.get("text") if is_object(part) else None
        if kind != "text" or not isinstance(text, str):
            raise _unsupported(f"message parts of type {str(kind)[:40]!r} are not read, only 'text'", "messages")
        texts.append(text)
    return texts


def _read_format(wanted: object, instruction: str) -> tuple[Property, ...] | None:
    if wanted is None:
        return None
    kind = wanted.get("type") if is_object(wanted) else None
    if kind == "text":
        return None
    holder = wanted.get("json_schema") if is_object(wanted) else None
    schema = holder.get("schema") if is_object(holder) else None
    if kind != "json_schema":
        raise _unsupported(f"'response_format' of type {str(kind)[:40]!r} names no properties", "response_format")
    if not is_object(schema):
        raise RefusalError("'response_format.json_schema.schema' has to be an object.", param="response_format")
    return read_properties(schema, instruction)


def _unsupported(reason: str, param: str) -> RefusalError:
    return RefusalError(f"The local engine can't answer this: {reason}.", code=UNSUPPORTED, param=param)
