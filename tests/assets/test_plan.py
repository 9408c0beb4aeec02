"""Mistakes in the input are said before anything is sent, with the asset, the column and the value."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
import stamina
from dagster_batch_llm.assets import Labels, classify_asset, embed_asset, llm_table
from dagster_batch_llm.assets.plan import write_plan
from dagster_batch_llm.assets.task import TaskSpec
from dagster_batch_llm.resources import InputError, LocalBatch, OpenAIBatch
from dagster_batch_llm.resources.duck import connect, rows
from dagster_batch_llm.resources.home import Home
from dagster_batch_llm.resources.ledger import PlanState

from .conftest import House, failure, rows_asset
from .fake_provider import PROFILE


def moods(**changed: Any) -> dg.AssetsDefinition:
    given: dict[str, Any] = {
        "name": "moods",
        "source": "reviews",
        "row_key": "id",
        "prompt": "{text}",
        "labels": ["good", "bad"],
        "llm": "llm",
        "model": "m",
    }
    return classify_asset(**{**given, **changed})


def reviews(**columns: list[Any]) -> dg.AssetsDefinition:
    return rows_asset("reviews", pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"], **columns}))


def refused(house: House, *assets: dg.AssetsDefinition, **how: Any) -> str:
    """Run, and give the one message of the failure; nothing was sent and nothing is left open."""
    result = house.run(*assets, **how)
    assert not result.success
    assert set(house.server.calls) <= {"provider"}, house.server.calls
    assert [plan for plan in house.ledger.plans.find() if plan.state is PlanState.OPEN] == []
    assert house.ledger.attempts.find() == []
    assert not any((house.ledger.home / "plans").rglob("*.parquet"))
    return failure(result)


@pytest.mark.parametrize(
    ("columns", "declared", "words"),
    [
        ({}, {"row_key": "review_id"}, ["row_key", "'review_id'", "['id', 'text']"]),
        ({}, {"keep": ["title"]}, ["keep", "'title'", "['id', 'text']"]),
        ({}, {"prompt": "{txet}"}, ["{txet}", "'txet'", "['id', 'text']"]),
        ({"id": [1, None, None]}, {}, ["2 row(s) have no id", "null"]),
        ({"id": ["x", "y", "x"]}, {}, ["id is not unique", "'x' (2 times)"]),
        ({"id": ["'; --", "'; --", "y"]}, {}, ["id is not unique", '"\'; --" (2 times)']),
        ({"__key": [1, 2, 3]}, {}, ["two underscores", "'__key'"]),
    ],
)
def test_a_source_that_does_not_fit_is_refused_by_name(
    house: House, columns: dict[str, list[Any]], declared: dict[str, Any], words: list[str]
) -> None:
    message = refused(house, reviews(**columns), moods(**declared))
    for word in ["moods: ", *words]:
        assert word in message


def test_a_long_duplicate_key_is_cut_in_the_message(house: House) -> None:
    message = refused(house, reviews(id=["x" * 5000, "x" * 5000, "y"]), moods())
    assert "x" * 60 in message
    assert len(message) < 500


@pytest.mark.parametrize("value", [7, "rows", {"a": 1}, [1], pd.Series([1, 2], name="id")])
def test_a_source_that_is_no_table_is_refused_with_its_type(house: House, value: object) -> None:
    @dg.asset
    def reviews() -> Any:
        return value

    message = refused(house, reviews, moods())
    assert message.startswith("moods: reviews gave a ")
    assert type(value).__name__ in message


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"id": [1, 2], "text": ["a", 1]}),
        pd.DataFrame([[1, "a", "b"]], columns=["id", "text", "text"]),
    ],
)
def test_a_frame_without_columns_of_one_type_is_refused(house: House, frame: pd.DataFrame) -> None:
    @dg.asset
    def reviews() -> Any:
        return frame

    message = refused(house, reviews, moods())
    assert "moods: reviews gave a DataFrame" in message
    assert "text" in message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("SELECT * FROM reviews WHERE nothing = 1", ["nothing"]),
        ("SELECT CAST(text AS INTEGER) AS id, text FROM reviews", ["Could not convert", "'a'"]),
    ],
)
def test_a_query_that_fails_is_quoted(house: House, source: str, words: list[str]) -> None:
    message = refused(house, reviews(), moods(source=source))
    for word in ["moods: The source query failed", repr(source), *words]:
        assert word in message


@pytest.mark.parametrize(
    "source", ["SELEC * FROM reviews", "SELECT 1; SELECT 2", "DROP TABLE reviews", "my reviews", ""]
)
def test_a_query_that_is_not_one_select_is_refused_where_it_is_declared(source: str) -> None:
    with pytest.raises(InputError, match="source query") as caught:
        moods(source=source)
    assert repr(source) in caught.value.message


@pytest.mark.parametrize("given", [{"partitions_def": dg.StaticPartitionsDefinition(["a"])}, {"partition_expr": "grp"}])
def test_partitions_need_an_expression_and_the_other_way_round(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="moods: partitions_def and partition_expr belong together"):
        moods(**given)


@pytest.mark.parametrize("expression", ["nothing", "grp +", "error('boom')"])
def test_a_partition_expression_that_fails_is_quoted(house: House, expression: str) -> None:
    partitions = dg.StaticPartitionsDefinition(["a", "b"])
    table = moods(partitions_def=partitions, partition_expr=expression)
    house.done(reviews(grp=["a", "b", "a"]))
    message = refused(house, reviews(), table, select=[table], partition="a")
    assert "moods: " in message
    assert repr(expression) in message


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(TypeError, match=r"moods: unexpected argument\(s\) \['promt'\]"):
        moods(promt="{text}")


def test_an_empty_table_is_a_table_with_the_right_columns(house: House) -> None:
    types: dict[str, pa.DataType] = {"id": pa.int32(), "text": pa.string(), "day": pa.date32()}
    empty = rows_asset("reviews", pa.table({name: pa.array([], kind) for name, kind in types.items()}))
    metadata = house.done(empty, moods(keep=["day"]))
    table = house.table("moods")
    assert house.types("FROM moods") == {
        "id": "int32",
        "day": "date32[day]",
        "label": "string",
        "status": "string",
        "error": "string",
    }
    assert (table.num_rows, metadata["dagster/row_count"], metadata["batch_llm/rows_asked"]) == (0, 0, 0)
    assert house.server.requests == []


def test_an_empty_table_of_vectors_is_a_table_too(house: House) -> None:
    empty = rows_asset("reviews", pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())}))
    vectors = embed_asset(name="vectors", source="reviews", row_key="id", prompt="{text}", llm="llm", model="m")
    house.done(empty, vectors)
    assert house.table("vectors").schema.names == ["id", "vector", "status", "error"]


def test_a_null_in_the_prompt_is_not_asked_and_the_rest_goes_on(house: House) -> None:
    house.done(reviews(text=["a", None, "c"]), moods())
    assert house.rows("moods") == [
        (1, "good", "ok", None),
        (2, None, "not_asked", "column 'text' is null"),
        (3, "good", "ok", None),
    ]
    assert sorted(house.server.prompts) == ["a", "c"]


def test_a_prompt_of_nothing_but_space_is_not_asked(house: House) -> None:
    house.done(rows_asset("reviews", pa.table({"id": [1, 2, 3], "text": ["", " \n\t", "fine"]})), moods())
    assert house.server.prompts == ["fine"]
    empty = (None, "not_asked", "the prompt is empty")
    assert house.rows("moods")[:2] == [(1, *empty), (2, *empty)]


def test_a_table_of_nulls_asks_nothing(house: House) -> None:
    metadata = house.done(reviews(text=pa.array([None, None, None], pa.string()).to_pylist()), moods())
    assert [row[2] for row in house.rows("moods")] == ["not_asked"] * 3
    assert metadata["batch_llm/rows_failed"] == 3
    assert house.server.requests == []


def test_a_row_beyond_the_providers_limit_is_an_error_row_and_the_rest_goes_on(house: House) -> None:
    house.server.profile = replace(PROFILE, max_line_bytes=2_000)
    house.done(reviews(text=["a", "é" * 2_000, "c"]), moods())
    ok, long, other = house.rows("moods")
    assert (ok[2], other[2]) == ("ok", "ok")
    assert long == (2, None, "not_asked", "the request has more than the 2,000 bytes that fake takes")
    assert sorted(house.server.prompts) == ["a", "c"]


def test_an_empty_key_fails_before_anything_else(house: House) -> None:
    message = refused(house, reviews(), moods(), resources={"llm": OpenAIBatch(api_key="")})
    assert message.startswith("moods: openai: the API key is empty.")
    assert 'dg.EnvVar("OPENAI_API_KEY")' in message


def test_a_key_that_is_not_set_is_named(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(dg.DagsterInvalidConfigError, match="OPENAI_API_KEY"):
        house.run(reviews(), moods(), resources={"llm": OpenAIBatch(api_key=dg.EnvVar("OPENAI_API_KEY"))})
    assert house.server.calls == {}


class _WrongKey(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b'{"error": {"message": "Incorrect API key provided: sk-wrong.", "code": "invalid_api_key"}}'
        self.send_response(401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


def _same(reviews: pa.Table) -> pa.Table:
    return reviews


class _Portal(_WrongKey):
    """What a hotel's network answers to everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        body = b"<html>Please log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def portal() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Portal) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()


@pytest.fixture
def strict_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _WrongKey) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address where nobody listens; the pauses between tries are right for a network and too long for a test."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _WrongKey) as closed:
        address = f"http://127.0.0.1:{closed.server_port}/v1"
    with stamina.set_testing(True, attempts=5):
        yield address


def ended(house: House, llm: OpenAIBatch) -> str:
    """Run against a server that can't be used: the plan has failed, nothing is open; gives the message."""
    result = house.run(reviews(), moods(), resources={"llm": llm})
    assert not result.success
    (plan,) = house.ledger.plans.find()
    assert (plan.state, plan.holder) == (PlanState.FAILED, None)
    assert house.ledger.attempts.open_of_plan(plan.id) == []
    assert plan.message
    assert plan.message in failure(result)
    return failure(result)


def test_a_wrong_key_fails_the_run_with_the_servers_words(house: House, strict_server: str) -> None:
    message = ended(house, OpenAIBatch(api_key="sk-wrong", base_url=strict_server))
    assert message.startswith("moods: openai: POST /v1/files was answered 401: ")
    assert "sk-wrong" not in message  # the server repeats the key that it refuses
    assert "The API key is wrong or has expired." in message


def test_an_upstream_that_is_not_there_fails_the_run_before_anything_is_planned(house: House, nowhere: str) -> None:
    message = refused(house, reviews(), moods(), resources={"llm": LocalBatch(upstream=nowhere)})
    assert message.startswith(f"moods: local: no connection to the upstream server {nowhere}")
    assert house.ledger.plans.find() == []


def test_a_server_that_answers_something_else_fails_the_run_at_the_first_ask(house: House, portal: str) -> None:
    message = ended(house, OpenAIBatch(api_key="k", base_url=portal))
    assert "something that is not JSON" in message
    assert "Is base_url right" in message


def test_an_unpartitioned_table_in_a_run_with_a_partition_is_made_whole(house: House) -> None:
    dated = llm_table(
        name="dated", row_key="id", prompt="{text}", output=Labels(["praise", "complaint"]), llm="llm", model="m",
        partitions_def=dg.StaticPartitionsDefinition(["a", "b"]), partition_expr="'a'",
    )(_same)  # fmt: skip
    assert house.run(reviews(), moods(), dated, partition="a").success
    written = house.tables.query("SELECT count(*) AS n FROM moods").to_pylist()
    assert written == house.tables.query("SELECT count(*) AS n FROM reviews").to_pylist()


def test_a_server_that_is_not_there_fails_the_run_with_its_address(house: House, nowhere: str) -> None:
    message = ended(house, OpenAIBatch(api_key="k", base_url=nowhere))
    assert message.startswith(f"moods: openai: no connection to {nowhere}")
    assert "Nothing was sent." in message


@pytest.mark.parametrize(("ids", "retries"), [([1, 1, 2], 0), ([1, 2, 3], 1)])
def test_a_mistake_is_not_tried_again_and_a_lost_connection_is(
    house: House, nowhere: str, ids: list[int], retries: int
) -> None:
    defs = dg.Definitions(
        assets=[reviews(id=ids), moods()],
        # Dagster leaves the type of `metadata` open.
        jobs=[
            dg.define_asset_job("all", op_retry_policy=dg.RetryPolicy(max_retries=1))  # pyright: ignore[reportUnknownMemberType]
        ],
        resources={"llm": OpenAIBatch(api_key="k", base_url=nowhere), "tables": house.tables},
    )
    result = defs.resolve_job_def("all").execute_in_process(instance=house.instance, raise_on_error=False)
    assert not result.success
    assert [event.event_type_value for event in result.all_events].count("STEP_UP_FOR_RETRY") == retries


def test_rows_of_a_function_are_checked_alike(house: House) -> None:
    @llm_table(row_key="id", prompt="{text}", output=Labels(["a", "b"]), llm="llm", model="m")
    def moods(reviews: pd.DataFrame) -> pd.DataFrame:
        return pd.concat([reviews, reviews])

    assert "moods: id is not unique: '1' (2 times)" in refused(house, reviews(), moods)


def test_a_function_that_gives_no_rows_says_which(house: House) -> None:
    @llm_table(row_key="id", prompt="{text}", output=Labels(["a", "b"]), llm="llm", model="m")
    def moods(reviews: pd.DataFrame) -> None:
        reviews.reset_index()

    assert "moods: function moods gave a NoneType" in refused(house, reviews(), moods)


def test_equal_instants_are_equal_row_keys(house: House) -> None:
    zones = [dt.UTC, dt.timezone(dt.timedelta(hours=1))]
    instant = dt.datetime(2026, 1, 1, 12, tzinfo=zones[0])
    frame = pa.table(
        {"id": pa.array([instant, instant.astimezone(zones[1])], pa.timestamp("us", "UTC")), "text": ["a", "b"]}
    )
    assert "id is not unique" in refused(house, rows_asset("reviews", frame), moods())


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
def test_an_instant_in_a_prompt_reads_the_same_wherever_the_worker_stands(
    home: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    spec = TaskSpec.declare(
        row_key="id",
        keep=(),
        prompt="{id}",
        output=Labels(["a", "b"]),
        model="m",
        instruction=None,
        parameters={},
        partition_expr="strftime(id, '%Y-%m-%d')",
    )
    engine = connect()
    instants = pa.array([dt.datetime(2026, 1, 1, 23, 30, tzinfo=dt.UTC)], pa.timestamp("us", "UTC"))
    engine.register("source", pa.table({"id": instants}))
    write_plan(engine, spec=spec, profile=PROFILE, home=Home(home), plan="p", partitions=["2026-01-01"])
    prompts = rows(engine, f"SELECT prompt FROM '{Home(home).requests('p')}'")
    assert prompts == [("2026-01-01 23:30:00+00",)]
