"""How much is gained by how many synthetic samples, and from how many real ones on no more."""

from pathlib import Path

import numpy as np
import pytest
from arm_studies import FAST, brightness_data, brightness_splits, run_arms, settings

from clinsynth.reports.study import dose_views
from clinsynth.trainers.classifiers.arms import Arm, Controls
from clinsynth.trainers.classifiers.dose import dose_records, fading, falls_below, saturating

RATIOS = (0.5, 1.0, 2.0, 4.0, 8.0)


def planted(most: float, scale: float, noise: float = 0.003) -> dict[str, np.ndarray]:
    """Resampled macro-F1 of arms whose gain saturates, over a control of 0.6."""
    rng = np.random.default_rng(0)
    found = {"real": 0.6 + 0.02 * rng.normal(size=(501, 1))}
    for ratio in RATIOS:
        gain = most * (1 - np.exp(-ratio / scale)) + noise * rng.normal(size=(501, 1))
        found[f"composite_x{ratio:g}-ddpm"] = found["real"] + gain
    return found


def record(most: float, scale: float, real: int = 20) -> dict:
    arms = [Arm("real"), *(Arm("composite", "ddpm", ratio) for ratio in RATIOS)]
    (found,) = dose_records(planted(most, scale), arms, Controls("real", "real_features"), real)
    return found


def test_the_curve_of_a_planted_gain_is_found():
    ratios = np.array(RATIOS)
    most, scale = saturating(ratios, np.array([[0.2 * (1 - np.exp(-r / 1.5)) for r in RATIOS]]))
    assert most[0] == pytest.approx(0.2, abs=0.005) and scale[0] == pytest.approx(1.5, rel=0.05)
    found = record(0.2, 1.5)
    assert found["gain"]["value"] == pytest.approx(0.2, abs=0.01)
    low, high = found["enough"]["interval"]
    assert low < 1.5 * np.log(10) * 0.98 < high and [p["synthetic"] for p in found["points"]] == [10, 20, 40, 80, 160]
    assert "beside 20 real samples: 8 synthetic ones a real one change macro-F1 by +0." in found["sentence"]
    nothing = record(0.0, 1.5)
    assert nothing["gain"]["interval"][0] <= 0 and "no number of them is shown to help" in nothing["sentence"]


def test_where_the_gain_stops_is_read_between_the_sizes():
    """0.06 at 100 and 0.015 at 400: two thirds of the way down to VISIBLE, on a logarithmic axis at 252."""
    sizes = np.array([10, 100, 400])
    assert falls_below(sizes, np.array([0.2, 0.06, 0.015])) == pytest.approx(100 * 4 ** (2 / 3))
    assert falls_below(sizes, np.array([0.02, 0.06, 0.015])) == 10
    assert falls_below(sizes, np.array([0.2, 0.1, 0.05])) == np.inf
    records = [record(gain, 1.0, real) for real, gain in ((400, 0.015), (10, 0.2), (100, 0.06))]
    found = fading(records)
    assert found is not None and found["interval"][0] < 252 < found["interval"][1]
    assert "the gain is below 0.03 in macro-F1 from about" in found["sentence"]
    still = fading([record(0.2, 1.0, 10), record(0.1, 1.0, 100)])
    assert still is not None and still["value"] is None and "beyond the 100 real samples tried" in still["sentence"]
    assert fading([record(0.2, 1.0)]) is None


def test_the_page_draws_a_line_for_each_number_of_real_samples():
    records = {f"few_{real}": {"dose": [record(gain, 1.0, real)]} for real, gain in ((10, 0.2), (100, 0.06))}
    (view,) = dose_views({"classifiers": {**records, "whole": {"dose": []}}})
    assert view["name"] == "composite of ddpm" and [line["real"] for line in view["lines"]] == [10, 100]
    assert [ratio for _, ratio in view["ticks"]] == ["0.5", "1", "2", "4", "8"]
    many, few = (line["end"][1] for line in view["lines"])
    assert many < few < view["zero"] + 1 and len(view["lines"][0]["whiskers"]) == 5  # more gain is further up
    assert len(view["sentences"]) == 3 and "beyond the 100 real samples" in view["sentences"][-1]


def test_each_ratio_is_an_arm_of_its_own(tmp_path: Path):
    flags = {**FAST, "seeds": 1, "epochs": 1, "synthetic_ratio": "0.5,2,9", "each_ratio": True}
    results = run_arms(brightness_splits(), brightness_data(30, 9), tmp_path, **flags)
    assert {run["arm"]: run["synthetic_rows"] for run in results["runs"]} == {
        "real": 0,
        "composite_x0.5": 6,
        "composite_x2": 24,
    }
    assert results["refused"] == [
        {"arm": "composite_x9", "reason": "9 a real one are 108, and the synthetic set holds 30"}
    ]
    (dose,) = results["dose"]
    assert [point["ratio"] for point in dose["points"]] == [0.5, 2] and dose["real"] == 12
    with pytest.raises(ValueError, match="--each_ratio makes an arm for each of --synthetic_ratio"):
        settings(each_ratio=True)
