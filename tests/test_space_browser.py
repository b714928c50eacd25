"""A person's way through the Space in Chromium: every tab, at desktop and phone width, light and dark.

With STUDIO_SHOTS=folder in the environment the screenshots are kept there, to be looked at.
"""

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs gradio; install it with `pip install clinsynth[space]`")
pytest.importorskip("playwright", reason="needs a browser driver; install it with `pip install playwright`")

from browser import needs_chromium, open_browser, overflow, violations
from helpers import LABELS
from PIL import Image
from playwright import sync_api as playwright
from space_server import Studio, tiny_studio

VIEWS = {
    "wide-light": (1280, "light"),
    "wide-dark": (1280, "dark"),
    "tablet-light": (768, "light"),
    "tablet-dark": (768, "dark"),
    "phone-light": (390, "light"),
    "phone-dark": (390, "dark"),
}
TABS = ("Images", "Text", "Evidence", "Review")
EXAMPLES = ("Images", "Text")
"""Tabs that show one on arrival, once it is there."""
PATIENCE = 240_000
EVIDENCE_PATIENCE = 900_000
KEEP_TOASTS = """
window.toasts = [];
new MutationObserver(() => {
    for (const toast of document.querySelectorAll("[data-testid=toast-body]")) {
        if (!toast.kept) { toast.kept = true; window.toasts.push(toast.innerText); }
    }
}).observe(document, {childList: true, subtree: true});
"""
"""Errors are shown for ten seconds, in which a busy machine may not come to look."""
pytestmark = needs_chromium


@pytest.fixture(scope="module")
def studio() -> Studio:
    return tiny_studio()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as browser:
        yield browser


class Visit:
    """A page of the Space, and what went wrong while it was open."""

    def __init__(self, browser: Any, studio: Studio, view: str, folder: Path) -> None:
        width, scheme = VIEWS[view]
        self.view, self.folder = view, Path(os.environ.get("STUDIO_SHOTS", folder))
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.add_init_script(KEEP_TOASTS)
        self.elsewhere: list[str] = []
        self.wrong: list[str] = []
        self.page.on("request", lambda request: self.note(request.url, studio.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.answers: list[str] = []
        self.page.on("response", lambda answer: self.answers.append(f"{answer.status} {answer.url}"))
        self.page.goto(studio.url)
        self.page.get_by_role("tab", name="Images").wait_for()

    def note(self, url: str, own: str) -> None:
        if not url.startswith((own, "data:", "blob:")):
            self.elsewhere.append(url)

    def open(self, tab: str) -> None:
        """By the tab itself or, where it does not fit, by the menu of the others."""
        found = self.page.get_by_role("tab", name=tab, exact=True)
        if not found.is_visible():
            self.page.locator(".overflow-menu > button").first.click()
            found = self.page.locator(".overflow-dropdown").get_by_text(tab, exact=True)
        found.click()

    def shoot(self, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.page.wait_for_timeout(400)  # what fades in
        self.page.screenshot(path=str(self.folder / f"{name}-{self.view}.png"), full_page=True)

    def fill(self, label: str, value: object) -> None:
        """The number beside a slider, or a number field."""
        self.page.get_by_label(re.compile(f"{label}")).and_(self.page.locator("input[type=number]")).first.fill(
            str(value)
        )

    def choose(self, label: str, option: str) -> None:
        self.page.get_by_label(label, exact=True).first.click()
        self.page.get_by_role("option", name=option, exact=True).first.click()

    def wait_for(self, text: str | re.Pattern[str]) -> None:
        """Wait until the page shows a text; where it does not, tell what it shows and what the server answered."""
        try:
            self.page.get_by_text(text).filter(visible=True).first.wait_for()
        except playwright.TimeoutError as error:
            shown, asked = self.page.locator("body").inner_text(), "\n".join(self.answers[-15:])
            raise AssertionError(f"{text!r} did not appear; the page shows:\n{shown}\nanswers:\n{asked}") from error

    def message(self) -> str:
        """The first error that was shown and not asked for yet, be it gone or not."""
        return str(self.page.wait_for_function("window.toasts.shift()").json_value())

    def submit(self, field: Any, words: str) -> None:
        """Fill a field and press Enter; returns when the server has answered to just these words."""

        def answers(answer: Any) -> bool:
            return answer.request.method == "POST" and words in (answer.request.post_data or "")

        field.fill(words)
        playwright.expect(field).to_have_value(words)
        with self.page.expect_response(answers):
            field.press("Enter")

    def download(self, button: str) -> Path:
        with self.page.expect_download() as waiting:
            self.page.get_by_role("button", name=button).or_(self.page.get_by_role("link", name=button)).first.click()
        return Path(waiting.value.path())

    def close(self) -> None:
        self.context.close()
        assert not self.elsewhere, self.elsewhere
        assert not self.wrong, self.wrong


@pytest.fixture
def visit(browser: Any, studio: Studio, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Visit]:
    visit = Visit(browser, studio, request.param, tmp_path)
    yield visit
    visit.close()


@pytest.mark.parametrize("visit", VIEWS, indirect=True)
def test_every_tab_fits_and_can_be_read_by_everybody(visit: Visit) -> None:
    assert "not for diagnosis" in visit.page.locator("#banner").inner_text()
    for tab in TABS:
        visit.open(tab)
        if tab in EXAMPLES:
            visit.wait_for(re.compile("^An example"))
        visit.shoot(tab.lower())
        assert overflow(visit.page) <= 0, tab
        assert violations(visit.page) == [], tab
        for field in visit.page.locator("input:visible, textarea:visible, select:visible").all():
            named = "e => e.ariaLabel || e.labels?.length || e.title || e.closest('[aria-label]') || e.type == 'file'"
            assert field.evaluate(named), field.evaluate("e => e.outerHTML")


@pytest.mark.parametrize("visit", ["wide-light", "phone-dark"], indirect=True)
def test_images_are_drawn_and_downloaded_and_an_error_is_told(visit: Visit) -> None:
    visit.fill("Number of images", 3)
    visit.fill("Seed", 11)
    visit.page.get_by_role("button", name="Draw images").click()
    visit.wait_for("severe, seed 13, distance")
    visit.wait_for("Drawn in")
    visit.shoot("images-drawn")
    with zipfile.ZipFile(visit.download("Download as zip")) as archive:
        seeds = [row["seed"] for row in json.loads(archive.read("settings.json"))["images"]]
    assert seeds == [11, 12, 13]
    visit.page.get_by_text("Sampling").click()
    visit.fill("Number of images", 16)
    visit.fill("Steps", 250)
    visit.fill("Guidance", 3)
    visit.page.get_by_role("button", name="Draw images").click()
    said = visit.message()
    visit.shoot("images-error")
    assert "times what one request may cost" in said
    assert overflow(visit.page) <= 0


def real_set(path: Path) -> Path:
    """A .zip of class folders with images of the models' classes."""
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(66):
            label, buffer = list(LABELS.values())[number % len(LABELS)], io.BytesIO()
            noise = np.random.default_rng(number).integers(0, 200, (28, 28)).astype(np.uint8)
            Image.fromarray(noise + 20 * (number % len(LABELS))).save(buffer, "PNG")
            archive.writestr(f"{label}/{number}.png", buffer.getvalue())
    return path


@pytest.mark.parametrize("visit", ["wide-light", "phone-dark"], indirect=True)
def test_what_was_drawn_is_compared_reviewed_and_exported(visit: Visit, tmp_path: Path) -> None:
    """By the buttons beside the images; reviewed without a checklist, as its classes are in none."""
    visit.wait_for(re.compile("^An example"))
    visit.fill("Number of images", 24)
    visit.page.get_by_role("button", name="Draw images").click()
    visit.wait_for(re.compile("^Drawn in"))
    visit.page.get_by_role("button", name="Compare them with a real set").first.click()
    visit.wait_for("made-here")
    visit.page.locator("input[type=file]").locator("visible=true").or_(
        visit.page.get_by_role("tabpanel").filter(has_text="Real set").locator("input[type=file]")
    ).first.set_input_files(real_set(tmp_path / "real.zip"))
    visit.wait_for(re.compile("^real$"))  # its ending stands apart
    visit.page.get_by_role("button", name="Compare", exact=True).click()
    visit.page.locator("iframe[title=Report], [data-testid=toast-body]").first.wait_for(timeout=EVIDENCE_PATIENCE)
    assert visit.page.evaluate("window.toasts") == []
    report = visit.page.frame_locator("iframe[title=Report]")
    report.get_by_text("Looks like real?").first.wait_for()
    visit.wait_for("Compared: 24 synthetic ones of made-here.zip with 66 real ones of real.zip")
    visit.shoot("evidence-compared")
    assert overflow(visit.page) <= 0 and violations(visit.page) == []
    visit.open("Images")
    visit.fill("Number of images", 3)
    visit.page.get_by_role("button", name="Draw images").click()
    playwright.expect(visit.page.locator("#images .thumbnail-item")).to_have_count(3, timeout=PATIENCE)
    visit.wait_for(re.compile("^Drawn in"))
    visit.page.get_by_role("button", name="Review them").first.click()
    visit.wait_for("made-here")
    visit.page.get_by_label("Rater").first.fill(f"visitor {visit.view}")  # a name belongs to who took it first
    visit.page.get_by_label("Real set", exact=True).locator("visible=true").first.click()
    visit.page.get_by_role("option", name="none: synthetic samples alone").first.click()
    visit.page.get_by_role("button", name="Start or resume").click()
    visit.page.get_by_role("button", name="Start or resume").wait_for(state="hidden")  # Enter would press it again
    for number in (1, 2, 3):
        visit.wait_for(f"Sample {number} of 3")
        visit.page.keyboard.press("1")
        visit.page.keyboard.press("c")
        visit.page.locator("#review-real input:checked").wait_for()
        visit.page.keyboard.press("Enter")
    visit.wait_for("The end: all 3 samples are scored")
    visit.shoot("review-end")
    visit.page.get_by_text("Results", exact=True).click()
    visit.page.get_by_role("button", name="Export the scores").click()
    visit.page.get_by_text("scores", exact=True).first.wait_for()  # a file's name, its ending stands apart
    assert overflow(visit.page) <= 0 and violations(visit.page) == []


@pytest.mark.parametrize("visit", ["wide-dark", "phone-light"], indirect=True)
def test_texts_are_written_and_downloaded_and_an_error_is_told(visit: Visit) -> None:
    visit.open("Text")
    visit.fill("Number of texts", 1)
    visit.page.get_by_role("button", name="Write texts").click()
    visit.wait_for("1 of 1 well-formed")
    visit.page.locator("#texts article").wait_for()
    visit.shoot("text-written")
    rows = [json.loads(line) for line in visit.download("Download as JSONL").read_text().splitlines()]
    assert len(rows) == 1 and rows[0]["label"] == "non-depressed" and rows[0]["synthetic"] is True
    visit.choose("Task", "icd10-report")
    search = visit.page.get_by_label("Search ICD-10-CM")
    visit.submit(search, "panic")
    label = visit.page.get_by_label("Label", exact=True).first
    playwright.expect(label).to_have_value(re.compile("F4.*panic", re.IGNORECASE), timeout=PATIENCE)
    visit.shoot("text-search")
    visit.submit(search, "no such illness")
    assert "holds 'no such illness'" in visit.message()
    assert overflow(visit.page) <= 0


@pytest.mark.parametrize("visit", ["wide-light"], indirect=True)
def test_ten_samples_are_scored_by_keyboard(visit: Visit) -> None:
    visit.open("Review")
    visit.page.get_by_label("Rater").first.fill("browser")
    visit.fill("Samples", 10)
    visit.page.get_by_role("button", name="Start or resume").click()
    for number in range(1, 11):
        visit.wait_for(f"Sample {number} of 10")
        if number == 1:
            visit.shoot("review-sample")
        visit.page.keyboard.press("1")
        visit.page.keyboard.press("y" if number % 2 else "n")
        visit.page.locator("#review-real input:checked").wait_for()
        visit.page.keyboard.press("Enter")
    visit.wait_for(re.compile("10 scored|all.*scored|10 of 10 scored", re.IGNORECASE))
    visit.shoot("review-done")
