"""The report: self-contained, escaped, complete, and honest about what it cannot say."""

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from clinsynth.data.images import ImageArrays
from clinsynth.reports.images import choose_images, distance_tables, encode_png, render_image_report
from clinsynth.reports.page import format_interval, format_number

NAMES = ["healthy", "<ill> & rare"]
PAIRS = [
    {"synthetic_row": 3, "train_row": 1, "detector": "pixels", "verdict": "exact copy"},
    {"synthetic_row": 0, "train_row": 2, "detector": "thumbnails", "verdict": "as near as held-out pictures come"},
]


def arrays(counts: tuple[int, int], channels: int = 1) -> ImageArrays:
    labels = np.repeat([0, 1], counts)
    images = np.random.default_rng(sum(counts)).integers(0, 256, size=(len(labels), channels, 28, 28), dtype=np.uint8)
    return ImageArrays(images, labels, NAMES)


def record(**changes: Any) -> dict[str, Any]:
    base = {
        "metric": "frechet",
        "label": "overall",
        "reference": "test",
        "value": 3.0,
        "interval": [2.0, 4.5],
        "n_real": 8,
        "n_synthetic": 9,
        "floor": 1.0,
        "floor_range": [0.9, 1.1],
        "floor_n": 4,
        "floor_held_out": 1.5,
        "extractor": "small ResNet trained on the real train split (seed 0)",
        "dimension": 128,
        "replicates": 200,
        "seed": 0,
        "biased": True,
        "note": "",
        "extrapolated": 2.25,
    }
    return base | changes


def variety() -> list[dict[str, Any]]:
    names = "precision recall density coverage near_duplicates ms_ssim_within ssim_nearest".split()
    return [record(metric=name, value=0.625, biased=False) for name in names]


def privacy() -> dict[str, Any]:
    copies = {"metric": "near copy", "detector": "thumbnails", "count": 3, "n_synthetic": 9}
    share = {"metric": "dcr_share", "label": "overall", "extractor": "thumbnails", "value": 0.75}
    return {
        "verdict": "copies found",
        "text": "3 of 9 are near copies by thumbnails.",
        "copies": [{**copies, "expected_false_alarms": 0.5}],
        "records": [{**share, "interval": [0.6, 0.9], "floor": 0.5}],
        "pairs": PAIRS,
    }


def unmeasured(**changes: Any) -> dict[str, Any]:
    empty = dict.fromkeys(["value", "interval", "floor", "floor_range", "floor_n", "floor_held_out"])
    return record(**empty, biased=False, note="not measured, n=3", label=NAMES[1]) | changes


def classifier() -> dict[str, Any]:
    interval = [-0.02, 0.05]
    scores = [
        {"arm": arm, "metric": metric, "value": 0.4, "interval": [0.3, 0.5]}
        for arm in ("real", "composite")
        for metric in ("macro_f1", "f1 healthy")
    ]
    compared = {"difference": 0.015, "interval": interval, "n": 8, "seeds": 3}
    comparisons = [
        {"metric": "macro_f1", "verdict": "no evidence", "sentence": "", **compared},
        {"metric": "f1 healthy", **compared},
    ]
    return {"arms": scores, "comparisons": comparisons, "notes": ["every training took 30 optimizer steps"]}


def evidence(**changes: Any) -> dict[str, Any]:
    counts = {"train": [12, 8], "validation": [2, 2], "test": [4, 4], "synthetic": [5, 4]}
    base = {
        "data": {
            "real": "phantom-fundus",
            "synthetic": "runs/phantom-synthetic",
            "label_names": NAMES,
            "counts": {split: dict(zip(NAMES, values, strict=True)) for split, values in counts.items()},
            "resolution": 28,
            "channels": 1,
        },
        "generation": {"generator": {"guidance_scale": 1.5}, "requested": {"healthy": 5}},
        "extractor": {"name": record()["extractor"], "dimension": 128, "note": "validation macro-F1 0.700"},
        "measurements": [
            record(),
            record(metric="kid", biased=False),
            unmeasured(),
            record(reference="train"),
            *variety(),
        ],
        "collapse": {"flag": False, "sentence": "No sign of mode collapse."},
        "privacy": privacy(),
        "classifier": classifier(),
        "environment": {"command": ["clinsynth", "evaluate"], "python": "3.12", "packages": {}, "git_commit": None},
    }
    return base | changes


def render(**changes: Any) -> str:
    return render_image_report(evidence(**changes), choose_images(arrays((12, 8)), arrays((5, 4)), PAIRS, seed=0))


class Reader(HTMLParser):
    """Collects attributes that could reach outside the page, and whether tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.images = 0
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.images += tag == "img"
        assert tag not in ("script", "link", "iframe")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("path", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_with_the_same_number_of_pictures_a_side() -> None:
    page = render()
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert all(address.startswith("data:image/png;base64,") for address in reader.addresses)
    assert reader.images == 2 * (5 + 4) + 2 * len(PAIRS)
    for source in ("real", "synthetic"):
        assert page.count(f'<p class="soft">{source}</p>') == 2
    assert not re.search(r"https?://|url\(|@import", page)


def test_the_page_holds_every_number_with_interval_floor_and_n() -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", render())
    assert "2.00 to 4.50" in text and "8 / 9" in text and "not measured, n=3" in text
    assert "biased" in text and "extractor was trained on the real train split" in text
    assert "no evidence" in text and "+0.015" in text and "every training took 30 optimizer steps" in text
    assert "2.25 at n → ∞" in text and "0.625" in text and "No sign of mode collapse." in text
    assert "3 of 9" in text and "0.600 to 0.900" in text and "exact copy" in text and "guidance_scale" in text
    assert "&lt;ill&gt; &amp; rare" in render() and "<ill>" not in render()


def test_the_page_says_what_it_cannot_say() -> None:
    page = render()
    assert "not medical data" in page and "No clinician has judged" in page
    assert "not comparable with published FID" in page and "Keep it as private" in page
    inception = {"name": "inception-2015-12-05.pt (TorchScript, sha256 abc)", "dimension": 2048, "note": ""}
    real = evidence()["data"] | {"real": "retina.npz"}
    page = render(extractor=inception, data=real)
    assert "not comparable with published FID" not in page and "not medical data" not in page


def test_the_page_stands_without_optional_parts() -> None:
    page = render(generation=None, classifier=None, measurements=[unmeasured(label="overall")])
    assert "no generation.json" in page and "<code>--classifier none</code>" in page


def test_whiskers_of_a_table_share_a_scale() -> None:
    rows = [record(), record(label="healthy", value=9.0, interval=[8.0, 10.0]), unmeasured()]
    first, second, third = next(distance_tables(rows))["rows"]
    assert first["marks"]["zero"] == second["marks"]["zero"] == 6
    assert second["marks"]["high"] == 194
    low, value, high = (first["marks"][name] for name in ("low", "value", "high"))
    assert low < value < high < second["marks"]["low"]
    assert first["marks"]["floor"] < first["marks"]["floor_held_out"] < low
    assert third["marks"] is None


def test_pictures_are_kept_pixel_for_pixel() -> None:
    import base64
    import io

    from PIL import Image

    for channels in (1, 3):
        image = arrays((1, 1), channels).images[0]
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encode_png(image).partition(",")[2]))))
        assert (decoded.reshape(28, 28, channels).transpose(2, 0, 1) == image).all()


def test_pictures_are_chosen_by_seed() -> None:
    def draw(seed: int) -> list[str]:
        return choose_images(arrays((30, 30)), arrays((30, 30)), [], seed)["classes"][0]["synthetic"]

    assert draw(0) == draw(0) != draw(1)
    assert len(draw(0)) == 8


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.00"), (-0.00123, "−0.00123"), (12.345, "12.3"), (123.4, "123"), (4567.8, "4568")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_intervals_are_ranges() -> None:
    assert format_interval((1.0, 2.0)) == "1.00 to 2.00"
    assert format_interval(None) == "no interval"
