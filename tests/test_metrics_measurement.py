"""Measurements: label mixes are matched, halves are stratified, no number goes without its floor and n."""

import numpy as np
import pytest

from clinsynth.metrics.comparisons import Comparison, comparisons, match_labels, split_halves
from clinsynth.metrics.distances import measure_frechet, measure_kid
from clinsynth.metrics.frechet.frechet import frechet_distance, frechet_extrapolated
from clinsynth.metrics.kid.kid import kernel_distance, kernel_spread
from clinsynth.metrics.records import Features, MeasurementSettings

SETTINGS = MeasurementSettings(extractor="numbers", replicates=20, seed=4)


def features(*counts: int, d: int = 3, shift: float = 0.0) -> Features:
    labels = np.repeat(np.arange(len(counts)), counts)
    rows = np.random.default_rng(sum(counts)).normal(shift + labels[:, None], size=(len(labels), d))
    return Features(rows, labels)


def sides_of(comparison: Comparison) -> list[Features]:
    assert comparison.other is not None
    return [comparison.synthetic, comparison.real, comparison.other]


def test_matched_labels_have_the_real_mix_over_shared_classes() -> None:
    real = np.repeat([0, 1, 2, 3], [50, 20, 10, 0])
    synthetic = np.repeat([0, 1, 2, 3], [0, 90, 30, 7])
    matched = match_labels(real, synthetic, seed=0)
    assert matched is not None
    assert np.bincount(real[matched[0]], minlength=4).tolist() == [0, 20, 10, 0]
    assert np.bincount(synthetic[matched[1]], minlength=4).tolist() == [0, 60, 30, 0]
    again = match_labels(real, synthetic, seed=0)
    assert again is not None and (matched[1] == again[1]).all()
    other = match_labels(real, synthetic, seed=1)
    assert other is not None and (matched[1] != other[1]).any()


def test_a_nearly_empty_class_does_not_shrink_the_rest() -> None:
    real, synthetic = np.repeat([0, 1, 2], [30, 30, 30]), np.repeat([0, 1, 2], [40, 50, 3])
    matched = match_labels(real, synthetic, seed=0)
    assert matched is not None
    assert np.bincount(real[matched[0]], minlength=3).tolist() == [30, 30, 0]
    assert np.bincount(synthetic[matched[1]], minlength=3).tolist() == [40, 40, 0]


def test_sets_without_a_shared_class_do_not_match() -> None:
    assert match_labels(np.array([0, 0]), np.array([1, 1]), seed=0) is None


def test_halves_are_disjoint_stratified_and_seeded() -> None:
    labels = np.repeat([0, 1, 2], [31, 8, 5])
    first, second = split_halves(labels, seed=0)
    assert sorted([*first, *second]) == list(range(44))
    difference = np.bincount(labels[first]) - np.bincount(labels[second])
    assert np.abs(difference).max() <= 1 and abs(difference.sum()) <= 1
    assert not np.array_equal(split_halves(labels, seed=1)[0], first)


def test_comparisons_are_overall_and_each_class() -> None:
    sets = features(60, 15), features(30, 30), features(20, 20)
    sides = dict(zip(("synthetic", "test", "train"), sets, strict=True))
    found = {c.label: c for c in comparisons(sides, "test", "train", ["healthy", "ill"], seed=0)}
    assert list(found) == ["overall", "healthy", "ill"]
    assert [np.bincount(side.labels).tolist() for side in sides_of(found["overall"])] == [
        [15, 15],
        [30, 30],
        [20, 20],
    ]
    assert [len(side.rows) for side in sides_of(found["ill"])] == [15, 30, 20]
    alone = next(comparisons(sides, "test", "validation", ["healthy", "ill"], seed=0))
    assert alone.other is None and alone.held_out is None


@pytest.mark.parametrize(
    ("measure", "distance"), [(measure_frechet, frechet_distance), (measure_kid, kernel_distance)]
)
def test_a_record_holds_value_interval_floors_and_settings(measure, distance) -> None:
    synthetic, real, other = features(40, shift=0.5), features(60), features(30)
    record = measure(Comparison("overall", "test", synthetic, real, other), SETTINGS)
    assert record.value == pytest.approx(distance(real.rows, synthetic.rows))
    assert record.interval is not None and record.value is not None
    assert record.interval[0] < record.value < record.interval[1]
    assert record.floor_held_out == pytest.approx(distance(real.rows, other.rows))
    assert record.floor_range is not None and record.floor is not None
    assert record.floor_range[0] < record.floor < record.floor_range[1]
    assert (record.n_real, record.n_synthetic, record.floor_n) == (60, 40, 30)
    assert (record.extractor, record.dimension, record.replicates, record.seed) == ("numbers", 3, 20, 4)


@pytest.mark.parametrize(
    ("measure", "rows", "biased"),
    [(measure_frechet, 20, True), (measure_frechet, 24, False), (measure_kid, 20, False)],
)
def test_a_frechet_distance_from_few_rows_is_marked_biased(measure, rows: int, biased: bool) -> None:
    record = measure(Comparison("overall", "test", features(rows, d=12), features(100, d=12), None), SETTINGS)
    assert record.biased is biased
    assert record.floor_held_out is None


def test_a_biased_frechet_distance_carries_its_extrapolation_and_kid_its_spread() -> None:
    synthetic, real = features(20, d=12), features(100, d=12)
    record = measure_frechet(Comparison("overall", "test", synthetic, real, None), SETTINGS)
    assert record.extrapolated == frechet_extrapolated(real.rows, synthetic.rows, seed=4)
    assert record.value is not None and record.extrapolated < record.value
    assert (
        measure_frechet(Comparison("overall", "test", features(24, d=12), real, None), SETTINGS).extrapolated is None
    )
    record = measure_kid(Comparison("overall", "test", synthetic, real, None), SETTINGS)
    assert (record.spread, record.spread_n) == (kernel_spread(real.rows, synthetic.rows, seed=4)[1], 10)
    assert record.extrapolated is None


def test_too_few_rows_give_a_note_and_no_number() -> None:
    record = measure_frechet(Comparison("ill", "test", features(9), features(100), features(100)), SETTINGS)
    assert (record.value, record.interval, record.note) == (None, None, "not measured, n=9")


def test_floor_of_halves_needs_ten_rows_a_half() -> None:
    record = measure_kid(Comparison("ill", "test", features(30), features(19), None), SETTINGS)
    assert record.value is not None
    assert (record.floor, record.floor_n) == (None, None)


def test_without_replicates_there_is_no_interval() -> None:
    comparison = Comparison("x", "test", features(30), features(30), None)
    record = measure_kid(comparison, MeasurementSettings("numbers", replicates=0))
    assert record.value is not None and record.interval is None
