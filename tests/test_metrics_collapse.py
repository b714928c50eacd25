"""Records of diversity, and mode collapse read from them: repetition is flagged; blur, noise and real data are not."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.ndimage import shift as shifted

from clinsynth.data.phantom_fundus import draw_fundus
from clinsynth.metrics.comparisons import Comparison, comparisons
from clinsynth.metrics.distances import measure_manifold
from clinsynth.metrics.findings import read_collapse
from clinsynth.metrics.images import likeness
from clinsynth.metrics.images.likeness import ImageRows, measure_images, near_duplicates, smooth_like, thumbnails
from clinsynth.metrics.prdc.prdc import NAMES, prdc
from clinsynth.metrics.records import Features, MeasurementSettings
from clinsynth.metrics.ssim.ssim import ssim_to_nearest, within_class
from clinsynth.models.image_classifiers import build_small_resnet, pooled_features

SETTINGS = MeasurementSettings(extractor="small ResNet, untrained", replicates=20, seed=4)
NAMES_OF_CLASSES = ["healthy", "ill"]
MISSING = (
    "No mode collapse, but part of the real variety is missing, or drawn unli",
    "Covers none of the real variety",
)
"""The second where recall or coverage is 0."""
Make = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def eyes(counts: tuple[int, int], seed: int) -> Features:
    """Drawn eyes of grade 0 and grade 3, grey, 32 x 32."""
    generator, labels = np.random.default_rng(seed), np.repeat([0, 1], counts)
    pictures = [np.asarray(draw_fundus(3 * label, 32, generator)[0].convert("L")) for label in labels]
    return Features(np.stack(pictures)[:, None], labels)


@cache
def network():
    return build_small_resnet(2, 1, seed=0).eval()


def embed(side: Features) -> Features:
    """Features (n, 64) of a network with random weights: fine detail counts in them, as in those of a trained one."""
    return Features(pooled_features(network(), side.rows).astype(np.float64), side.labels)


def records_of(synthetic: Features, real: Features, other: Features) -> list[dict]:
    records = []
    sides = {"synthetic": synthetic, "train": real, "test": other}
    for comparison in comparisons(sides, "train", "test", NAMES_OF_CLASSES, seed=0):
        records += measure_images(comparison, SETTINGS)
        records += measure_manifold(comparison.map(embed), SETTINGS)
    return [record.to_dict() for record in records]


REAL, OTHER, FRESH = eyes((70, 60), 0), eyes((50, 40), 1), eyes((60, 50), 2)


def read(synthetic: Features) -> dict:
    return read_collapse(records_of(synthetic, REAL, OTHER))


def to_bytes(pictures: np.ndarray) -> np.ndarray:
    return np.clip(np.round(pictures), 0, 255).astype(np.uint8)


def blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    return to_bytes(gaussian_filter(pictures.astype(np.float64), (0, 0, sigma, sigma)))


def noisy(pictures: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return to_bytes(pictures + generator.normal(0, 15, size=pictures.shape))


def gaussian(pictures: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draws from the normal distribution with the mean and the covariance of the pictures."""
    mean = pictures.mean(0)
    weights = generator.normal(size=(len(pictures), len(pictures))) / np.sqrt(len(pictures) - 1)
    return to_bytes(mean + np.tensordot(weights, pictures - mean, 1))


def repeated(prototypes: int, share: float = 1.0, sigma: float = 0.0) -> Make:
    """`share` of the pictures replaced by a few of them by turns, moved by up to a pixel, blurred, slightly noisy."""

    def make(pictures: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        count = round(share * len(pictures))
        few = np.resize(pictures[:prototypes], (count, *pictures.shape[1:])).astype(np.float64)
        moved = np.stack([shifted(x, (0, *generator.integers(-1, 2, size=2)), order=1, mode="nearest") for x in few])
        made = to_bytes(gaussian_filter(moved, (0, 0, sigma, sigma)) + generator.normal(0, 2, size=moved.shape))
        return np.concatenate([made, pictures[count:]])

    return make


def mixed(prototypes: int) -> Make:
    """Each picture a weighted mean of two of a few."""

    def make(pictures: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        pairs = np.array([generator.choice(prototypes, size=2, replace=False) for _ in pictures])
        weight = generator.random((len(pictures), 1, 1, 1))
        return to_bytes(weight * pictures[pairs[:, 0]] + (1 - weight) * pictures[pairs[:, 1]])

    return make


def by_class(side: Features, make: Make, labels: tuple[int, ...] = (0, 1)) -> Features:
    """`side` with the pictures of each of these classes put through `make`."""
    rows, generator = side.rows.copy(), np.random.default_rng(9)
    for label in labels:
        rows[side.labels == label] = make(rows[side.labels == label], generator)
    return Features(rows, side.labels)


def test_a_few_pictures_repeated_are_flagged_and_held_out_real_ones_are_not() -> None:
    collapsed = read(by_class(FRESH, repeated(5)))
    assert collapsed["flag"] and set(collapsed["labels"]) == {"overall", "healthy", "ill"}
    assert collapsed["sentence"].startswith(
        "Mode collapse in the set as a whole, class healthy, class ill: the generator repeats itself and leaves out "
        "much of the real variety. Coverage 0."
    )
    assert "near-duplicates among the outputs 0." in collapsed["sentence"]
    severity = {(r["label"], r["metric"]): r["severity"] for r in collapsed["readings"]}
    assert severity["overall", "coverage"] > 0.5 and severity["overall", "near_duplicates"] > 0.5

    honest = read(FRESH)
    assert not honest["flag"] and not honest["labels"]
    assert honest["sentence"].startswith("No sign of mode collapse. Recall 0.")
    assert len(honest["readings"]) == 3 * 3


@pytest.mark.parametrize("sigma", [0.5, 1, 1.5, 2])
def test_blurred_real_pictures_are_no_collapse(sigma: float) -> None:
    reading = read(Features(blurred(FRESH.rows, sigma), FRESH.labels))
    assert not reading["flag"]
    if sigma >= 1:
        assert reading["sentence"].startswith(MISSING)


@pytest.mark.parametrize("make", [noisy, gaussian])
def test_noise_is_no_collapse(make: Make) -> None:
    reading = read(by_class(FRESH, make))
    assert not reading["flag"]
    if make is noisy:
        assert reading["sentence"].startswith(MISSING)


@pytest.mark.parametrize(
    "make",
    [repeated(3), repeated(10), repeated(5, sigma=1), repeated(5, sigma=2), mixed(3)],
    ids=["3 pictures", "10 pictures", "5 blurred ones", "5 very blurred ones", "between 3 pictures"],
)
def test_repetition_is_flagged(make: Make) -> None:
    reading = read(by_class(FRESH, make))
    assert {"overall", "healthy", "ill"} == set(reading["labels"])


def test_half_the_outputs_collapsed_are_flagged() -> None:
    reading = read(by_class(FRESH, repeated(5, share=0.5)))
    assert {"overall", "healthy", "ill"} == set(reading["labels"])
    assert reading["sentence"].startswith(
        "Mode collapse in the set as a whole, class healthy, class ill: the generator"
    )
    assert "leaves out" not in reading["sentence"]


def test_one_collapsed_class_is_named() -> None:
    reading = read(by_class(FRESH, repeated(5), labels=(1,)))
    assert reading["flag"] and "ill" in reading["labels"] and "healthy" not in reading["labels"]


def test_too_few_pictures_are_not_judged() -> None:
    reading = read_collapse(records_of(eyes((9, 4), 3), eyes((8, 7), 0), eyes((4, 4), 1)))
    assert (reading["flag"], reading["readings"]) == (False, [])
    assert "was not judged" in reading["sentence"]
    assert read_collapse(records_of(FRESH, REAL, OTHER), reference="test")["readings"] == []


def test_manifold_records_hold_values_intervals_and_floors() -> None:
    sides = [embed(side) for side in (FRESH, REAL, OTHER)]
    records = {record.metric: record for record in measure_manifold(Comparison("overall", "train", *sides), SETTINGS)}
    assert list(records) == list(NAMES)
    values, held_out = prdc(sides[1].rows, sides[0].rows), prdc(sides[1].rows, sides[2].rows)
    for name in NAMES:
        record = records[name]
        assert (record.value, record.floor_held_out) == (values[name], held_out[name])
        assert record.interval is not None and record.floor_range is not None and record.floor is not None
        assert record.interval[0] <= values[name] <= record.interval[1]
        assert record.floor_range[0] <= record.floor <= record.floor_range[1]
        assert (record.n_real, record.n_synthetic, record.floor_n, record.note) == (130, 110, 65, "k = 5")
    without = measure_manifold(Comparison("overall", "train", *sides), replace(SETTINGS, replicates=0))
    assert all(record.interval is None and record.value is not None for record in without)


def test_near_duplicates_count_copies_at_equal_n() -> None:
    assert near_duplicates(FRESH.rows, OTHER.rows).shape == near_duplicates(OTHER.rows, FRESH.rows).shape == (90,)
    assert near_duplicates(FRESH.rows, REAL.rows).mean() < 0.05
    copied = FRESH.rows.copy()
    copied[40:50] = copied[30:40]
    assert near_duplicates(copied, REAL.rows)[30:50].all()


@pytest.mark.parametrize(("size", "thumbnail"), [(14, 14), (28, 14), (32, 16), (45, 11), (256, 16)])
def test_thumbnails_are_means_of_pixels(size: int, thumbnail: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, size=(3, 2, size, size)).astype(np.uint8)
    small, cell = thumbnails(pictures), size // thumbnail
    assert small.shape == (3, 2, thumbnail, thumbnail)
    assert small[1, 1, 2, 3] == pytest.approx(
        pictures[1, 1, 2 * cell : 3 * cell, 3 * cell : 4 * cell].mean(), abs=1e-9
    )


def test_smoothing_takes_away_what_the_model_lacks_and_adds_nothing() -> None:
    real = REAL.rows.astype(np.float64)
    soft = gaussian_filter(real, (0, 0, 1, 1))
    assert np.allclose(smooth_like(real, real), real) and np.allclose(smooth_like(soft, 2 * real), soft)
    assert np.allclose(smooth_like(real, real / 2), real / 2)
    assert np.abs(smooth_like(real, soft) - soft).mean() < 0.2 * np.abs(real - soft).mean()


def test_picture_records_hold_values_floors_and_say_how_many_scales() -> None:
    within, nearest, repeats = measure_images(Comparison("overall", "train", FRESH, REAL, OTHER), SETTINGS)
    assert (within.metric, nearest.metric, within.extractor) == ("ms_ssim_within", "ssim_nearest", "pixels")
    assert within.value == pytest.approx(within_class(FRESH.rows, FRESH.labels, 4).mean())
    assert within.floor_held_out == pytest.approx(within_class(OTHER.rows, OTHER.labels, 4).mean())
    assert (within.floor_n, within.n_real, nearest.floor_n) == (130, 130, 65)
    assert within.note.startswith("MS-SSIM on 2 of 5 scales (32 x 32 pixels)")
    assert nearest.value == pytest.approx(ssim_to_nearest(FRESH.rows, REAL.rows).mean())
    assert nearest.floor_held_out == pytest.approx(ssim_to_nearest(OTHER.rows, REAL.rows).mean())
    assert nearest.interval is not None and nearest.value is not None
    assert nearest.interval[0] < nearest.value < nearest.interval[1]
    copies = measure_images(Comparison("overall", "train", REAL.take(np.arange(50)), REAL, OTHER), SETTINGS)[1]
    assert copies.value == pytest.approx(1)
    assert (repeats.metric, repeats.extractor, repeats.floor_n) == ("near_duplicates", "pixels", 65)
    assert repeats.value == near_duplicates(FRESH.rows, REAL.rows, 4).mean()
    assert repeats.floor_held_out == near_duplicates(OTHER.rows, REAL.rows, 4).mean()
    assert repeats.interval is not None and repeats.interval[0] <= repeats.value <= repeats.interval[1]


def test_pictures_too_small_for_a_window_get_a_note() -> None:
    small = Features(FRESH.rows[:, :, :8, :8], FRESH.labels)
    records = measure_images(Comparison("overall", "train", small, small, None), SETTINGS)
    assert all(record.value is None and "needs 11 x 11 pixels" in record.note for record in records)


def test_images_on_disk_measure_the_same_and_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [side.of(ImageRows.of(side.rows)) for side in (FRESH, REAL, OTHER)]
    taken = sides[1].take(np.arange(len(REAL))[::-1]).rows
    assert isinstance(taken, ImageRows) and taken.shape == REAL.rows.shape
    assert isinstance(taken[:2], np.ndarray) and np.array_equal(taken[:2], REAL.rows[[-1, -2]])
    plain, lazy = (
        measure_images(Comparison("overall", "train", *own), SETTINGS) for own in ((FRESH, REAL, OTHER), sides)
    )
    assert plain == lazy
    monkeypatch.setattr(likeness, "MOST", 40)
    drawn = measure_images(Comparison("overall", "train", *sides), SETTINGS)
    assert {(record.n_real, record.n_synthetic) for record in drawn} == {(40, 40)}
