"""Synthetic sets with a planted fault, and the evidence that the package's own measures give on them.

Images of 16 px: a bright spot somewhere on stripes, which lie across in one class and upright in the other. The
extractor and the classifier are of a few lines, so that a whole evidence takes two seconds, most of them for privacy.
"""

from functools import cache
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from clinsynth.data.images import ImageArrays
from clinsynth.metrics.comparisons import comparisons
from clinsynth.metrics.distances import measure_features
from clinsynth.metrics.findings import read_collapse
from clinsynth.metrics.images.likeness import measure_images
from clinsynth.metrics.images.privacy import image_privacy
from clinsynth.metrics.records import Features, MeasurementSettings
from clinsynth.trainers.classifiers.agreement import label_agreement
from clinsynth.trainers.classifiers.resampling import bootstrap
from clinsynth.trainers.classifiers.statistics import arm_records, comparison_records

NAMES = ["across", "upright"]
SIDE = 16
SETTINGS = MeasurementSettings("stripes and spots", replicates=4)
SEEDS = 2


def draw(count: int, seed: int) -> ImageArrays:
    """`count` images, half of each class."""
    rng, labels = np.random.default_rng(seed), np.arange(count) % 2
    y, x = np.mgrid[:SIDE, :SIDE]
    images = []
    for label in labels:
        across, down, width = rng.uniform(3, 12), rng.uniform(3, 12), rng.uniform(1.5, 3.5)
        spot = np.exp(-((x - across) ** 2 + (y - down) ** 2) / (2 * width**2))
        stripes = np.sin((y if label == 0 else x) * rng.uniform(0.8, 1.4) + rng.uniform(0, 6.3))
        noise = rng.normal(0, 6, size=(SIDE, SIDE))
        images.append(90 + rng.uniform(50, 110) * spot + rng.uniform(8, 30) * stripes + noise)
    return of(np.stack(images)[:, None], labels)


def of(images: np.ndarray, labels: np.ndarray) -> ImageArrays:
    return ImageArrays(np.clip(np.round(images), 0, 255).astype(np.uint8), labels, NAMES)


def embed(images: np.ndarray) -> np.ndarray:
    """How much the rows and the columns of each image change, and its blocks of 4 px; (n, 18)."""
    pixels = images[:, 0].astype(np.float64)
    changes = [np.abs(np.diff(pixels, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    blocks = pixels.reshape(len(pixels), 4, 4, 4, 4).mean((2, 4)).reshape(len(pixels), -1)
    return np.column_stack([*changes, blocks / 4])


@cache
def real() -> dict[str, ImageArrays]:
    """Real images by split."""
    return {"train": draw(60, 0), "validation": draw(20, 1), "test": draw(60, 2)}


@cache
def planted(fault: str) -> ImageArrays:
    """A set with a fault: noise, copies, shuffled (labels), one mode, honest (none) or few."""
    honest, rng = draw(60, 3), np.random.default_rng(9)
    images, labels = honest.images.copy(), honest.labels.copy()
    if fault == "noise":
        images = rng.integers(0, 256, size=images.shape)
    elif fault == "copies":
        images[::4] = real()["train"].images[::4][: len(images[::4])]
    elif fault == "shuffled":
        labels = rng.permutation(labels)
    elif fault == "one mode":
        images = images[labels] + rng.normal(0, 2, size=images.shape)  # the first of each class, again and again
    elif fault == "few":
        images, labels = images[:24], labels[:24]
    return of(images, labels)


def predict(train: ImageArrays, images: np.ndarray, seed: int) -> np.ndarray:
    """Class probabilities (n, 2) by a classifier that was trained on a resample of `train`."""
    rows = np.random.default_rng(seed).integers(0, len(train.labels), size=len(train.labels))
    fitted = LinearDiscriminantAnalysis().fit(embed(train.images)[rows], train.labels[rows])
    found: np.ndarray = fitted.predict_proba(embed(images))
    return found


def classify(synthetic: ImageArrays, seeds: int = SEEDS) -> dict[str, Any]:
    """What results.json says of the arms real_strong and composite, by these small classifiers."""
    train, test = real()["train"], real()["test"]
    both = of(np.concatenate([train.images, synthetic.images]), np.concatenate([train.labels, synthetic.labels]))
    arms = {
        name: np.stack([predict(data, test.images, seed) for seed in range(seeds)])
        for name, data in (("real_strong", train), ("composite", both))
    }
    resampled = bootstrap(test.labels, arms, len(NAMES))
    scored = arm_records(resampled, test, arms)
    predicted = np.stack([predict(train, synthetic.images, seed).argmax(1) for seed in range(seeds)])
    return {
        "arms": scored,
        "comparisons": comparison_records(resampled, [("composite", "real_strong")], scored, test),
        "label_agreement": label_agreement("", synthetic, predicted, test, arms["real_strong"].argmax(2)),
        "control": "real_strong",
        "label_names": NAMES,
        "notes": [],
    }


@cache
def privacy_of(fault: str) -> dict[str, Any]:
    """The privacy evidence on a planted set."""
    if fault == "shuffled":  # the same images
        return privacy_of("honest")
    sets = {**real(), "synthetic": planted(fault)}
    features = {name: Features(embed(one.images), one.labels) for name, one in sets.items() if name != "validation"}
    return image_privacy(planted(fault), real(), features, SETTINGS)


@cache
def evidence_on(fault: str) -> dict[str, Any]:
    """The evidence on a planted set, as evidence.json holds it."""
    synthetic, sets = planted(fault), real()
    arrays = {"train": sets["train"], "test": sets["test"], "synthetic": synthetic}
    features = {name: Features(embed(one.images), one.labels) for name, one in arrays.items()}
    pictures = {name: Features(one.images, one.labels) for name, one in arrays.items()}
    measurements = [
        record.to_dict()
        for sides, measure in ((features, measure_features), (pictures, measure_images))
        for comparison in comparisons(sides, "test", "train", NAMES, seed=0)
        for record in measure(comparison, SETTINGS)
    ]
    counts = {
        name: dict(zip(NAMES, np.bincount(one.labels, minlength=2).tolist(), strict=True))
        for name, one in {**sets, "synthetic": synthetic}.items()
    }
    return {
        "data": {
            "real": "spots.npz",
            "synthetic": f"runs/{fault}",
            "label_names": NAMES,
            "counts": counts,
            "resolution": SIDE,
            "channels": 1,
        },
        "generation": {
            "generator": {"model": "runs/spots", "network": "UNet2DModel"},
            "environment": {
                "command": f"clinsynth generate images --model runs/spots --output_dir runs/{fault}".split()
            },
        },
        "extractor": {"name": SETTINGS.extractor, "dimension": 18, "note": ""},
        "measurements": measurements,
        "collapse": read_collapse(measurements, "test"),
        "privacy": privacy_of(fault),
        "classifier": classify(synthetic),
        "alignment": None,
        "environment": {
            "command": "clinsynth evaluate images --output_dir runs/evidence".split(),
            "python": "3.12",
            "packages": {},
            "git_commit": None,
            "machine": "",
        },
    }
