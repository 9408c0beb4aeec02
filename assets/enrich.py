"""`enrich_asset`: several typed columns per row."""

# The model of the docstring's example is run here, and pydantic looks up annotations that are strings in this file.
from typing import Unpack

import dagster as dg
from pydantic import BaseModel

from .source import as_source
from .table import TableOptions, define, naming


def enrich_asset(
    *,
    name: str,
    source: str | dg.AssetKey | dg.AssetsDefinition | dg.AssetSpec,
    row_key: str,
    prompt: str,
    output: type[BaseModel],
    llm: str,
    model: str,
    instruction: str | None = None,
    **options: Unpack[TableOptions],
) -> dg.AssetsDefinition:
    """Declare a table that holds what a model finds out about each row of a source, field by field.

    Args:
        name: Name of the asset and of its table.
        source: An asset (or its name), or SQL over the tables, whose dependencies are read from the query.
        row_key: The column that identifies a row.
        prompt: Template; ``{column}`` stands for a row's value.
        output: A pydantic model. Each field becomes a column of its type, a model within it a STRUCT. Descriptions
            are part of the question; lines ``- value: meaning`` in one say what an enum's values mean.
        llm: Resource key of the provider.
        model: The provider's name of the model.
        instruction: System message in place of the default one, which lists the fields.
        **options: See `TableOptions`.

    Raises:
        InputError: The declaration can't work, such as a field of a type that can't be a column.

    Example:
        >>> from typing import Literal
        >>> from pydantic import BaseModel, Field
        >>> class Review(BaseModel):
        ...     mood: Literal["happy", "angry"] = Field(description="How the guest feels")
        ...     dishes: list[str] = Field(description="The dishes that are named")
        ...     stars: int | None = Field(description="Stars given, if the text says so")
        >>> details = enrich_asset(
        ...     name="review_details", source="reviews", row_key="review_id", prompt="{title}: {text}",
        ...     output=Review, llm="openai", model="gpt-5-mini",
        ... )
    """
    with naming(name):
        rows = as_source(source)
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
