"""Precision, recall, density, coverage: against the authors' package; intervals; with `evaluate`."""

import contextlib
import io
import json
from pathlib import Path

import evaluate
import numpy as np
import pytest
from warm_python import WarmPython

from clinsynth.metrics.prdc.prdc import BLOCK_ROWS, NAMES, count_blocks, prdc, prdc_intervals

FOLDER = Path(__file__).parent.parent / "metrics" / "prdc"


def two_sets(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)), generator.normal(0.3, 0.8, size=(m, d))


@pytest.mark.parametrize(("n", "m", "d", "k"), [(BLOCK_ROWS + 130, 400, 12, 5), (60, 90, 4, 3), (12, 8, 2, 1)])
def test_agrees_with_the_package_prdc(n: int, m: int, d: int, k: int) -> None:
    package = pytest.importorskip("prdc", reason="the package prdc is not installed; pip install prdc")
    real, synthetic = two_sets(n, m, d)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = package.compute_prdc(real, synthetic, k)
    assert prdc(real, synthetic, k) == pytest.approx({name: float(theirs[name]) for name in NAMES}, rel=1e-12)


def test_agrees_with_the_definitions() -> None:
    real, synthetic = two_sets(40, 30, 8)
    tables = [np.linalg.norm(a[:, None] - b[None], axis=2) for a, b in ((real, real), (synthetic, synthetic))]
    radii = [np.sort(table, axis=1)[:, 5] for table in tables]  # entry 0 is the row itself
    cross = np.linalg.norm(real[:, None] - synthetic[None], axis=2)
    inside = cross < radii[0][:, None]
    expected = {
        "precision": inside.any(0).mean(),
        "recall": (cross < radii[1]).any(1).mean(),
        "density": inside.sum() / 5 / 30,
        "coverage": inside.any(1).mean(),
    }
    assert prdc(real, synthetic) == pytest.approx(expected, rel=1e-12)
    assert 0.2 < expected["recall"] < 0.95 and 0.2 < expected["coverage"] < 1


def test_blocks_are_counted_and_rows_far_from_zero_measured_alike() -> None:
    real, synthetic = two_sets(BLOCK_ROWS + 5, 30, 3)
    calls: list[None] = []
    near = prdc(real, synthetic, on_block=lambda: calls.append(None))
    assert len(calls) == count_blocks(len(real), len(synthetic)) == 3 + 1 + 2
    assert prdc(real + 1e4, synthetic + 1e4) == near


def test_a_row_repeated_has_no_recall_whatever_the_rounding() -> None:
    real = two_sets(50, 5, 7)[0]
    assert prdc(real, np.repeat(real[:2], 10, axis=0))["recall"] == 0
    assert prdc(real, real) == pytest.approx({**prdc(real, real), "precision": 1, "recall": 1, "coverage": 1})


def test_interval_is_as_wide_as_fresh_samples_spread() -> None:
    draws = [two_sets(150, 120, 6, seed) for seed in range(60)]
    values = np.array([list(prdc(*draw).values()) for draw in draws])
    intervals = [prdc_intervals(*draw, n_replicates=60, seed=i) for i, draw in enumerate(draws[:20])]
    for i, name in enumerate(NAMES):
        low, high = np.array([interval[name] for interval in intervals]).T
        covers = (low <= values[:, i].mean()) & (values[:, i].mean() <= high)
        assert covers.mean() >= 0.8
        assert 0.7 < np.mean(high - low) / (2 * 1.96 * values[:, i].std()) < 1.6
    with pytest.raises(ValueError, match="intervals need at least 20 rows a side, got 12 and 24"):
        prdc_intervals(draws[0][0][:12], draws[0][1][:24])
    assert prdc_intervals(*draws[0], n_replicates=5, seed=3) == prdc_intervals(*draws[0], n_replicates=5, seed=3)


@pytest.mark.parametrize(
    ("real", "synthetic", "message"),
    [
        (np.zeros((5, 4)), np.zeros((9, 4)), "real features must be a matrix of more than nearest_k = 5 rows"),
        (np.zeros((9, 4)), np.full((9, 4), np.nan), "synthetic features hold NaN"),
        (np.zeros((9, 4)), np.zeros((9, 3)), "4 columns, synthetic 3"),
    ],
)
def test_refuses_what_has_no_manifold(real: np.ndarray, synthetic: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prdc(real, synthetic)


def test_loads_with_evaluate_from_its_folder_overall_and_per_class() -> None:
    real, synthetic = two_sets(40, 30, 3)
    metric = evaluate.load(str(FOLDER), keep_in_memory=True)
    metric.add_batch(features=np.concatenate([real, synthetic]), source=["real"] * 40 + ["synthetic"] * 30)
    result = metric.compute(nearest_k=3, n_replicates=8, seed=5)
    assert {name: result[name] for name in NAMES} == prdc(real, synthetic, 3)
    assert result["intervals"] == prdc_intervals(real, synthetic, 3, 8, 5)

    metric = evaluate.load(str(FOLDER), "per_class", keep_in_memory=True)
    metric.add_batch(features=real, source=["real"] * 40, label=["a"] * 20 + ["b"] * 20)
    metric.add_batch(features=synthetic, source=["synthetic"] * 30, label=["a"] * 10 + ["b"] * 20)
    result = metric.compute()
    assert {name: result["a"][name] for name in NAMES} == prdc(real[:20], synthetic[:10])
    assert (result["b"]["n_synthetic"], result["b"]["intervals"]) == (20, None)


ONE_OF_TWO = """
import json, sys
import evaluate
import numpy as np

folder, cache, rows, process = sys.argv[1:4] + [int(sys.argv[4])]
given = json.loads(open(rows).read())[process]
metric = evaluate.load(folder, num_process=2, process_id=process, experiment_id="two", cache_dir=cache)
metric.add_batch(features=given["features"], source=given["source"])
print(json.dumps(metric.compute()))
"""


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    real, synthetic = two_sets(40, 30, 3)
    rows, source = np.concatenate([real, synthetic]), ["real"] * 40 + ["synthetic"] * 30
    halves = [{"features": rows[i::2].tolist(), "source": source[i::2]} for i in (0, 1)]
    (tmp_path / "rows.json").write_text(json.dumps(halves))
    words = ("-c", ONE_OF_TWO, FOLDER, tmp_path / "cache", tmp_path / "rows.json")
    with WarmPython(*words, 0) as one, WarmPython(*words, 1) as other:
        ends = [one.end(), other.end()]
    assert [code for code, _, _ in ends] == [0, 0], ends
    first, second = (json.loads(output.splitlines()[-1]) for _, output, _ in ends)
    assert second is None  # the first process computes for both
    assert {name: first[name] for name in NAMES} == pytest.approx(prdc(real, synthetic), rel=1e-12)
    assert (first["n_real"], first["n_synthetic"]) == (40, 30)
