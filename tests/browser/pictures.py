"""`make docs-pictures`: what Dagster's UI shows of the demo, as the pictures in docs/pictures.

The demo has been played in the folder that ``BATCH_LLM_DEMO`` names; here its UI is opened and looked at.
"""

from __future__ import annotations

from pathlib import Path

from dagster_batch_llm.pipelines.demo.dagster_process import running
from dagster_batch_llm.pipelines.demo.settings import environment
from dagster_batch_llm.resources.clock import SystemClock
from dagster_batch_llm.resources.local import stop_server
from playwright.sync_api import FloatRect, Locator

from .chromium import chromium
from .dagster_ui import DagsterUI

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
ASSETS = (
    "stdlib_functions",
    "function_topics",
    "function_traits",
    "function_summaries",
    "function_vectors",
    "question_vectors",
    "topics_by_group",
    "topic_report",
)
TABLE = "function_topics"
_MARGIN = 24
_LARGEST = 300_000


def main() -> None:
    """Write both pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with running(SystemClock()) as graphql:
        with chromium(width=1900, height=760, scale=1.125) as page:
            _asset_graph(DagsterUI(page, graphql.url), FOLDER / "asset-graph.png")
        with chromium(width=1280, height=3000, scale=1.32) as page:
            _materialization(DagsterUI(page, graphql.url), FOLDER / "materialization.png")
    stop_server(Path(environment()["BATCH_LLM_HOME"]) / "local")


def _asset_graph(ui: DagsterUI, file: Path) -> None:
    """All assets with what they became, and the lines between them."""
    ui.open_graph(ASSETS)
    for asset in ASSETS:
        ui.node(asset).get_by_text("Latest event").wait_for()
    boxes = [_box(ui.node(asset)) for asset in ASSETS]
    left, top = min(box["x"] for box in boxes), min(box["y"] for box in boxes)
    right, bottom = max(box["x"] + box["width"] for box in boxes), max(box["y"] + box["height"] for box in boxes)
    _take(ui, file, left=left - _MARGIN, top=top, right=right + _MARGIN, bottom=bottom + _MARGIN)


def _materialization(ui: DagsterUI, file: Path) -> None:
    """The event of one LLM table, from the page's head to the entries about where the table lies."""
    ui.open_asset(TABLE, "events")
    ui.entry("batch_llm/rows_asked").wait_for()
    head = _box(ui.page.get_by_role("tab", name="Overview", exact=True))
    # The last entry names a folder of the machine that the picture was taken on.
    end = _box(ui.entry("dagster/uri"))
    _take(ui, file, left=head["x"] - _MARGIN, top=0, right=end["x"] + end["width"] + _MARGIN, bottom=end["y"] + 1)


def _box(shown: Locator) -> FloatRect:
    box = shown.bounding_box()
    if box is None:
        raise LookupError(f"{shown} is not on the page.")
    return box


def _take(ui: DagsterUI, file: Path, *, left: float, top: float, right: float, bottom: float) -> None:
    ui.page.screenshot(
        path=file, clip={"x": left, "y": top, "width": right - left, "height": bottom - top}, animations="disabled"
    )
    size = file.stat().st_size
    print(f"{file.relative_to(FOLDER.parent.parent)}: {size / 1000:.0f} kB")
    if size > _LARGEST:
        raise ValueError(f"{file.name} has {size} bytes; a page should not load more than {_LARGEST} for it.")


if __name__ == "__main__":
    main()
