"""`llm_table`: the primitive on which every operation is built."""

# Dagster reads the annotation of `context` at run time, so annotations may not be strings in this file.
import contextlib
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import dagster as dg
from pydantic import BaseModel

from ..resources.errors import InputError
from ..resources.request import MAX_TRIES
from .body import Declaration, Events, converge
from .outputs import Output, as_output
from .run import MODEL_METADATA
from .source import FunctionSource, Source
from .stuck import stuck_now, stuck_spec
from .task import PARTITION, TaskSpec

_MOST_TRIES = 20


class TableOptions(TypedDict, total=False):
    """Arguments that every LLM table takes.

    Attributes:
        keep: Further columns of the source that the table keeps.
        parameters: Sent to the provider as they are, such as ``{"max_completion_tokens": 50}``.
        max_attempts: How often a row is asked until its answer can be used, 3 by default; then it is an error row.
        tables: Resource key of the tables, ``"tables"`` by default.
        partitions_def: Partitions; needs `partition_expr`.
        partition_expr: SQL over the source's columns that gives a row's partition key.
        backfill_policy: One run per contiguous range by default.
        key_prefix: As in `dagster.asset`, like all that follow.
        group_name: Asset group.
        description: Shown in the catalogue.
        tags: Asset tags.
        owners: Asset owners.
        metadata: Further metadata.
        automation_condition: When Dagster should ask for the table by itself.
        code_version: Of a function's own code; the task is versioned by itself.
    """

    keep: Sequence[str]
    parameters: Mapping[str, Any]
    max_attempts: int
    tables: str
    partitions_def: dg.PartitionsDefinition[str]
    partition_expr: str
    backfill_policy: dg.BackfillPolicy
    key_prefix: Sequence[str]
    group_name: str
    description: str
    tags: Mapping[str, str]
    owners: Sequence[str]
    metadata: Mapping[str, Any]
    automation_condition: dg.AutomationCondition[Any]
    code_version: str


def llm_table(
    *,
    row_key: str,
    prompt: str,
    output: Output | type[BaseModel],
    llm: str,
    model: str,
    name: str | None = None,
    instruction: str | None = None,
    **options: Unpack[TableOptions],
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare a table that an LLM fills in, over the rows that a function gives.

    The function's arguments are upstream assets, loaded as they are annotated; it returns pandas, polars or Arrow
    rows. It is called when the table is planned, not again when the answers arrive.

    Args:
        row_key: The column that identifies a row; unique and never null.
        prompt: Template; ``{column}`` stands for a row's value.
        output: What an answer becomes: `Labels`, `Vector`, `Text`, or a pydantic model whose fields become columns.
        llm: Resource key of the provider.
        model: The provider's name of the model.
        name: Name of the asset; the function's by default.
        instruction: System message in place of the output's own.
        **options: See `TableOptions`.

    Raises:
        InputError: The declaration can't work; nothing is ever sent for it.

    Example:
        >>> import pandas as pd
        >>> from dagster_batch_llm.assets import Labels
        >>> @llm_table(
        ...     row_key="id", prompt="{text}", output=Labels(["praise", "complaint"]), llm="openai", model="gpt-5-mini"
        ... )
        ... def review_mood(reviews: pd.DataFrame) -> pd.DataFrame:
        ...     return reviews[reviews.language == "en"]
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        described: TableOptions = {"description": function.__doc__ or "", **options}
        return define(
            FunctionSource.of(function),
            name=name or function.__name__,
            row_key=row_key,
            prompt=prompt,
            output=output,
            llm=llm,
            model=model,
            instruction=instruction,
            options=described,
        )

    return decorate


def define(
    source: Source,
    *,
    name: str,
    row_key: str,
    prompt: str,
    output: Output | type[BaseModel],
    llm: str,
    model: str,
    instruction: str | None,
    options: TableOptions,
) -> dg.AssetsDefinition:
    """Build the asset of a source and a task; see `llm_table` for the arguments."""
    unknown = sorted(set(options) - set(TableOptions.__annotations__))
    if unknown:
        raise TypeError(
            f"{name}: unexpected argument(s) {unknown}; a table takes {sorted(TableOptions.__annotations__)}."
        )
    with naming(name), warnings.catch_warnings():
        # backfill_policy is beta in Dagster; that is for us to follow, not for our users to be warned of.
        warnings.simplefilter("ignore", dg.BetaWarning)
        _check_texts(row_key=row_key, prompt=prompt, llm=llm, model=model, tables=options.get("tables", "tables"))
        declared = _declared(
            source, row_key=row_key, prompt=prompt, output=output, llm=llm, model=model, instruction=instruction,
            options=options,
        )  # fmt: skip
        return _asset(name, declared, options)


@contextlib.contextmanager
def naming(table: str) -> Generator[None]:
    """Say in a mistake's message which table it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{table}: {error.message}") from error


def _check_texts(**arguments: object) -> None:
    for argument, value in arguments.items():
        if isinstance(value, str) and value.strip():
            continue
        hint = ""
        if argument in {"llm", "tables"}:
            hint = f" It is the key of a resource: write {argument}='…', and resources={{'…': …}} in your definitions."
        # The value itself is not quoted: a resource would show its key.
        got = "an empty one" if isinstance(value, str) else f"a {type(value).__name__}"
        raise InputError(f"{argument} is a text; got {got}.{hint}")


def _declared(
    source: Source,
    *,
    row_key: str,
    prompt: str,
    output: Output | type[BaseModel],
    llm: str,
    model: str,
    instruction: str | None,
    options: TableOptions,
) -> Declaration:
    keep: Any = options.get("keep", ())
    if isinstance(keep, str) or not isinstance(keep, Sequence):
        raise InputError(f"keep is a list of columns, such as keep=['language']; got {keep!r}.")
    partitions_def, partition_expr = options.get("partitions_def"), options.get("partition_expr", "")
    if (partitions_def is None) != (not partition_expr):
        raise InputError(
            "partitions_def and partition_expr belong together. partition_expr is SQL over the source's "
            "columns that gives a row's partition key, such as 'country' or \"strftime(day, '%Y-%m-%d')\"."
        )
    spec = TaskSpec.declare(
        row_key=row_key,
        keep=tuple(options.get("keep", ())),
        prompt=prompt,
        output=as_output(output),
        model=model,
        instruction=instruction,
        parameters=options.get("parameters", {}),
        partition_expr=partition_expr,
    )
    tries: Any = options.get("max_attempts", MAX_TRIES)
    if not isinstance(tries, int) or isinstance(tries, bool) or not 1 <= tries <= _MOST_TRIES:
        raise InputError(f"max_attempts is a number from 1 to {_MOST_TRIES}; got {tries!r}.")
    return Declaration(spec=spec, source=source, llm=llm, tables=options.get("tables", "tables"), max_attempts=tries)


def _asset(name: str, declared: Declaration, options: TableOptions) -> dg.AssetsDefinition:
    spec = declared.spec
    partitions_def = options.get("partitions_def")

    @dg.asset(
        name=name,
        check_specs=[stuck_spec(name, options.get("key_prefix"))],
        key_prefix=options.get("key_prefix"),
        deps=list(declared.source.deps),
        description=options.get("description"),
        required_resource_keys={declared.llm, declared.tables},
        io_manager_key=declared.tables,
        # A run whose batch is still out yields nothing and succeeds all the same.
        output_required=False,
        partitions_def=partitions_def,
        backfill_policy=options.get("backfill_policy", dg.BackfillPolicy.single_run()) if partitions_def else None,
        group_name=options.get("group_name"),
        tags=options.get("tags"),
        owners=options.get("owners"),
        kinds={"llm", spec.request.operation.value},
        automation_condition=options.get("automation_condition"),
        code_version="-".join(filter(None, [declared.version, options.get("code_version")])),
        metadata={**options.get("metadata", {}), **_metadata(spec)},
    )
    def asset(context: dg.AssetExecutionContext) -> Events:
        yield from converge(context, declared)
        yield stuck_now(context.asset_key)

    return asset


def _metadata(spec: TaskSpec) -> dict[str, Any]:
    outputs = {column.name: column.sql_type for column in spec.columns}
    # A kept column's type is known once it has been read.
    types = {**dict.fromkeys(spec.column_names, "VARCHAR"), **dict.fromkeys(spec.keep, "as read"), **outputs}
    columns = [dg.TableColumn(name, kind, spec.described(name)) for name, kind in types.items()]
    return {
        "dagster/column_schema": dg.TableSchema(columns=columns),
        MODEL_METADATA: spec.request.model,
        "batch_llm/prompt": spec.prompt,
        **({"partition_expr": PARTITION} if spec.partition_expr else {}),
    }
