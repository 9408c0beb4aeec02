"""The fields of a pydantic model: what is asked of a provider and which column each one becomes.

A model is only read when a table is declared. Answers are checked and read by SQL, so whatever of a model would have
to run in Python for each row, such as a validator, is refused here.
"""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.errors import PydanticUndefinedAnnotation
from pydantic.fields import FieldInfo

from ..resources.duck import literal, quoted
from ..resources.errors import InputError
from ..resources.providers.breaches import path_sql

_SUPPORTED = (
    "Supported are str, int, float, bool, Literal and Enum of strings, another model, and list[…] and Optional[…] "
    "of these."
)
_SCALARS: Mapping[Any, tuple[str, str, str]] = {
    str: ("string", "VARCHAR", "text"),
    int: ("integer", "BIGINT", "whole number"),
    float: ("number", "DOUBLE", "number"),
    bool: ("boolean", "BOOLEAN", "true or false"),
}
_BULLET = re.compile(r"^\s*[-*\u2022]\s+")


@dataclass(frozen=True)
class Kind:
    """What a field's type means to the provider, to DuckDB and to a reader.

    Attributes:
        schema: Strict JSON schema.
        sql_type: DuckDB type.
        words: For the instruction.
        note: What is said of the type itself, such as an enum's docstring.
        inner: The fields of the model in it, if there is one.
    """

    schema: Mapping[str, Any]
    sql_type: str
    words: str
    note: str = ""
    inner: tuple[Field, ...] = ()


@dataclass(frozen=True)
class Field:
    """One field of a model.

    Attributes:
        name: Of the field, and of its column.
        kind: Its type.
        description: What is said of it; lines ``- value: meaning`` say what the values of an enum mean.
    """

    name: str
    kind: Kind
    description: str

    @property
    def schema(self) -> Mapping[str, Any]:
        """Strict JSON schema with the description."""
        return {**self.kind.schema, "description": self.description} if self.description else self.kind.schema

    @property
    def sql(self) -> str:
        """SQL that reads the field from ``answer``, valid JSON, as its type."""
        if self.kind.sql_type == "VARCHAR":
            return f"json_extract_string(answer, {path_sql(self.name)})"
        shape = literal(json.dumps(_shape(self.kind.schema), ensure_ascii=False))
        return f"from_json(json_extract(answer, {path_sql(self.name)}), {shape})"


def fields_of(model: type[BaseModel]) -> tuple[Field, ...]:
    """The fields of a model, in its order.

    Raises:
        InputError: A field can't be asked for or can't become a column.
    """
    return _fields(model, "", ())


def object_schema(fields: Sequence[Field], description: str = "") -> dict[str, Any]:
    """The strict JSON schema of an object with these fields."""
    return {
        "type": "object",
        **({"description": description} if description else {}),
        "properties": {field.name: field.schema for field in fields},
        "required": [field.name for field in fields],
        "additionalProperties": False,
    }


def described(fields: Sequence[Field], where: str = "") -> list[str]:
    """A list of the fields for a system message: what each means, and what it may be."""
    lines: list[str] = []
    for field in fields:
        name = f"{where}{field.name}"
        first, *more = field.description.splitlines() or [""]
        # The type stands before the colon, so that no field is taken for a value of another field's enum.
        lines.append(f"- {name} ({field.kind.words})" + (f": {first}" if first else ""))
        lines += [f"    {_BULLET.sub('', line).strip()}" for line in more if line.strip()]
        inside = f"{name}[]." if field.kind.sql_type.endswith("[]") else f"{name}."
        lines += described(field.kind.inner, inside)
    return lines


def docstring(kind: type[object]) -> str:
    """A class's own docstring."""
    own: str | None = vars(kind).get("__doc__")
    # Python 3.11 gives an Enum without a docstring this one.
    return "" if own is None or own == "An enumeration." else inspect.cleandoc(own)


def _fields(model: type[BaseModel], where: str, inside: tuple[type[BaseModel], ...]) -> tuple[Field, ...]:
    called = where.rstrip(".") or model.__name__
    if model in inside:
        raise InputError(f"{called}: {model.__name__} holds itself, which no table can have a column for.")
    try:
        model.model_rebuild()
    except PydanticUndefinedAnnotation as error:
        raise InputError(
            f"{called}: {model.__name__} has an annotation that is not known at run time ({error.name!r}); import it "
            "outside of `if TYPE_CHECKING`."
        ) from error
    if not model.model_fields:
        raise InputError(f"{called}: {model.__name__} has no fields, so there is nothing to ask for.")
    decorated = model.__pydantic_decorators__
    rules = (decorated.validators, decorated.field_validators, decorated.root_validators, decorated.model_validators)
    in_python = sorted(name for kind in (*rules, decorated.computed_fields) for name in kind)
    if in_python:
        raise InputError(
            f"{called}: {in_python} of {model.__name__} would have to run in Python for every row. Take them out; "
            "check or compute it in an asset downstream."
        )
    found = tuple(_field(name, info, where, (*inside, model)) for name, info in model.model_fields.items())
    names = [field.name.lower() for field in found]
    if inside and (twice := sorted({field.name for field in found if names.count(field.name.lower()) > 1})):
        raise InputError(f"{called}: {twice} differ only in case, which DuckDB doesn't tell apart. Rename one.")
    return found


def _field(name: str, info: FieldInfo, where: str, inside: tuple[type[BaseModel], ...]) -> Field:
    place = f"{where}{name}"
    if info.alias or info.validation_alias:
        raise InputError(f"Field {place} has an alias; name the field as the column is to be called.")
    if info.metadata:
        rules = ", ".join(str(rule) for rule in info.metadata)
        raise InputError(f"Field {place} is constrained by {rules}, which is not checked. Take it out. {_SUPPORTED}")
    kind = _kind(info.annotation, place, inside)
    said = inspect.cleandoc(info.description) if info.description else ""
    return Field(name, kind, "\n".join(filter(None, [said, kind.note])))


def _kind(annotation: Any, place: str, inside: tuple[type[BaseModel], ...]) -> Kind:
    if annotation in _SCALARS:
        kind, sql_type, words = _SCALARS[annotation]
        return Kind({"type": kind}, sql_type, words)
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return _enum([member.value for member in annotation], place, annotation, docstring(annotation))
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        inner = _fields(annotation, f"{place}.", inside)
        columns = ", ".join(f"{quoted(field.name)} {field.kind.sql_type}" for field in inner)
        return Kind(object_schema(inner), f"STRUCT({columns})", "object", docstring(annotation), inner)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        values = [value for value in arguments if value is not None]
        kind = _enum(values, place, annotation)
        return _or_null(kind) if len(values) < len(arguments) else kind
    if origin is list:
        item = _kind(arguments[0], place, inside)
        schema = {"type": "array", "items": item.schema}
        return Kind(schema, f"{item.sql_type}[]", f"list, each {item.words}", item.note, item.inner)
    if origin in (Union, types.UnionType):
        filled = [argument for argument in arguments if argument is not types.NoneType]
        if len(filled) == 1 and len(arguments) == 2:
            return _or_null(_kind(filled[0], place, inside))
    raise _unsupported(place, annotation)


def _enum(values: Sequence[Any], place: str, annotation: Any, note: str = "") -> Kind:
    if not values or not all(isinstance(value, str) for value in values):
        raise _unsupported(place, annotation)
    texts = list(dict.fromkeys(str.__str__(value) for value in values))
    return Kind({"type": "string", "enum": texts}, "VARCHAR", f"one of {', '.join(texts)}", note)


def _or_null(kind: Kind) -> Kind:
    schema = kind.schema if "anyOf" in kind.schema else {"anyOf": [kind.schema, {"type": "null"}]}
    return Kind(schema, kind.sql_type, f"{kind.words}, or null", kind.note, kind.inner)


def _shape(schema: Mapping[str, Any]) -> Any:
    """How DuckDB's from_json is told a type."""
    if "anyOf" in schema:
        return _shape(schema["anyOf"][0])
    if schema["type"] == "object":
        return {name: _shape(part) for name, part in schema["properties"].items()}
    if schema["type"] == "array":
        return [_shape(schema["items"])]
    return next(sql_type for kind, sql_type, _ in _SCALARS.values() if kind == schema["type"])


def _unsupported(place: str, annotation: Any) -> InputError:
    shown = annotation.__name__ if inspect.isclass(annotation) and not get_args(annotation) else str(annotation)
    return InputError(f"Field {place} is of type {shown}, which no answer can become. {_SUPPORTED}")
