"""`moderate_asset`: what a moderation model says of each row."""

from __future__ import annotations

from typing import Unpack

import dagster as dg

from .outputs import Moderation
from .source import as_source
from .table import TableOptions, define, naming


def moderate_asset(
    *,
    name: str,
    source: str | dg.AssetKey | dg.AssetsDefinition | dg.AssetSpec,
    row_key: str,
    prompt: str,
    llm: str,
    model: str,
    **options: Unpack[TableOptions],
) -> dg.AssetsDefinition:
    """Declare a table that holds a moderation model's verdict on each row of a source.

    Its columns are ``flagged``, ``categories`` (those that the text falls into) and ``score`` (the highest of any
    category's, from 0 to 1).

    Args:
        name: Name of the asset and of its table.
        source: An asset (or its name), or SQL over the tables, whose dependencies are read from the query.
        row_key: The column that identifies a row.
        prompt: Template of the text to judge; ``{column}`` stands for a row's value.
        llm: Resource key of a provider that has moderations, such as OpenAI.
        model: The provider's name of the model.
        **options: See `TableOptions`.

    Raises:
        InputError: The declaration can't work.

    Example:
        >>> verdicts = moderate_asset(
        ...     name="review_verdicts", source="reviews", row_key="review_id", prompt="{text}", llm="openai",
        ...     model="omni-moderation-latest",
        ... )
    """
    with naming(name):
        rows = as_source(source)
    return define(
        rows,
        name=name,
        row_key=row_key,
        prompt=prompt,
        output=Moderation(),
        llm=llm,
        model=model,
        instruction=None,
        options=options,
    )
