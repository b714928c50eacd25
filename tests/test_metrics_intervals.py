"""Intervals of the bootstrap, and what a stopped run keeps of its work."""

from pathlib import Path

import numpy as np
import pytest

from clinsynth.metrics.comparisons import split_halves
from clinsynth.metrics.intervals import bootstrap, bootstrap_interval, centred_interval, percentile_interval
from clinsynth.metrics.privacy.closest_records import relabel
from clinsynth.run_folder import Kept, kept_arrays


def test_replicates_are_draws_of_all_sides_by_one_generator() -> None:
    sides = [np.arange(5.0), np.arange(10.0, 17.0)]
    drawn: list[np.ndarray] = []
    found = bootstrap(lambda a, b: drawn.extend([a, b]) or float(b.mean() - a.mean()), sides, 3, [4, 5])
    generator = np.random.default_rng([4, 5])
    for side, rows in zip(sides * 3, drawn, strict=True):
        np.testing.assert_array_equal(rows, side[generator.integers(len(side), size=len(side))])
    assert found.tolist() == [b.mean() - a.mean() for a, b in zip(drawn[::2], drawn[1::2], strict=True)]
    assert bootstrap_interval(np.mean, [sides[0]], 0, [0]) is None
    assert bootstrap_interval(np.mean, [sides[0]], 50, [0]) == percentile_interval(
        bootstrap(np.mean, [sides[0]], 50, [0])
    )


def test_intervals_are_quantiles() -> None:
    values = np.random.default_rng(0).normal(size=999)
    assert percentile_interval(values) == tuple(np.quantile(values, [0.025, 0.975]))
    assert percentile_interval(values, 0.5) == tuple(np.quantile(values, [0.25, 0.75]))
    low, high = percentile_interval(values + 3)
    assert centred_interval(values + 3, 2.0, -9) == pytest.approx((low - 1, high - 1), abs=0.1)
    assert centred_interval(values, 0.5) == (0.0, pytest.approx(high - 2.5, abs=0.1))
    assert centred_interval(values, 0.5, highest=0.7) == (0.0, 0.7)


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    path, made = tmp_path / "kept.json", iter([[1.5], {"a": None}])
    kept = Kept(path)
    assert kept.get("x", lambda: next(made)) == [1.5]
    assert Kept(path).get("x", lambda: next(made)) == [1.5]
    assert Kept(path).get("y", lambda: next(made)) == {"a": None}
    assert Kept(path).values == {"x": [1.5], "y": {"a": None}}
    with pytest.raises(KeyError):
        kept.get("z", lambda: {}["nothing"])
    path.write_text('{"x": [1.')
    with pytest.raises(ValueError, match=r"kept\.json is damaged.*makes it anew"):
        Kept(path)


def test_kept_arrays(tmp_path: Path) -> None:
    path, array = tmp_path / "new" / "arrays.safetensors", np.arange(6.0).reshape(2, 3).T
    assert kept_arrays(path, lambda: {"values": array})["values"].tolist() == array.tolist()
    found = kept_arrays(path, dict)
    assert found["values"].dtype == np.float64 and found["values"].tolist() == array.tolist()
    path.write_bytes(b"\0" * 9)
    with pytest.raises(ValueError, match=r"arrays\.safetensors is damaged"):
        kept_arrays(path, dict)


def in_fives(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row five times, nearly, and whose they are."""
    several = np.repeat(rows, 5, axis=0)
    return several + np.random.default_rng(9).normal(0, 0.05, several.shape), np.repeat(np.arange(len(rows)), 5)


@pytest.mark.parametrize("metric", ["frechet", "kid", "mmd", "prdc"])
def test_persons_are_resampled_with_all_their_rows(metric: str) -> None:
    """Five rows a person tell hardly more than one: the interval by persons is about the square root of five wider."""
    from clinsynth.metrics.frechet.frechet import frechet_interval
    from clinsynth.metrics.kid.kid import kernel_interval
    from clinsynth.metrics.mmd.mmd import mmd_interval
    from clinsynth.metrics.prdc.prdc import prdc_intervals

    generator = np.random.default_rng(0)
    real, persons = in_fives(generator.normal(size=(40, 3)))
    made = generator.normal(size=(400, 3)) + 0.5
    interval = {
        "frechet": lambda **own: frechet_interval(real, made, 200, **own),
        "kid": lambda **own: kernel_interval(real, made, 200, **own),
        "mmd": lambda **own: mmd_interval(real, made, 2.0, 200, **own),
        "prdc": lambda **own: prdc_intervals(real, made, 5, 200, **own)["density"],
    }[metric]
    by_rows, by_persons = (np.diff(interval(**own))[0] for own in ({}, {"persons": persons}))
    assert by_persons > 1.4 * by_rows


def test_the_bootstrap_draws_persons_and_halves_divide_them() -> None:
    values, persons = in_fives(np.random.default_rng(1).normal(size=(30, 1)))
    widths = [np.diff(bootstrap_interval(np.mean, [values], 300, [0], own))[0] for own in (None, [persons])]
    assert widths[1] > 1.7 * widths[0]
    one, other = split_halves(np.repeat(np.arange(2), 75), 0, persons)
    assert len(one) == len(other) == 75 and not set(persons[one]) & set(persons[other])
    signs = np.where(persons < 15, 1, -1).astype(np.int8)
    shuffled = relabel(signs, np.zeros(150, dtype=int), np.random.default_rng(0), persons)
    assert all(len(set(shuffled[persons == person])) == 1 for person in range(30)) and (shuffled != signs).any()
