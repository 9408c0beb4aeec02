"""The frozen task spec: all that turns source rows into requests and answers into a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..resources.errors import InputError
from ..resources.request import RequestSpec
from .outputs import Column, Output
from .template import Template

STATUS, ERROR = "status", "error"
"""Every LLM table says per row how it went; `status` is ``ok`` or why there is no answer."""

PARTITION = "partition_key"
"""A partitioned LLM table says which partition each row belongs to."""


@dataclass(frozen=True)
class TaskSpec:
    """One LLM table's task. A plan keeps its own copy, so that an edit can't mix two versions.

    Attributes:
        row_key: The column that identifies a row.
        keep: Further source columns that the table keeps.
        prompt: The template's text.
        request: The provider-neutral request.
        columns: The output columns.
        partition_expr: SQL for a row's partition key; empty for an unpartitioned table.
    """

    row_key: str
    keep: tuple[str, ...]
    prompt: str
    request: RequestSpec
    columns: tuple[Column, ...]
    partition_expr: str = ""

    @classmethod
    def declare(
        cls,
        *,
        row_key: str,
        keep: tuple[str, ...],
        prompt: str,
        output: Output,
        model: str,
        instruction: str | None,
        parameters: Mapping[str, Any],
        partition_expr: str,
    ) -> TaskSpec:
        """Build and check a task.

        Raises:
            InputError: The template can't be used, two columns have one name or one has none, or a parameter is not
                JSON.
        """
        Template.parse(prompt)
        request = RequestSpec(
            operation=output.operation,
            model=model,
            instruction=output.instruction if instruction is None else instruction,
            schema=output.schema,
            parameters=_as_json(parameters),
            dimensions=getattr(output, "dimensions", None),
        )
        kept = (row_key, *(name for name in keep if name != row_key))
        ours = (STATUS, ERROR, *([PARTITION] if partition_expr else []))
        names = [*kept, *(column.name for column in output.columns), *ours]
        twice = sorted({name for name in names if [n.lower() for n in names].count(name.lower()) > 1})
        if twice:
            raise InputError(
                f"The table would have two columns named {twice}; rename one ({STATUS} and {ERROR} are ours)."
            )
        unusable = [name for name in names if not name or name.startswith("__")]
        if unusable:
            raise InputError(f"Columns can't be called {unusable}: a name is not empty and doesn't begin with __.")
        return cls(row_key, kept, prompt, request, output.columns, partition_expr)

    @property
    def template(self) -> Template:
        """The parsed prompt."""
        return Template.parse(self.prompt)

    @property
    def version(self) -> str:
        """Changes with anything that changes the table: 16 hexadecimal characters."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    @property
    def column_names(self) -> list[str]:
        """The table's columns."""
        ours = [STATUS, ERROR, *([PARTITION] if self.partition_expr else [])]
        return [*self.keep, *(column.name for column in self.columns), *ours]

    def described(self, name: str) -> str:
        """What a column of the table holds, for people."""
        ours = {
            STATUS: "ok, or why there is no answer",
            ERROR: "what went wrong; on further lines how often it was asked, and the answer if there was one",
            PARTITION: "the partition that the row belongs to",
        }
        outputs = {column.name: column.description for column in self.columns}
        return {**ours, **outputs}.get(name, "from the source")

    def to_json(self) -> str:
        """For the ledger."""
        return json.dumps({**asdict(self), "request": self.request.to_json()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TaskSpec:
        """The inverse of `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        columns = tuple(Column(**column) for column in fields.pop("columns"))
        request = RequestSpec.from_json(fields.pop("request"))
        keep = tuple(fields.pop("keep"))
        return cls(**fields, keep=keep, columns=columns, request=request)


def _as_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as they will be sent, so that a stored task equals the declared one."""
    try:
        return json.loads(json.dumps(dict(parameters), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"parameters have to be JSON ({error}): {parameters!r}") from error
