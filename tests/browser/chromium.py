"""A headless Chromium: the one of this machine, driven by playwright, with an empty profile each time."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator
from typing import Final

from playwright.sync_api import Page, sync_playwright

MISSING: Final = "Chromium is not installed: run make browser"
VARIABLE: Final = "BATCH_LLM_CHROMIUM"
"""Names the executable where it is none of these on the PATH."""
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")

# No process of its own for a GPU that isn't there, and no call to anywhere but the page.
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str | None:
    """Where Chromium is; None if it isn't installed."""
    named = os.environ.get(VARIABLE)
    found = [shutil.which(name) for name in ((named,) if named else NAMES)]
    return next((path for path in found if path), None)


@contextlib.contextmanager
def chromium(*, width: int, height: int, scale: float = 1.0, seconds: float = 30.0) -> Generator[Page]:
    """An empty page, so large and in light colours; closed in any case.

    Args:
        width: Of the page, in its own pixels.
        height: Likewise.
        scale: How many pixels of a picture one of the page's pixels takes.
        seconds: How long the page's own waits may take.

    Raises:
        FileNotFoundError: There is no Chromium.
    """
    path = executable()
    if path is None:
        raise FileNotFoundError(MISSING)
    with sync_playwright() as playwright, contextlib.ExitStack() as stack:
        # Without a folder named, playwright makes an empty one and removes it at the end.
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS])
        stack.callback(browser.close)
        page = browser.new_page(
            viewport={"width": width, "height": height},
            device_scale_factor=scale,
            color_scheme="light",
            reduced_motion="reduce",
            locale="en-GB",
        )
        page.set_default_timeout(seconds * 1000)
        yield page
