"""phantom-fundus: deterministic, as unequal as it says, with lesions that are really there and can be counted."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import label as components

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import load_image_dataset
from clinsynth.data.phantom_fundus import (
    GRADES,
    LESION_RANGES,
    LESIONS,
    SPLIT_COUNTS,
    draw_eye,
    draw_fundus,
    draw_split,
    parse_spec,
    sample_eye,
)
from clinsynth.data.sources import share_out

SMALL = "phantom-fundus?size=28&train=60&validation=10&test=15"


def grade_of(counts: dict[str, int]) -> int:
    """The grade that the true counts of an image stand for; the rule behind the table of phantom_fundus.py."""
    if counts["new_vessels"]:
        return 4
    if counts["haemorrhages"] >= LESION_RANGES[3]["haemorrhages"][0]:
        return 3
    if counts["haemorrhages"] or counts["exudates"]:
        return 2
    return 1 if counts["microaneurysms"] else 0


def healthy_and_ill(kind: str, count: int, seed: int, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """The same eye without and with lesions of one kind, float64 (size, size, 3)."""
    pictures = []
    for number in (0, count):
        generator = np.random.default_rng(seed)
        eye = sample_eye(generator)
        counts = dict.fromkeys(LESIONS, 0) | {kind: number}
        pictures.append(np.asarray(draw_eye(eye, counts, size, generator), dtype=np.float64))
    return pictures[0], pictures[1]


def test_spec_gives_labelled_splits_with_the_true_counts():
    splits = load_image_dataset(ImageDataArguments(SMALL))
    train = splits["train"]
    assert {name: len(split) for name, split in splits.items()} == {"train": 60, "validation": 10, "test": 15}
    assert np.bincount(train["label"]).tolist() == [27, 7, 11, 11, 4]
    assert train.features["label"].names == GRADES
    assert set(train.column_names) == {"image", "label", "laterality", *LESIONS}
    assert train["image"][0].size == (28, 28) and train["image"][0].mode == "RGB"
    for row in train.remove_columns("image"):
        assert grade_of(row) == row["label"]


def test_proportions_of_the_whole_set_are_retinamnists():
    options = parse_spec("phantom-fundus", None)
    for split, counts in SPLIT_COUNTS.items():
        assert share_out(options.totals[split], counts) == list(counts)
    assert options.totals == {"train": 1080, "validation": 120, "test": 400} and options.size == 64


def test_it_draws_at_the_resolution_asked_for():
    assert parse_spec("phantom-fundus", 32).size == 32
    assert parse_spec("phantom-fundus?size=48", 32).size == 48


def test_share_out_leaves_no_class_empty():
    for total in (5, 6, 7, 23, 300):
        shares = share_out(total, SPLIT_COUNTS["train"])
        assert sum(shares) == total and min(shares) >= 1


def test_same_seed_same_pictures_other_seed_others():
    first, again, other = (list(draw_split("test", parse_spec(f"{SMALL}&seed={seed}", None))) for seed in (3, 3, 4))
    assert first == again
    assert all(a["image"]["bytes"] != b["image"]["bytes"] for a, b in zip(first, other, strict=True))


def test_splits_share_no_picture():
    options = parse_spec(SMALL, None)
    pictures = [row["image"]["bytes"] for split in SPLIT_COUNTS for row in draw_split(split, options)]
    assert len(set(pictures)) == len(pictures) == 85


def test_every_grade_keeps_to_its_counts_and_they_tell_it():
    for grade, ranges in enumerate(LESION_RANGES):
        for seed in range(10):
            _, truth = draw_fundus(grade, 28, np.random.default_rng([grade, seed]))
            assert all(low <= truth[lesion] <= high for lesion, (low, high) in ranges.items())
            assert grade_of(truth) == grade


@pytest.mark.parametrize(
    ("kind", "count", "channel", "sign"),
    [("microaneurysms", 6, 0, -1), ("haemorrhages", 10, 0, -1), ("exudates", 8, 1, 1)],
)
def test_lesions_can_be_counted_at_64_pixels(kind, count, channel, sign):
    for seed in range(8):
        healthy, ill = healthy_and_ill(kind, count, seed)
        change = sign * (ill - healthy)[..., channel]
        assert components(change > 25, np.ones((3, 3)))[1] == count


def test_new_vessels_can_be_seen_at_64_pixels():
    for seed in range(8):
        healthy, ill = healthy_and_ill("new_vessels", 2, seed)
        assert (np.abs(ill - healthy).max(2) > 25).sum() > 30


def test_laterality_is_the_side_of_the_disc():
    for seed in range(8):
        image, truth = draw_fundus(0, 64, np.random.default_rng(seed))
        brightness = np.asarray(image, dtype=float)[..., 2]
        half = "right" if brightness.max(0).argmax() >= 32 else "left"
        assert truth["laterality"] == half


def test_the_field_is_a_disc_on_black():
    pixels = np.asarray(draw_fundus(2, 64, np.random.default_rng(0))[0])
    corners = pixels[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).all() and pixels[32, 32, 0] > 60


def test_the_same_eye_at_every_size():
    small, large = (draw_fundus(3, size, np.random.default_rng(5))[1] for size in (28, 128))
    assert small == large
    pictures = [draw_fundus(3, size, np.random.default_rng(5))[0] for size in (64, 128)]
    halved = np.asarray(pictures[1].resize((64, 64), Image.Resampling.BOX), dtype=float)
    assert np.corrcoef(halved.ravel(), np.asarray(pictures[0], dtype=float).ravel())[0, 1] > 0.98


@pytest.mark.parametrize("options", ["size=20", "size=300", "seed=-1", "train=4", "colour=red", "size=", "size=a"])
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="phantom-fundus"):
        load_image_dataset(ImageDataArguments(f"phantom-fundus?{options}"))
