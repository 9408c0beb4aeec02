"""`summarize_asset`: one text per row."""

from __future__ import annotations

from typing import Unpack

import dagster as dg

from ..resources.errors import InputError
from .outputs import Text
from .source import as_source
from .table import TableOptions, define, naming


def summarize_asset(
    *,
    name: str,
    source: str | dg.AssetKey | dg.AssetsDefinition | dg.AssetSpec,
    row_key: str,
    prompt: str,
    llm: str,
    model: str,
    summary_column: str = "summary",
    max_words: int | None = None,
    instruction: str | None = None,
    **options: Unpack[TableOptions],
) -> dg.AssetsDefinition:
    """Declare a table that holds a summary of each row of a source.

    Args:
        name: Name of the asset and of its table.
        source: An asset (or its name), or SQL over the tables, whose dependencies are read from the query.
        row_key: The column that identifies a row.
        prompt: Template of the text to summarize; ``{column}`` stands for a row's value.
        llm: Resource key of the provider.
        model: The provider's name of the model.
        summary_column: Name of the output column, the answer as it came.
        max_words: Asked for in the default instruction. A longer summary is kept: it is paid for.
        instruction: System message in place of the default one.
        **options: See `TableOptions`.

    Raises:
        InputError: The declaration can't work.

    Example:
        >>> summaries = summarize_asset(
        ...     name="review_summaries", source="reviews", row_key="review_id", prompt="{title}: {text}",
        ...     max_words=20, llm="openai", model="gpt-5-mini",
        ... )
    """
    with naming(name):
        rows = as_source(source)
        output = Text(summary_column, instruction=_asked(max_words, instruction))
    return define(
        rows,
        name=name,
        row_key=row_key,
        prompt=prompt,
        output=output,
        llm=llm,
        model=model,
        instruction=instruction,
        options=options,
    )


def _asked(max_words: int | None, instruction: str | None) -> str:
    if max_words is None:
        return "Summarize the text in one sentence. Answer with the summary only."
    if instruction is not None:
        raise InputError("max_words is part of the default instruction. Say it in your own instruction instead.")
    if max_words < 1:
        raise InputError(f"a summary has at least one word, got max_words={max_words}.")
    return f"Summarize the text in at most {max_words} words. Answer with the summary only."
