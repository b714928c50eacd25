"""A cheap word on synthetic sets before hours of arms: are they likely to help?

A logistic regression in seconds stands for the classifier: on the features of its frozen body where the study has one,
else on thumbnails or TF-IDF. It is fitted on real samples, on synthetic ones (train on synthetic, test on real) and on
both, and asked about the real validation samples; test is not touched. FORECASTS has what came of it in the studies
that were run, and each forecast is told with that record.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from clinsynth.data.labels import LabelledRows
from clinsynth.models.linear_texts import fit_linear
from clinsynth.trainers.classifiers.agreement import MIXED_UP, OVERALL, label_agreement
from clinsynth.trainers.classifiers.arms import REAL_FROZEN, ROUND_TRIP, Arm
from clinsynth.trainers.classifiers.resampling import measured, resampled_rows
from clinsynth.trainers.classifiers.rows import S
from clinsynth.trainers.classifiers.scores import class_scores
from clinsynth.trainers.classifiers.trainings import Trainings

LIKELY, UNLIKELY, OPEN = "likely to help", "unlikely to help", "cannot tell"
FORECASTS = Path(__file__).with_name("forecasts.csv")
RESAMPLES = 400
LEAST = 1e-3


def forecast(trainings: Trainings[S], seed: int) -> list[dict[str, Any]]:
    """One record for each synthetic set (of several under one name the first), by the real validation samples.

    Returns:
        Records: `source`; `real`, `synthetic` and `both`, the macro-F1 by what it was fitted on; `difference` of the
        better of the last two to real, with its interval; `agreement`, the flag of `label_agreement`; `reading`:

        - "unlikely to help": the labels are mixed up, or neither is above real;
        - "likely to help": the interval lies above zero;
        - "cannot tell": neither;

        and a sentence with the reason and the record of earlier readings.
    """
    train, validation = trainings.real["train"], trainings.real["validation"]
    if not np.bincount(validation.labels, minlength=len(train.label_names)).all():
        return []
    found = []
    for source, (made, *_) in trainings.synthetic.items():
        if source != ROUND_TRIP:
            seen = [read(data) for read in [features_in(trainings, made, seed)] for data in (train, made, validation)]
            said = answers(seen, train.labels, made.labels, validation)
            found.append(record_of(source, made, validation, said))
    return found


def features_in(trainings: Trainings[S], made: S, seed: int) -> Callable[[S], Any]:
    """From samples to features (n, d): of the body that is not trained where there is one, else without a network."""
    kinds = [Arm(kind) for kind in (trainings.args.control, *trainings.args.kinds)]
    if trainings.args.features_from == "model" and any(arm.in_features for arm in kinds):
        return lambda data: trainings.features(data, seed).values
    if trainings.args.control == REAL_FROZEN:
        return lambda data: trainings.frozen(data).values
    return trainings.classifiers.plain_features(trainings.real["train"].followed_by(made))


def answers(
    seen: list[Any], real: np.ndarray, made: np.ndarray, validation: LabelledRows
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What logistic regressions by the real samples, the synthetic ones and both say of the validation samples and of
    the synthetic ones, ints; `seen` are the features of train, the synthetic set and validation, the labels of the
    first two are `real` and `made`."""
    classes, (of_real, of_made, known) = len(validation.label_names), seen
    if sparse.issparse(of_real):
        both = sparse.vstack([of_real, of_made])
    else:  # of mean 0 and length about 1: the penalties are made for that, and so the fit ends soon
        mean, spread = of_made.mean(0), (of_made.std(0) + LEAST) * np.sqrt(of_made.shape[1])
        of_real, of_made, known = ((rows - mean) / spread for rows in (of_real, of_made, known))
        both = np.concatenate([of_real, of_made])
    fits = {"real": (of_real, real), "synthetic": (of_made, made), "both": (both, np.concatenate([real, made]))}
    said = {}
    for name, (rows, labels) in fits.items():
        model, _ = fit_linear(rows, labels, classes, known, validation.labels, weighted=True)
        said[name] = model.probabilities(known).argmax(1), model.probabilities(of_made).argmax(1)
    return said


def record_of(source: str, made: S, validation: S, said: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """The record of a set, from what was `said` of validation and of it by those fitted on real, on it, on both."""
    classes = len(validation.label_names)
    rng = np.random.default_rng(0)
    weights = np.concatenate(list(resampled_rows(validation.labels, classes, RESAMPLES, rng, validation.persons)))
    scores = {
        name: class_scores(validation.labels, own, weights, classes)[0].mean(1) for name, (own, _) in said.items()
    }
    best = max(("synthetic", "both"), key=lambda name: scores[name][0])
    gap = measured(scores[best] - scores["real"], "difference")
    on_real, on_made = said["real"]
    labels = label_agreement(source, made, on_made[None], validation, on_real[None])
    flag = next(record["flag"] for record in labels if record["label"] == OVERALL)
    reading = OPEN
    if flag == MIXED_UP or gap["difference"] <= 0:
        reading = UNLIKELY
    elif gap["interval"][0] > 0:
        reading = LIKELY
    record = {"source": source, **{name: float(own[0]) for name, own in scores.items()}, **gap}
    record |= {"agreement": flag, "reading": reading}
    return {**record, "sentence": forecast_sentence(record)}


def forecast_sentence(record: dict[str, Any]) -> str:
    """The reading, its reason, and how such readings fared."""
    name = f"the synthetic set {record['source']}" if record["source"] else "the synthetic set"
    why = (
        f"on validation a quick classifier has macro-F1 {record['real']:.3f} by the real samples, "
        f"{record['synthetic']:.3f} by the synthetic ones and {record['both']:.3f} by both"
    )
    mixed = f"its labels are {MIXED_UP}, and " if record["agreement"] == MIXED_UP else ""
    told = f"whether {name} helps cannot be told" if record["reading"] == OPEN else f"{name} is {record['reading']}"
    return f"{told}, because {mixed}{why} ({fared(record['reading'])})"


def fared(reading: str) -> str:
    """How often a set with this reading helped in the studies of FORECASTS."""
    with FORECASTS.open(newline="") as stream:
        own = [row["verdict"] for row in csv.DictReader(stream) if row["reading"] == reading]
    helped = own.count("helps")
    return f"of {len(own)} such sets in studies run before {helped} helped" if own else "no study has tried such a set"
