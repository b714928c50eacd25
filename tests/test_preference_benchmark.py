"""The preference benchmarks at tiny size: the loop with its control, and what a step costs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.magic_loop import LoopArguments, rise, table
from benchmarks.preference import PreferenceBenchmarkArguments, main


def test_a_rise_is_paired_image_by_image() -> None:
    before, now = np.array([0, 0, 1, 1] * 50), np.array([1, 0, 1, 1] * 50)
    found = rise(now, before, n_bootstrap=50)
    low, high = found["interval"]
    assert found["value"] == 0.25 and 0.15 < low < 0.25 < high < 0.35
    assert rise(before, before, 50) == {"value": 0.0, "interval": (0.0, 0.0)}


def test_the_table_names_rises_and_ratios() -> None:
    rate = {"value": 0.5, "interval": (0.4, 0.6), "n": 100}
    plain: dict[str, Any] = {"passed": rate, "held_out_passed": rate}
    drawn = plain | {"frechet": 10.0, "frechet_interval": (9.0, 11.0)}
    better = drawn | {"rise": {"value": 0.25, "interval": (0.2, 0.3)}, "frechet_ratio": 0.9}
    models = {"real": plain, "first stage": drawn, "feedback": better, "shuffled": better}
    text = table([{"seed": 3, "models": models}], "a network")
    assert "| 3 | feedback | 50.0 (40.0 to 60.0) | +25.0 (+20.0 to +30.0) | 50.0 (40.0 to 60.0) |" in text
    assert "feedback: rise +25.0 points" in text and "Fréchet ratio 0.90" in text


def test_seeds_that_are_no_numbers_are_named() -> None:
    assert LoopArguments(output_dir="x", seeds="4,0").seed_numbers == [4, 0]
    with pytest.raises(ValueError, match="--seeds must be whole numbers from 0 on"):
        _ = LoopArguments(output_dir="x", seeds="0,-1").seed_numbers


def test_the_cost_of_a_step_and_of_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny: dict[str, Any] = {"width": 8, "batch_size": 2, "drawn": 4, "num_inference_steps": 2}
    main(PreferenceBenchmarkArguments(output_dir=str(tmp_path), steps=1, repeats=2, **tiny))
    record = json.loads((tmp_path / "preference.json").read_text())
    assert [len(one["wall"]["a"]) for one in record["comparisons"]] == [2] * 5
    printed = capsys.readouterr().out
    assert "DPO step, with fidelity term" in printed and "LoRA on latents, without fidelity term" in printed
    with pytest.raises(ValueError, match="--sections must be of step, latent, candidates, got 'speed'"):
        main(PreferenceBenchmarkArguments(output_dir=str(tmp_path), sections="speed"))
