"""`embed_asset`: one vector per row."""

from __future__ import annotations

from typing import Unpack

import dagster as dg

from .outputs import Vector
from .source import as_source
from .table import TableOptions, define, naming


def embed_asset(
    *,
    name: str,
    source: str | dg.AssetKey | dg.AssetsDefinition | dg.AssetSpec,
    row_key: str,
    prompt: str,
    llm: str,
    model: str,
    dimensions: int | None = None,
    vector_column: str = "vector",
    **options: Unpack[TableOptions],
) -> dg.AssetsDefinition:
    """Declare a table that holds an embedding of each row of a source.

    Args:
        name: Name of the asset and of its table.
        source: An asset (or its name), or SQL over the tables, whose dependencies are read from the query.
        row_key: The column that identifies a row.
        prompt: Template of the text to embed; ``{column}`` stands for a row's value.
        llm: Resource key of the provider.
        model: The provider's name of the model.
        dimensions: Length of a vector; None for the model's own.
        vector_column: Name of the output column, a fixed-size list of 32-bit floats.
        **options: See `TableOptions`.

    Raises:
        InputError: The declaration can't work.

    Example:
        >>> vectors = embed_asset(
        ...     name="review_vectors", source="SELECT * FROM reviews WHERE text <> ''", row_key="review_id",
        ...     prompt="{text}", llm="openai", model="text-embedding-3-small",
        ... )
    """
    with naming(name):
        rows = as_source(source)
        output = Vector(dimensions, column=vector_column)
    return define(
        rows,
        name=name,
        row_key=row_key,
        prompt=prompt,
        output=output,
        llm=llm,
        model=model,
        instruction=None,
        options=options,
    )
