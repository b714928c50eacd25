"""Files of an earlier run that something has damaged: an error that names them; deleted, they are made anew."""

import shutil
from pathlib import Path

import pytest

from tests.arm_studies import FAST, brightness_data, brightness_splits, only, run_arms

STUDY = {**FAST, "seeds": 1, "arms": ["real_features", "composite_features"], "keep_agreeing": True}


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("result.json", "folder"),
        ("test.safetensors", "folder"),
        ("features-*.safetensors", "file"),
        ("synthetic-*.safetensors", "file"),
    ],
)
def test_damaged_results_of_a_study_are_named_and_made_anew(pattern: str, named: str, tmp_path: Path) -> None:
    real, made = brightness_splits(), brightness_data(12, 9)
    first = run_arms(real, made, tmp_path, **STUDY)
    damaged = next(only(tmp_path, "real", 0).glob(pattern))
    halve(damaged)
    if named == "file":  # it is read by the arms that build on the control
        for folder in tmp_path.glob("arms/*_features-*"):
            shutil.rmtree(folder)
    deleted = damaged.parent if named == "folder" else damaged
    with pytest.raises(ValueError, match=f"{deleted} is damaged .*; delete it, and the same command makes it anew"):
        run_arms(real, made, tmp_path, **STUDY)
    shutil.rmtree(deleted) if named == "folder" else deleted.unlink()
    assert run_arms(real, made, tmp_path, **STUDY)["arms"] == first["arms"]
