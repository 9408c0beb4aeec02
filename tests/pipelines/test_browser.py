"""What a person sees who opens Dagster's UI: a real Chromium on a real Dagster."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, Page

from ..browser.chromium import MISSING, chromium, executable
from ..browser.dagster_ui import DagsterUI
from .real_dagster import real_dagster

pytestmark = pytest.mark.real

LOCATION = Path(__file__).parent / "hostile_location.py"
IMAGE = '<img src=x onerror="alert(1)">'
HOSTILE = [
    IMAGE,
    "<script>alert(1)</script>",
    '<svg onload="alert(1)"></svg>',
    "[press](javascript:alert(1))",
    "![picture](x)",
    "`</code><iframe srcdoc='<script>alert(1)</script>'></iframe>",
    "a | b | c ~~~ ``` <!-- </td></tr></table>",
    "an ordinary text",
]
# What these would be if a page took them for HTML or Markdown, whether or not it let them act.
TAKEN_FOR_CODE = 'img[src="x"], iframe[srcdoc], [onload], [onerror], [href^="javascript:"]'


@pytest.fixture
def page() -> Iterator[Page]:
    if executable() is None:
        if os.environ.get("BATCH_LLM_REQUIRE_SERVICES") == "1":
            pytest.fail(MISSING)
        pytest.skip(MISSING)
    with chromium(width=1600, height=2000, seconds=90) as page:
        yield page


@pytest.fixture
def alarms(page: Page) -> list[str]:
    """What pages and their frames have called `alert` with, from here on."""
    heard: list[str] = []

    def hear(dialog: Dialog) -> None:
        heard.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", hear)
    return heard


def press(ui: DagsterUI, button: str) -> None:
    ui.page.get_by_role("button").filter(has_text=re.compile(f"^{button}$")).click()


def materialize_all(ui: DagsterUI) -> None:
    """The report and all that it is made of, by the button; the page shows by itself when they are there."""
    ui.open_graph(["texts", "answers", "by_group", "report"])
    ui.open_graph(["texts", "answers", "report"], selection='+key:"report"')
    assert ui.node("by_group").count() == 0
    press(ui, "Materialize all")
    for asset in ("texts", "answers", "report"):
        ui.node(asset).get_by_text("Materialized", exact=True).wait_for()


def read_all(page: Page) -> None:
    """Open what is folded on a page, such as long Markdown, and see that every text is only text."""
    folded = page.get_by_text(re.compile(r"^\[Show .+\]$"))
    for number in range(folded.count()):
        folded.nth(number).click()
        page.get_by_role("dialog").wait_for()
        assert page.locator(TAKEN_FOR_CODE).count() == 0
        page.keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
    assert page.locator(TAKEN_FOR_CODE).count() == 0


@pytest.mark.long
def test_a_person_materializes_all_and_reads_what_came_in_and_no_text_of_it_acts(
    tmp_path: Path, page: Page, alarms: list[str]
) -> None:
    environment = {"TEST_HOSTILE_TEXTS": json.dumps(HOSTILE)}
    with real_dagster(tmp_path, location=LOCATION, environment=environment) as dagster:
        dagster.graphql.materialize(["by_group"], {"dagster/partition": IMAGE})
        ui = DagsterUI(page, dagster.graphql.url)
        materialize_all(ui)
        assert IMAGE in dagster.tables.query("SELECT summary FROM answers")["summary"].to_pylist()

        ui.open_asset("answers", "events")
        numbers = ("dagster/row_count", "batch_llm/rows_asked", "batch_llm/rows_reused", "batch_llm/rows_failed")
        assert [ui.value(label) for label in numbers] == ["8", "8", "0", "0"]
        read_all(page)
        page.get_by_role("img", name="observation").last.click()
        assert ui.value("batch_llm/rows_waiting") == "8"

        dagster.wait("the partition", lambda: bool(dagster.materializations("by_group")))
        ui.open_asset("by_group", "partitions", partition=IMAGE)
        assert [ui.value(label) for label in numbers] == ["4", "4", "0", "0"]
        assert page.get_by_text(IMAGE, exact=True).count() >= 2  # in the list of partitions and as the title
        read_all(page)
        ui.open_asset("by_group", "overview")
        ui.entry("batch_llm/rows_asked").wait_for()
        read_all(page)

        ui.open_asset("answers", "overview")
        press(ui, "Materialize")
        dagster.wait("the second time", lambda: len(dagster.materializations("answers")) == 2)
        ui.open_asset("answers", "events")
        assert [ui.value(label) for label in numbers] == ["8", "0", "8", "0"]
        assert dagster.paid("fast") == 2  # one for the answers and one for the partition
    assert alarms == []


def test_the_alarm_that_nothing_sets_off_works(page: Page, alarms: list[str]) -> None:
    for text in HOSTILE[:3]:
        page.set_content(f"<p>{text}</p>")
        page.wait_for_load_state()
    assert alarms == ["1", "1", "1"]
    assert page.locator(TAKEN_FOR_CODE).count() == 1
