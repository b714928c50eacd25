"""Records of diversity, and mode collapse read from them: repeats are flagged, held-out real pictures are not."""

from dataclasses import replace

import numpy as np
import pytest

from clinsynth.metrics.collapse import read_collapse
from clinsynth.metrics.manifold_measurement import measure_manifold, near_duplicates
from clinsynth.metrics.measurement import Features, MeasurementSettings, comparisons
from clinsynth.metrics.picture_measurement import measure_pictures
from clinsynth.metrics.prdc.prdc import NAMES, prdc
from clinsynth.metrics.ssim.ssim import ssim_to_nearest, within_class

SETTINGS = MeasurementSettings(extractor="means of 4 x 4 pixels", replicates=30, seed=4)
NAMES_OF_CLASSES = ["dim", "bright"]


def pictures(counts: tuple[int, int], seed: int) -> Features:
    """Smooth random fields 32 x 32 about a grey level of their class."""
    generator, labels = np.random.default_rng(seed), np.repeat([0, 1], counts)
    coarse = generator.normal(0, 25, size=(len(labels), 1, 4, 4)).repeat(8, axis=2).repeat(8, axis=3)
    fine = generator.normal(0, 4, size=(len(labels), 1, 32, 32))
    level = np.array([90, 150])[labels][:, None, None, None]
    return Features(np.clip(level + coarse + fine, 0, 255).astype(np.uint8), labels)


def embed(side: Features) -> Features:
    """The means of 4 x 4 pixels as features (n, 64)."""
    blocks = side.rows.reshape(len(side), 8, 4, 8, 4).mean((2, 4))
    return Features(blocks.reshape(len(side), 64), side.labels)


def repeated(side: Features, count: int, prototypes: int = 5) -> Features:
    """`count` pictures a class, each one of a few with slight noise."""
    generator = np.random.default_rng(9)
    chosen = np.concatenate([np.flatnonzero(side.labels == label)[:prototypes] for label in (0, 1)])
    rows = np.concatenate([np.resize(chosen[side.labels[chosen] == label], count) for label in (0, 1)])
    noise = generator.normal(0, 2, size=side.rows[rows].shape)
    return Features(np.clip(side.rows[rows] + noise, 0, 255).astype(np.uint8), side.labels[rows])


def records_of(synthetic: Features, real: Features, other: Features) -> list[dict]:
    records = []
    sides = (synthetic, real, other)
    for label, *compared in comparisons(*sides, NAMES_OF_CLASSES, seed=0):
        records += measure_pictures(label, "train", *compared, SETTINGS)
        records += measure_manifold(label, "train", *(embed(side) for side in compared), SETTINGS)
    return [record.to_dict() for record in records]


REAL, OTHER, FRESH = pictures((70, 60), 0), pictures((50, 40), 1), pictures((60, 50), 2)


def test_a_few_pictures_repeated_are_flagged_and_held_out_real_ones_are_not() -> None:
    collapsed = read_collapse(records_of(repeated(REAL, 50), REAL, OTHER))
    assert collapsed["flag"] and set(collapsed["labels"]) == {"overall", "dim", "bright"}
    assert collapsed["sentence"].startswith("Mode collapse in the set as a whole, class dim, class bright: the gener")
    assert "near-duplicates among the outputs 1.00" in collapsed["sentence"]
    severity = {(r["label"], r["metric"]): r["severity"] for r in collapsed["readings"]}
    assert severity["overall", "recall"] > 0.5 and severity["overall", "near_duplicates"] > 0.9
    assert 0.1 < severity["dim", "ms_ssim_within"] < 0.35  # five pictures: a fifth of the pairs alike

    honest = read_collapse(records_of(FRESH, REAL, OTHER))
    assert not honest["flag"] and not honest["labels"]
    assert honest["sentence"].startswith("No sign of mode collapse. Recall 0.")
    assert len(honest["readings"]) == 3 * 4


def test_one_collapsed_class_is_named() -> None:
    few = repeated(REAL, 50)
    mixed = Features(
        np.concatenate([FRESH.rows[FRESH.labels == 0], few.rows[few.labels == 1]]),
        np.concatenate([FRESH.labels[FRESH.labels == 0], few.labels[few.labels == 1]]),
    )
    reading = read_collapse(records_of(mixed, REAL, OTHER))
    assert reading["flag"] and "bright" in reading["labels"] and "dim" not in reading["labels"]


def test_noise_misses_the_real_variety_without_being_collapse() -> None:
    noise = np.random.default_rng(5).integers(0, 256, size=(100, 1, 32, 32)).astype(np.uint8)
    reading = read_collapse(records_of(Features(noise, np.repeat([0, 1], 50)), REAL, OTHER))
    assert not reading["flag"]
    assert reading["sentence"].startswith("No mode collapse, but part of the real variety is missing")


def test_too_few_pictures_are_not_judged() -> None:
    reading = read_collapse(records_of(pictures((9, 4), 3), pictures((8, 7), 0), pictures((4, 4), 1)))
    assert (reading["flag"], reading["readings"]) == (False, [])
    assert "was not judged" in reading["sentence"]
    assert read_collapse(records_of(FRESH, REAL, OTHER), reference="test")["readings"] == []


def test_manifold_records_hold_values_intervals_and_floors() -> None:
    sides = [embed(side) for side in (FRESH, REAL, OTHER)]
    records = {record.metric: record for record in measure_manifold("overall", "train", *sides, SETTINGS)}
    assert list(records) == [*NAMES, "near_duplicates"]
    values, held_out = prdc(sides[1].rows, sides[0].rows), prdc(sides[1].rows, sides[2].rows)
    for name in NAMES:
        record = records[name]
        assert (record.value, record.floor_held_out) == (values[name], held_out[name])
        assert record.interval is not None and record.floor_range is not None and record.floor is not None
        assert record.interval[0] <= values[name] <= record.interval[1]
        assert record.floor_range[0] <= record.floor <= record.floor_range[1]
        assert (record.n_real, record.n_synthetic, record.floor_n, record.note) == (130, 110, 65, "k = 5")
    assert records["near_duplicates"].value == pytest.approx(near_duplicates(sides[0].rows, sides[1].rows, 4).mean())
    without = measure_manifold("overall", "train", *sides, replace(SETTINGS, replicates=0))
    assert all(record.interval is None and record.value is not None for record in without)


def test_near_duplicates_count_copies_at_equal_n() -> None:
    real = np.random.default_rng(0).normal(size=(100, 4))
    fresh = np.random.default_rng(1).normal(size=(300, 4))
    assert near_duplicates(fresh, real).shape == (100,)
    assert near_duplicates(fresh, real).mean() < 0.1
    copied = fresh[:80].copy()
    copied[40:50] = copied[30:40]
    assert near_duplicates(copied, real)[30:50].all()


def test_picture_records_hold_values_floors_and_say_how_many_scales() -> None:
    within, nearest = measure_pictures("overall", "train", FRESH, REAL, OTHER, SETTINGS)
    assert (within.metric, nearest.metric, within.extractor) == ("ms_ssim_within", "ssim_nearest", "pixels")
    assert within.value == pytest.approx(within_class(FRESH.rows, FRESH.labels, 4).mean())
    assert within.floor_held_out == pytest.approx(within_class(OTHER.rows, OTHER.labels, 4).mean())
    assert (within.floor_n, within.n_real, nearest.floor_n) == (130, 130, 65)
    assert within.note.startswith("MS-SSIM on 2 of 5 scales (32 x 32 pixels)")
    assert nearest.value == pytest.approx(ssim_to_nearest(FRESH.rows, REAL.rows).mean())
    assert nearest.floor_held_out == pytest.approx(ssim_to_nearest(OTHER.rows, REAL.rows).mean())
    assert nearest.interval is not None and nearest.value is not None
    assert nearest.interval[0] < nearest.value < nearest.interval[1]
    copies = measure_pictures("overall", "train", repeated(REAL, 50), REAL, OTHER, SETTINGS)[1]
    assert copies.interval is not None and nearest.floor_held_out is not None
    assert copies.interval[0] > nearest.floor_held_out + 0.1


def test_pictures_too_small_for_a_window_get_a_note() -> None:
    small = Features(FRESH.rows[:, :, :8, :8], FRESH.labels)
    records = measure_pictures("overall", "train", small, small, None, SETTINGS)
    assert all(record.value is None and "needs 11 x 11 pixels" in record.note for record in records)
