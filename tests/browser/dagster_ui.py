"""Pages of Dagster's UI, found by what a person reads on them; Dagster's class names change with every release."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import quote

from playwright.sync_api import Locator, Page

# What a person who has used the UI before has in their browser: invited once to the community, navigation folded.
_SETTINGS: Final = """
    localStorage.setItem("communityNux", '"1"');
    localStorage.setItem("dagster-nav-collapsed", "true");
    localStorage.setItem("asset-graph-direction", '"vertical"');
"""
# The graph glides to its place: it is there when its nodes have stood still for that many frames.
_STILL: Final = """(frames) => {
    const boxes = JSON.stringify([...document.querySelectorAll("foreignObject")].map((e) => e.getBoundingClientRect()));
    window.stillFor = boxes === window.lastBoxes ? (window.stillFor ?? 0) + 1 : 0;
    window.lastBoxes = boxes;
    return window.stillFor >= frames;
}"""
_FRAMES: Final = 20

View = Literal["overview", "partitions", "events", "lineage"]


class DagsterUI:
    """Dagster's UI in a browser.

    Args:
        page: An empty page.
        url: The webserver's address.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._url = url
        page.add_init_script(_SETTINGS)

    def open_graph(self, assets: Iterable[str], selection: str = "") -> None:
        """The lineage of a selection of assets, or of all, when these are drawn and stand still."""
        self.page.goto(f"{self._url}/asset-groups~{quote(selection, safe='')}/")
        for asset in assets:
            self.node(asset).wait_for()
        self.page.wait_for_function(_STILL, arg=_FRAMES, polling="raf")

    def node(self, asset: str) -> Locator:
        """An asset's box in the graph."""
        return self.page.locator("foreignObject").filter(has=self.page.get_by_text(asset, exact=True))

    def open_asset(self, asset: str, view: View, **query: str) -> None:
        """An asset's page, when its tabs are there; ``query`` goes on to its address."""
        more = "".join(f"&{name}={quote(value, safe='')}" for name, value in query.items())
        self.page.goto(f"{self._url}/assets/{quote(asset)}?view={view}{more}")
        self.page.get_by_role("tab", name=view.capitalize(), exact=True).wait_for()

    def entry(self, label: str) -> Locator:
        """A metadata entry's row in the table of them."""
        return self.page.get_by_role("row").filter(has=self.page.get_by_text(label, exact=True)).last

    def value(self, label: str) -> str:
        """What a metadata entry's row says, without its label; waits for it to be shown."""
        return self.entry(label).inner_text().replace(label, "", 1).strip()
