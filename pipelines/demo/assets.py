"""The demo's assets: Python's standard library, sorted into topics, described, summarized and embedded."""

from __future__ import annotations

from typing import Literal

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, Field

from ...assets import Vector, classify_asset, embed_asset, enrich_asset, llm_table, summarize_asset
from .settings import EMBED_MODEL, MODEL, ROWS
from .stdlib import stdlib_functions as read_stdlib
from .topics import MODULE_GROUPS, TOPICS

QUESTION = "delete a whole directory tree"
# The module's name is not in the prompt: the topic to be found is the documentation chapter of the module.
PROMPT = "{name}: {docstring}"


@dg.asset(io_manager_key="tables", group_name="stdlib", kinds={"python"})
def stdlib_functions() -> pa.Table:
    """Functions and classes of this Python's standard library, with the documentation chapter as gold topic."""
    return read_stdlib(ROWS)


function_topics = classify_asset(
    name="function_topics",
    source=stdlib_functions,
    row_key="function_id",
    prompt=PROMPT,
    labels=TOPICS,
    label_column="topic",
    llm="llm",
    model=MODEL,
    group_name="stdlib",
    description="Which topic a function belongs to, judged by its name and docstring.",
)


class Traits(BaseModel):
    """What a caller wants to know about a function before calling it."""

    kind_of_use: Literal["compute", "convert", "read", "write", "control"] = Field(
        description="""What one calls it for.
        - compute: calculates, compares or searches and returns a result
        - convert: parses, formats, encodes or decodes, from one representation to another
        - read: gets information from a file, the system or a connection
        - write: creates, changes or deletes a file, a setting or an object
        - control: starts, waits for, registers or stops a process, a thread or a handler"""
    )
    side_effects: Literal["yes", "no"] = Field(
        description="""Whether calling it changes something outside of its result.
        - yes: it writes, deletes, sends, registers, closes or sets something
        - no: it only returns a value and leaves everything as it was"""
    )
    returns_iterator: Literal["yes", "no"] = Field(
        description="""Whether its result is to be iterated over.
        - yes: returns an iterator or generator that yields items one after the other
        - no: returns one value, an object, or nothing"""
    )


function_traits = enrich_asset(
    name="function_traits",
    source=stdlib_functions,
    row_key="function_id",
    prompt=PROMPT,
    output=Traits,
    llm="llm",
    model=MODEL,
    group_name="stdlib",
    description="What a caller wants to know, field by field.",
)

function_summaries = summarize_asset(
    name="function_summaries",
    source=stdlib_functions,
    row_key="function_id",
    prompt="{docstring}",
    max_words=20,
    llm="llm",
    model=MODEL,
    group_name="stdlib",
    description="A docstring in at most twenty words.",
)

function_vectors = embed_asset(
    name="function_vectors",
    source=stdlib_functions,
    row_key="function_id",
    prompt=PROMPT,
    llm="llm",
    model=EMBED_MODEL,
    group_name="stdlib",
    description="What a function is about, as a vector.",
)


@llm_table(
    row_key="question_id",
    keep=["question"],
    prompt="{question}",
    output=Vector(),
    llm="llm",
    model=EMBED_MODEL,
    tables="parquet",
    group_name="stdlib",
)
def question_vectors() -> pa.Table:
    """Questions to search the vectors with; this table is a Parquet file."""
    return pa.table({"question_id": [1], "question": [QUESTION]})


topics_by_group = classify_asset(
    name="topics_by_group",
    source="SELECT * FROM stdlib_functions",
    row_key="function_id",
    prompt=PROMPT + "\n{signature}",
    labels=TOPICS,
    label_column="topic",
    llm="llm",
    model=MODEL,
    partitions_def=dg.StaticPartitionsDefinition(list(MODULE_GROUPS)),
    partition_expr="module_group",
    group_name="stdlib",
    description="Topics once more, with the signature in the question, one partition per group of modules.",
)


@dg.asset(io_manager_key="tables", group_name="stdlib", kinds={"duckdb"})
def topic_report(
    stdlib_functions: pd.DataFrame,
    function_topics: pd.DataFrame,
    function_traits: pd.DataFrame,
    function_summaries: pd.DataFrame,
    function_vectors: pd.DataFrame,
) -> pa.Table:
    """Per topic: how many functions, how often label and nearest vector are right, and what they are like."""
    engine = duckdb.connect()
    engine.register("functions", stdlib_functions)
    engine.register("topics", function_topics)
    engine.register("traits", function_traits)
    engine.register("summaries", function_summaries)
    engine.register("vectors", function_vectors)
    return engine.sql("""
        WITH judged AS (
            SELECT f.function_id, f.gold_topic, t.topic, r.kind_of_use, r.side_effects, s.summary, v.vector
            FROM functions AS f
            JOIN topics AS t USING (function_id)
            JOIN traits AS r USING (function_id)
            JOIN summaries AS s USING (function_id)
            JOIN vectors AS v USING (function_id)
            WHERE t.status = 'ok' AND r.status = 'ok' AND s.status = 'ok' AND v.status = 'ok'
        ), nearest AS (
            SELECT a.function_id, arg_max(b.gold_topic, list_cosine_similarity(a.vector, b.vector)) AS neighbour_topic
            FROM judged AS a JOIN judged AS b ON a.function_id <> b.function_id GROUP BY a.function_id
        )
        SELECT gold_topic AS topic, count(*) AS functions,
            avg((topic = gold_topic)::INTEGER)::DECIMAL(4, 3) AS label_is_right,
            avg((neighbour_topic = gold_topic)::INTEGER)::DECIMAL(4, 3) AS neighbour_agrees,
            mode(kind_of_use) AS most_frequent_use,
            avg((side_effects = 'yes')::INTEGER)::DECIMAL(4, 3) AS with_side_effects,
            arg_min(summary, function_id) AS first_summary,
        FROM judged JOIN nearest USING (function_id) GROUP BY gold_topic ORDER BY functions DESC
    """).to_arrow_table()


@dg.asset_check(asset=function_topics, additional_ins={"stdlib_functions": dg.AssetIn("stdlib_functions")})
def better_than_guessing(function_topics: pd.DataFrame, stdlib_functions: pd.DataFrame) -> dg.AssetCheckResult:
    """Accuracy against the gold topics, beside always naming the most frequent topic."""
    judged = function_topics.merge(stdlib_functions, on="function_id")
    accuracy = float((judged["topic"] == judged["gold_topic"]).mean())
    majority = float(judged["gold_topic"].value_counts(normalize=True).max())
    return dg.AssetCheckResult(
        passed=accuracy > majority,
        metadata={"accuracy": accuracy, "majority_baseline": majority, "rows": len(judged)},
    )


classify_job = dg.define_asset_job(  # pyright: ignore[reportUnknownMemberType]
    "classify_stdlib", dg.AssetSelection.assets("stdlib_functions", "function_topics")
)
nightly = dg.ScheduleDefinition(
    name="nightly",
    job=classify_job,
    cron_schedule="0 2 * * *",
    description="Every night: what has changed since yesterday is asked, the rest is reused.",
)
