"""The report: self-contained, escaped, complete, and honest about what it cannot say."""

import json
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from report_pages import check_structure

from clinsynth.data.images import ImageArrays
from clinsynth.metrics.records import Features
from clinsynth.metrics.registry import GROUPS
from clinsynth.reports.images import choose_images, distance_tables, encode_png, render_image_report
from clinsynth.reports.page import (
    Made,
    Scale,
    format_interval,
    format_number,
    records_as_csv,
    ticks_of,
    training_curves,
)

NAMES = ["healthy", "<ill> & rare"]
TRAINING = [{"step": step, "loss": 1 / step, "learning_rate": 1e-4} for step in (1, 2, 3)]
PAIRS = [
    {"synthetic_row": 3, "train_row": 1, "detector": "pixels", "verdict": "exact copy"},
    {"synthetic_row": 0, "train_row": 2, "detector": "thumbnails", "verdict": "near copy"},
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
    copies = {"metric": "near copy", "detector": "thumbnails", "count": 3, "n_synthetic": 9, "p_value": 0.001}
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
    agreed = {"source": "", "interval": [0.3, 0.4], "floor": 0.71, "chance": 0.5, "n": 4, "n_real": 4, "note": ""}
    agreement = [{**agreed, "label": label, "value": 0.34, "flag": "mixed up"} for label in (*NAMES, "overall")]
    notes = ["every training took 30 optimizer steps"]
    return {"arms": scores, "comparisons": comparisons, "label_agreement": agreement, "notes": notes}


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


def samples(**options: Any) -> dict[str, Any]:
    features = {"test": arrays((4, 4)).images, "synthetic": arrays((5, 4)).images}
    flat = {name: Features(rows.reshape(len(rows), -1), np.arange(len(rows)) % 2) for name, rows in features.items()}
    return choose_images(arrays((12, 8)), arrays((5, 4)), privacy(), 0, flat, **options)


def render(**changes: Any) -> str:
    made = Made("2026-12-01", 600.0, ("evidence.json", "evidence.csv"), training_curves(TRAINING))
    return render_image_report(evidence(**changes), samples(), made)


def test_the_page_is_one_file_with_the_same_number_of_images_a_side() -> None:
    page = render()
    reader = check_structure(page)
    assert reader.images == 2 * (5 + 4) + 2 * len(PAIRS)
    assert {"evidence.json", "evidence.csv"} <= set(reader.addresses)
    for source in ("real", "synthetic"):
        assert page.count(f'<p class="soft">{source}</p>') == 2
    assert page.index('<p class="soft">real</p>') < page.index('<p class="soft">synthetic</p>')


def test_the_head_says_what_the_set_is_suitable_for() -> None:
    page = render()
    head = re.sub(r"<[^>]+>|\s+", " ", page[page.index("<main>") : page.index("<nav")])
    assert "Only few images (9 synthetic, 8 held-out)" in head
    for question in ("Looks like real?", "Shows its class?", "As varied?", "Helps a classifier?", "Copies anybody?"):
        assert question in head
    assert "34% (real ones 71%, by chance 50%)" in head and "not suitable" in head and "Next:" in head
    tiles = re.findall(r'<li class="tile">(.*?)</li>', page, re.DOTALL)
    assert len(tiles) == 5 and all(len(re.sub(r"<[^>]+>", "", tile)) < 300 for tile in tiles)


def test_each_class_says_how_often_its_label_is_found() -> None:
    page = render()
    assert page.count("Label found in 34 % of the synthetic images, in 71 % of real test images") == 2
    assert "not measured: started with" in re.sub(r"\s+", " ", render(classifier=None))


def test_a_flagged_pair_comes_with_the_false_alarms_to_expect() -> None:
    page = render()
    assert "flagged by the detector</b> (0.500 false alarms expected)" in page and "<b>near copy</b>" not in page


def test_the_shareable_page_shows_no_real_image() -> None:
    shown = render_image_report(evidence(), samples(shareable=True))
    assert (
        check_structure(shown).images == 0 and "no real image" in shown
    )  # copies were found: no synthetic one either
    quiet = privacy() | {"verdict": "no sign", "exact": {"n_synthetic": 9, "count": 0, "splits": {}}}
    own = choose_images(arrays((12, 8)), arrays((5, 4)), quiet, 0, shareable=True)
    assert [len(one["real"]) for one in own["classes"]] == [0, 0] and own["pairs"] == []
    assert [len(one["synthetic"]) for one in own["classes"]] == [3, 4]  # less the two that are flagged
    unknown = choose_images(arrays((12, 8)), arrays((5, 4)), {**quiet, "exact": None}, 0, shareable=True)
    assert [len(one["synthetic"]) for one in unknown["classes"]] == [0, 0]


def test_an_extractor_at_chance_is_warned_of_wherever_its_numbers_stand() -> None:
    weak = {"name": "small ResNet", "dimension": 128, "note": "20 epochs, validation macro-F1 0.500"}
    assert render(extractor=weak).count('class="warning"') == 4 and 'class="warning"' not in render()


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def mixed(one: str, other: str, share: float) -> str:
    """`color-mix(in srgb, one share, transparent)` over `other`."""
    parts = [round(int(one[at : at + 2], 16) * share + int(other[at : at + 2], 16) * (1 - share)) for at in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in parts)


def test_every_colour_of_text_can_be_read_light_and_dark() -> None:
    blocks = re.findall(r":root \{(.*?)\}", render(), re.DOTALL)
    light, dark = (dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in blocks[:2])
    assert set(light) == set(dark) and len(light) == 12
    for colours in (light, dark):
        for text in ("ink", "soft", "accent", "floor", "good", "fair", "bad", "open"):
            for ground in ("ground", "panel"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        assert contrast(colours["ink"], mixed(colours["accent"], colours["ground"], 0.4)) >= 4.5  # confusion matrices


def test_the_style_leaves_no_table_wider_than_its_window() -> None:
    style = render()
    assert ".scroll { overflow-x: auto; max-width: 100%; }" in style and "@media print" in style
    widths = [int(width) for width in re.findall(r"(?<![\w-])(?:min-)?width: (\d+)px", style)]
    assert max(widths) <= 296  # a page of 320 px less its edges


def test_metrics_have_a_meaning_a_hover_or_tap_away() -> None:
    assert [metric.name for group in GROUPS.values() for metric in group if not metric.meaning] == []
    page = render()
    assert '<a class="term" href="#def-recall" title="Share of the real samples' in page
    assert '<dt id="def-recall">' in page and '<dt id="def-floor">' in page


def test_the_axis_is_in_multiples_of_the_floor() -> None:
    ticks = ticks_of(Scale(0.0, 30.0, 200.0), 1.5)
    assert [tick["label"] for tick in ticks] == ["2×", "5×", "10×", "20×"] or ticks[0]["label"] == "1×"
    places = [tick["place"] for tick in ticks]
    assert all(b - a >= 26 for a, b in pairwise(places))
    assert ticks_of(Scale(0.0, 30.0, 200.0), None) == ticks_of(Scale(-1.0, 1.0, 200.0), -0.5) == []


def test_training_is_drawn_from_metrics() -> None:
    (curve,) = training_curves(TRAINING)
    assert (curve["title"], curve["last"], curve["high"]) == ("loss", 3, 1.0) and curve["line"].count(",") == 3
    assert (
        "loss over the training" in render()
        and "10.0 min since the last start</dd>" in render()
        and "no author was named (--author)" in render()
        and training_curves([{"step": 1, "loss": 1.0}]) == []
    )


def test_the_table_of_numbers_has_every_record() -> None:
    fresh = evidence()
    for record in fresh["measurements"]:
        record["interval"] = (0.1, 0.2)
    table = records_as_csv(fresh)
    assert table == records_as_csv(json.loads(json.dumps(fresh))) and '"[0.1, 0.2]"' in table
    lines = records_as_csv(evidence()).splitlines()
    assert len(lines) == 1 + len(evidence()["measurements"]) + len(privacy()["records"])
    assert lines[0].startswith("metric,label,reference,value,interval")


def test_the_page_holds_every_number_with_interval_floor_and_n() -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", render())
    assert "2.00 to 4.50" in text and "8 / 9" in text and "not measured, n=3" in text
    assert "biased" in text and "extractor was trained on the real train split" in text
    assert "no evidence" in text and "+0.015" in text and "every training took 30 optimizer steps" in text
    assert "2.25 at n → ∞" in text and "0.625" in text and "Mode collapse in the set as a whole" in text
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
    check_structure(page)
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


def test_images_are_kept_pixel_for_pixel() -> None:
    import base64
    import io

    from PIL import Image

    for channels in (1, 3):
        image = arrays((1, 1), channels).images[0]
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encode_png(image).partition(",")[2]))))
        assert (decoded.reshape(28, 28, channels).transpose(2, 0, 1) == image).all()


def test_images_are_chosen_by_seed() -> None:
    def draw(seed: int) -> list[str]:
        nothing = {"pairs": [], "verdict": "no sign"}
        return choose_images(arrays((30, 30)), arrays((30, 30)), nothing, seed)["classes"][0]["synthetic"]

    assert draw(0) == draw(0) != draw(1)
    assert len(draw(0)) == 8


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.0, "0.00"),
        (-0.00123, "−0.00123"),
        (0.000755, "0.000755"),
        (-1.25e-08, "0.00"),
        (12.345, "12.3"),
        (123.4, "123"),
        (4567.8, "4568"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert format_number(value) == text


def test_intervals_are_ranges() -> None:
    assert format_interval((1.0, 2.0)) == "1.00 to 2.00"
    assert format_interval(None) == "no interval"
