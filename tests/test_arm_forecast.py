"""A cheap word on a synthetic set before the arms: its readings, their reasons, and how they fared."""

from pathlib import Path

import numpy as np
import pytest
from arm_studies import NAMES

from clinsynth.data.images import ImageArrays
from clinsynth.trainers.classifiers import forecast
from clinsynth.trainers.classifiers.forecast import answers, fared, record_of


def split(rows: int) -> ImageArrays:
    return ImageArrays(np.zeros((rows, 1, 2, 2), np.uint8), np.arange(rows) % 3, NAMES)


def guesses(labels: np.ndarray, right: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(labels)) < right, labels, (labels + rng.integers(1, 3, len(labels))) % 3)


@pytest.mark.parametrize(
    ("by_synthetic", "of_labels", "reading", "words"),
    [
        (0.85, 0.6, "likely to help", "the synthetic set ddpm is likely to help, because on validation"),
        (0.5, 0.6, "unlikely to help", "ddpm is unlikely to help, because on validation"),
        (0.85, 1 / 3, "unlikely to help", "unlikely to help, because its labels are mixed up, and on validation"),
        (0.6, 0.6, "cannot tell", "whether the synthetic set ddpm helps cannot be told, because on validation"),
    ],
)
def test_readings_of_planted_sets(by_synthetic: float, of_labels: float, reading: str, words: str):
    """A classifier of real samples is right in 60 %: the synthetic ones teach more or less, or have wrong labels."""
    made, validation = split(300), split(240)
    real = guesses(validation.labels, 0.6, 0), guesses(made.labels, of_labels, 1)
    taught = guesses(validation.labels, by_synthetic, 2), made.labels
    record = record_of("ddpm", made, validation, {"real": real, "synthetic": taught, "both": taught})
    assert record["reading"] == reading and words in record["sentence"]
    assert record["real"] == pytest.approx(0.6, abs=0.07)
    assert record["difference"] == pytest.approx(record["synthetic"] - record["real"])


def test_features_that_tell_the_classes_are_learned_from_either_set():
    rng, validation = np.random.default_rng(0), split(150)
    centres = rng.normal(0, 1, (3, 20))
    seen = [centres[np.arange(n) % 3] + rng.normal(0, 1, (n, 20)) for n in (6, 300, 150)]
    said = answers(seen, np.arange(6) % 3, np.arange(300) % 3, validation)
    right = {name: np.mean(own == validation.labels) for name, (own, _) in said.items()}
    assert right["synthetic"] > 0.95 and right["both"] > 0.95 and 0.4 < right["real"] < right["synthetic"]


def test_a_reading_is_told_with_what_came_of_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = tmp_path / "forecasts.csv"
    record.write_text("reading,verdict\nlikely to help,helps\nlikely to help,no evidence\nunlikely to help,hurts\n")
    monkeypatch.setattr(forecast, "FORECASTS", record)
    assert fared("likely to help") == "of 2 such sets in studies run before 1 helped"
    assert fared("cannot tell") == "no study has tried such a set"
