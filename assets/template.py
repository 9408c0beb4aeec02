"""Prompt templates: ``{column}`` is parsed once, when the asset is declared, and never again with a row's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter

from ..resources.duck import literal, quoted
from ..resources.errors import InputError


@dataclass(frozen=True)
class Template:
    """A parsed prompt template.

    Attributes:
        text: As the user wrote it; ``{{`` and ``}}`` are braces.
        parts: Literal text and column names in turn; a column may be None at the end.
    """

    text: str
    parts: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Parse a template.

        Raises:
            InputError: A brace without its partner, an empty ``{}``, a conversion or a format.

        >>> Template.parse("{title}: {text}").columns
        ('title', 'text')
        """
        try:
            fields = list(Formatter().parse(text))
        except ValueError as error:
            raise InputError(f"Prompt template {text!r}: {error}. Write {{{{ and }}}} for braces.") from error
        for _, name, format_spec, conversion in fields:
            if name == "":
                raise InputError(f"Prompt template {text!r}: {{}} names no column; write {{column}}.")
            if format_spec or conversion:
                raise InputError(
                    f"Prompt template {text!r}: {{{name}}} may not carry a format; shape it in SQL. "
                    "Write {{ and }} for braces."
                )
        parsed = cls(text, tuple((before, name) for before, name, _, _ in fields))
        if not parsed.columns:
            raise InputError(f"Prompt template {text!r} names no column, so every row would ask the same question.")
        return parsed

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, each once, in their order."""
        return tuple(dict.fromkeys(name for _, name in self.parts if name is not None))

    def check(self, available: Sequence[str]) -> None:
        """Raise `InputError` if a column is not there."""
        missing = [name for name in self.columns if name not in available]
        if missing:
            raise InputError(
                f"Prompt template {self.text!r} names the column(s) {missing}, which the source doesn't have. "
                f"It has {list(available)}."
            )

    def sql(self) -> str:
        """SQL for a row's prompt; NULL if a column of it is."""
        pieces: list[str] = []
        for before, name in self.parts:
            if before:
                # DuckDB's parser before 2.0 takes a NUL for the end of the query.
                pieces.append(" || chr(0) || ".join(literal(words) for words in before.split("\0")))
            if name is not None:
                pieces.append(f"{quoted(name)}::VARCHAR")
        return " || ".join(pieces)

    def null_reason_sql(self) -> str:
        """SQL for why a row can't be asked; NULL if it can."""
        checks = [f"WHEN {quoted(name)} IS NULL THEN {literal(f'column {name!r} is null')}" for name in self.columns]
        return f"CASE {' '.join(checks)} END"
