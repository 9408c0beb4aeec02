"""What a JSON schema asks for, property by property, as far as this server can give it.

The server sees the request a reader would see, and reads it the same way: a label's description stands beside
the label in the schema, or in a ``- label: description`` line of the property's description or the instruction.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .wire import UNSUPPORTED, RefusalError, is_array, is_object

_BULLET = re.compile(r"^\s*[-*\u2022]\s+(.*\S)\s*$")
_MAX_DEPTH = 16
_MAX_LABELS = 1000
_NO_SENTENCE = ("pattern", "format")


@dataclass(frozen=True)
class Label:
    """A value of an enum and what it was said to mean; empty if nothing was said."""

    value: str
    description: str = ""

    @property
    def text(self) -> str:
        """What the row's text is compared with."""
        return f"{self.value}: {self.description}" if self.description else self.value


@dataclass(frozen=True)
class LabelProperty:
    """A property whose value is one of some labels."""

    name: str
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class SentenceProperty:
    """A property whose value is the first sentence of the row's text."""

    name: str
    min_length: int = 0
    max_length: int | None = None


@dataclass(frozen=True)
class NullProperty:
    """A property that can only be null."""

    name: str


Property = LabelProperty | SentenceProperty | NullProperty


@dataclass
class _Seen:
    """What the branches of one property's schema allow, gathered while walking it."""

    labels: dict[str, str] = field(default_factory=dict[str, str])
    descriptions: list[str] = field(default_factory=list[str])
    strings: list[Mapping[str, object]] = field(default_factory=list[Mapping[str, object]])
    null: bool = False
    unsupported: str = ""


def read_properties(schema: Mapping[str, object], instruction: str) -> tuple[Property, ...]:
    """The properties of an object schema, in its order.

    Args:
        schema: JSON schema of the answer.
        instruction: Text that may describe the labels in lines of the form ``- label: description``.

    Raises:
        RefusalError: The schema is not one of an object, or a property is of a type that can't be answered here.
    """
    root = _resolve(schema, schema)
    properties = root.get("properties")
    if root.get("type", "object") != "object" or not is_object(properties) or not properties:
        raise _refused("the schema has to be an object with at least one property")
    return tuple(_read_property(str(name), part, schema, instruction) for name, part in properties.items())


def _read_property(name: str, part: object, root: Mapping[str, object], instruction: str) -> Property:
    seen = _Seen()
    _walk(part, root, seen, depth=0)
    if seen.unsupported:
        raise _refused(f"property {name!r} is of type {seen.unsupported}; only strings and string enums are answered")
    if seen.labels:
        return LabelProperty(name, _described(seen, instruction))
    if seen.strings:
        return _sentence(name, seen.strings[0])
    if seen.null:
        return NullProperty(name)
    raise _refused(f"property {name!r} has no type; only strings and string enums are answered")


def _walk(part: object, root: Mapping[str, object], seen: _Seen, *, depth: int) -> None:
    if not is_object(part) or depth > _MAX_DEPTH:
        seen.unsupported = "a schema that can't be followed"
        return None
    if isinstance(said := part.get("description"), str):
        seen.descriptions.append(said)
    target = _resolve(part, root)
    if target is not part:
        return _walk(target, root, seen, depth=depth + 1)
    if "const" in part:
        return _add_value(part["const"], said if isinstance(said, str) else "", seen)
    if is_array(values := part.get("enum")):
        for value in values:
            _add_value(value, "", seen)
        return None
    branches = part.get("anyOf", part.get("oneOf", part.get("allOf")))
    # Several allOf parts narrow each other, which would have to be worked out; one is just a wrapper.
    if is_array(branches) and ("allOf" not in part or len(branches) == 1):
        for branch in branches:
            _walk(branch, root, seen, depth=depth + 1)
        return None
    return _add_types(part, seen)


def _add_value(value: object, description: str, seen: _Seen) -> None:
    if value is None:
        seen.null = True
    elif not isinstance(value, str):
        seen.unsupported = f"enum with {_type_name(value)} values"
    elif len(seen.labels) >= _MAX_LABELS:
        seen.unsupported = f"enum with more than {_MAX_LABELS} values"
    elif not seen.labels.get(value):
        seen.labels[value] = description


def _add_types(part: Mapping[str, object], seen: _Seen) -> None:
    kinds = part.get("type")
    for kind in kinds if is_array(kinds) else [kinds]:
        if kind == "string":
            seen.strings.append(part)
        elif kind == "null":
            seen.null = True
        elif kind is not None:
            seen.unsupported = str(kind)[:40]


def _described(seen: _Seen, instruction: str) -> tuple[Label, ...]:
    found = dict(seen.labels)
    # The property's own description is the nearer one, so it is read before the instruction.
    for text in (*seen.descriptions, instruction):
        for label, description in _bullets(text, found):
            if not found[label]:
                found[label] = description
    return tuple(Label(value, description) for value, description in found.items())


def _bullets(text: str, labels: Mapping[str, str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for line in text.splitlines():
        if not (match := _BULLET.match(line)):
            continue
        # A label may hold colons itself, so each colon of the line is tried.
        for colon in re.finditer(":", match[1]):
            label = match[1][: colon.start()].strip().strip("`*\"'")
            if label in labels:
                pairs.append((label, match[1][colon.end() :].strip(" *")))
                break
    return pairs


def _sentence(name: str, part: Mapping[str, object]) -> SentenceProperty:
    for word in _NO_SENTENCE:
        if word in part:
            raise _refused(f"property {name!r} is a string with a {word!r}, which a sentence would not keep to")
    shortest, longest = part.get("minLength"), part.get("maxLength")
    return SentenceProperty(
        name,
        min_length=shortest if isinstance(shortest, int) else 0,
        max_length=max(0, longest) if isinstance(longest, int) else None,
    )


def _resolve(part: Mapping[str, object], root: Mapping[str, object]) -> Mapping[str, object]:
    """Follow one local ``$ref`` (pydantic writes an Enum class as one), or return the part itself."""
    reference = part.get("$ref")
    if reference is None:
        return part
    target: object = root
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise _refused(f"the reference {str(reference)[:80]!r} leaves the schema")
    for step in reference[2:].split("/"):
        target = target.get(step.replace("~1", "/").replace("~0", "~")) if is_object(target) else None
    if not is_object(target):
        raise _refused(f"the reference {reference[:80]!r} leads nowhere")
    return target


def _type_name(value: object) -> str:
    names: Mapping[type[object], str] = {
        bool: "boolean",
        int: "integer",
        float: "number",
        list: "array",
        dict: "object",
    }
    return names.get(type(value), "other")


def _refused(reason: str) -> RefusalError:
    return RefusalError(
        f"The local engine can't answer this schema: {reason}.", code=UNSUPPORTED, param="response_format"
    )
