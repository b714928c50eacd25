"""Pages in Chromium: what axe-core finds wrong for who cannot see or point, and whether a page fits its window."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
WIDTHS = (320, 390, 768, 1280, 1600)
AUDITED = (390, 768, 1280)
"""Widths at which axe-core looks, in both colour schemes; at the others only the fit is looked at."""
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, as Debian's package chromium")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Chromium under playwright; skips the test where the packages of the extra dev are not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, of `pip install clinsynth[dev]`")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def overflow(page: Any) -> int:
    """Pixels that a page is wider than its window, or a gallery than its frame, whichever is more."""
    return int(page.evaluate(TOO_WIDE))


TOO_WIDE = """() => Math.max(
    document.documentElement.scrollWidth - window.innerWidth,
    ...[...document.querySelectorAll('.grid-wrap')].map(grid => grid.scrollWidth - grid.clientWidth)
)"""


GRIDS = ".table-wrap"
"""Gradio's tables of numbers, whose rows are none for axe-core; nothing of ours is called so."""


def violations(page: Any) -> list[str]:
    """What axe-core finds, a line each: its rule, how grave it is, and the first places."""
    reason = "needs axe-playwright-python, of `pip install clinsynth[dev]`"
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason).Axe()
    found = axe.run(page, {"exclude": [[GRIDS]]}).response["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: "
        + "; ".join(f"{node['target']} {node['html'][:160]}" for node in one["nodes"][:3])
        for one in found
    ]


def faults_of(browser: Any, path: Path) -> list[str]:
    """Everything wrong with a page in a file: axe-core's findings in both colour schemes, and what does not fit."""
    faults = []
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(path.resolve().as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true })")
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            place = f"{path.name}, {width} px, {scheme}: "
            faults += [f"{place}{overflow(page)} px too wide"] if overflow(page) > 0 else []
            faults += [place + one for one in violations(page)] if width in AUDITED else []
        context.close()
    return faults
