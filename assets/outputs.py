"""What a row's answer becomes: typed columns, and the schema that the provider has to keep."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ..resources.errors import InputError
from ..resources.providers.breaches import path_sql
from ..resources.request import Operation
from .fields import Field, described, docstring, fields_of, object_schema


@dataclass(frozen=True)
class Column:
    """One output column.

    Attributes:
        name: Its name in the table.
        sql_type: DuckDB type; ``FLOAT[]`` becomes fixed-size when its length is known.
        sql: SQL over an answer's ``answer`` (text or JSON) and ``vector``.
        description: For the catalogue.
    """

    name: str
    sql_type: str
    sql: str
    description: str = ""


@dataclass(frozen=True)
class Labels:
    """Exactly one of a set of labels.

    Args:
        labels: Label → what it means, or just the labels. Descriptions are part of the question and buy accuracy.
        column: Name of the output column, a string that is checked to be one of the labels.

    Raises:
        InputError: Fewer than two labels, one twice, or one that is no text.
    """

    labels: Mapping[str, str]
    column: str = "label"

    def __init__(self, labels: Mapping[str, str] | Sequence[str], *, column: str = "label") -> None:
        # A set has another order in every process, so it would be another question, and paid again, in every run.
        given: list[Any] = [] if isinstance(labels, str) or not hasattr(labels, "__getitem__") else list(labels)
        if (labels and not given) or any(not isinstance(label, str) or not label.strip() for label in given):
            raise InputError(f"Labels are a list of non-empty strings, or a mapping from them; got {labels!r}.")
        described = dict(labels) if isinstance(labels, Mapping) else dict.fromkeys(given, "")
        if len(described) != len(given):
            raise InputError(f"A label is declared twice: {sorted(x for x in described if given.count(x) > 1)}.")
        if len(described) < 2:
            raise InputError(
                f"Classification needs at least two labels, got {given}; with one there is nothing to ask."
            )
        object.__setattr__(self, "labels", described)
        object.__setattr__(self, "column", column)

    operation = Operation.CHAT

    @property
    def schema(self) -> Mapping[str, Any]:
        """Strict JSON schema."""
        label = {"type": "string", "enum": list(self.labels)}
        return {
            "type": "object",
            "properties": {self.column: label},
            "required": [self.column],
            "additionalProperties": False,
        }

    @property
    def instruction(self) -> str:
        """The default system message."""
        lines = [f"- {label}: {text}" if text else f"- {label}" for label, text in self.labels.items()]
        return "\n".join(["Choose the one label that fits the text best. The labels are:", *lines])

    @property
    def columns(self) -> tuple[Column, ...]:
        """The output columns."""
        return (Column(self.column, "VARCHAR", f"answer->>{path_sql(self.column)}", "one of the declared labels"),)


@dataclass(frozen=True)
class Vector:
    """An embedding.

    Args:
        dimensions: Its length; None for the model's own.
        column: Name of the output column, a fixed-size list of 32-bit floats.

    Raises:
        InputError: A length below one.
    """

    dimensions: int | None = None
    column: str = "vector"

    def __post_init__(self) -> None:
        if self.dimensions is not None and self.dimensions < 1:
            raise InputError(
                f"A vector has at least one dimension, got {self.dimensions}; leave it out for the model's."
            )

    operation = Operation.EMBEDDING
    schema = None
    instruction = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The output columns."""
        return (Column(self.column, "FLOAT[]", "vector", "embedding, 32-bit floats of one length"),)


@dataclass(frozen=True)
class Text:
    """Free text.

    Args:
        column: Name of the output column.
        instruction: What to do with a row's prompt; the system message.
    """

    column: str = "text"
    instruction: str = ""

    operation = Operation.CHAT
    schema = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The output columns."""
        return (Column(self.column, "VARCHAR", "answer", "the answer as it came"),)


@dataclass(frozen=True)
class Fields:
    """Several typed fields, as a pydantic model declares them; each becomes a column.

    Args:
        model: Fields of type str, int, float, bool, Literal or Enum of strings, another model, and lists and Optional
            of these. Defaults are not sent: the model is asked for every field.

    Raises:
        InputError: Something in the model can't be asked for or can't become a column.
    """

    model: type[BaseModel]
    fields: tuple[Field, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", fields_of(self.model))

    operation = Operation.CHAT

    @property
    def schema(self) -> Mapping[str, Any]:
        """Strict JSON schema."""
        return object_schema(self.fields, docstring(self.model))

    @property
    def instruction(self) -> str:
        """The default system message."""
        return "\n".join(["Fill in the fields about the text. The fields are:", *described(self.fields)])

    @property
    def columns(self) -> tuple[Column, ...]:
        """The output columns."""
        return tuple(
            Column(field.name, field.kind.sql_type, field.sql, field.description.partition("\n")[0])
            for field in self.fields
        )


@dataclass(frozen=True)
class Moderation:
    """A moderation model's verdict."""

    operation = Operation.MODERATION
    schema = None
    instruction = ""

    @property
    def columns(self) -> tuple[Column, ...]:
        """The output columns."""
        found = "map_entries(CAST(answer->'$.categories' AS MAP(VARCHAR, BOOLEAN)))"
        names = f"list_transform(list_filter({found}, lambda one: one.value), lambda one: one.key)"
        scores = "map_values(CAST(answer->'$.category_scores' AS MAP(VARCHAR, DOUBLE)))"
        return (
            Column("flagged", "BOOLEAN", "CAST(answer->>'$.flagged' AS BOOLEAN)", "whether it falls into any category"),
            Column("categories", "VARCHAR[]", names, "those that it falls into"),
            Column("score", "DOUBLE", f"list_max({scores})", "the highest of any category's, from 0 to 1"),
        )


Output = Labels | Vector | Text | Fields | Moderation


def as_output(output: Output | type[BaseModel]) -> Output:
    """What a user wrote for ``output=``: a pydantic model stands for its fields."""
    if isinstance(output, Labels | Vector | Text | Fields | Moderation):
        return output
    # Checked although it is typed: notebooks are not.
    if not (inspect.isclass(output) and issubclass(output, BaseModel)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"output is a pydantic model, Labels, Vector or Text, got {output!r}.")
    return Fields(output)


__all__ = ["Column", "Fields", "Labels", "Moderation", "Output", "Text", "Vector", "as_output"]
