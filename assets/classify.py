"""`classify_asset`: one label per row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

import dagster as dg

from .outputs import Labels
from .source import as_source
from .table import TableOptions, define, naming


def classify_asset(
    *,
    name: str,
    source: str | dg.AssetKey | dg.AssetsDefinition | dg.AssetSpec,
    row_key: str,
    prompt: str,
    labels: Mapping[str, str] | Sequence[str],
    llm: str,
    model: str,
    label_column: str = "label",
    instruction: str | None = None,
    **options: Unpack[TableOptions],
) -> dg.AssetsDefinition:
    """Declare a table that says for each row of a source which label fits it best.

    Args:
        name: Name of the asset and of its table.
        source: An asset (or its name), or SQL over the tables, whose dependencies are read from the query.
        row_key: The column that identifies a row.
        prompt: Template; ``{column}`` stands for a row's value.
        labels: Label → what it means, or just the labels.
        llm: Resource key of the provider.
        model: The provider's name of the model.
        label_column: Name of the output column.
        instruction: System message in place of the default one, which lists the labels.
        **options: See `TableOptions`.

    Raises:
        InputError: The declaration can't work.

    Example:
        >>> topics = classify_asset(
        ...     name="review_topics", source="reviews", row_key="review_id", prompt="{title}: {text}",
        ...     labels={"praise": "says what is good", "complaint": "says what is bad"},
        ...     llm="openai", model="gpt-5-mini",
        ... )
    """
    with naming(name):
        rows = as_source(source)
        output = Labels(labels, column=label_column)
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
