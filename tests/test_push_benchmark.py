"""The yardstick of `clinsynth push dataset` beside `hf upload`, at tiny size."""

import json
from pathlib import Path

import pytest
from helpers import run_warm

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")

from benchmarks.push import PushArguments


def test_both_sides_send_all_shards_and_are_timed_by_turns(tmp_path: Path) -> None:
    words = ("--n", 24, "--shard_size", 8, "--repeats", 1, "--output_dir", tmp_path)
    run_warm("-m", "benchmarks.push", *words, HF_HUB_OFFLINE="0")
    comparison = json.loads((tmp_path / "push.json").read_text())["comparisons"][0]
    assert comparison["what"].startswith("24 images, 3 shards, 0.0 MB") and comparison["goal"] == ["<=", 1.3]
    assert all(len(comparison[clock][side]) == 1 for clock in ("wall", "cpu") for side in "ab")
    assert "| clinsynth push dataset | hf upload |" in (tmp_path / "push.md").read_text()


def test_settings_that_measure_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="--repeats must be 1 or more, got 0"):
        PushArguments(output_dir="runs", repeats=0)
