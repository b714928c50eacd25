"""How well each image shows what was asked for: checklist share, class margin and typicality in one score.

An image is aligned when an expert checklist confirms it (checklists as a measure of generated images are those of
MAGIC, arXiv 2506.12323), a classifier sees its class rather than any other, and it looks like the real images of its
class. The score is the mean of three numbers in [0, 1]:

- checklist share: of the items of its class, those that a judge finds met;
- class margin: a classifier's probability of its class less that of the best other one, from [-1, 1] to [0, 1];
- typicality: the share of real images of its class that lie no nearer to the class's train images than it does.

The low-alignment tail is the share of synthetic images with a score below the 5th percentile of the real ones';
among real images it is about 5 %. A mean hides such images, a training set does not forgive them.
This file stands alone: `evaluate.load("./metrics/alignment")`.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "Mean alignment of synthetic images with their class, and the share below the real images' tail."
_CITATION = "checklists: MAGIC, arXiv 2506.12323"
_INPUTS = """
Args:
    checklist_share: share of the checklist's items met, in [0, 1], an image.
    class_margin: probability of the image's class less that of the best other one, in [-1, 1].
    typicality: percentile among real images of the class, in [0, 1]; 1 is the most typical.
    source: "real" or "synthetic" for each image.
    label: class of each row; only of the configuration "per_class".
    n_bootstrap: bootstrap replicates of the interval, 0 for none.
    seed: of the bootstrap.
Returns:
    alignment, alignment_real (means), low_alignment_tail, interval (95 %, of the tail, or None), threshold, n_real,
    n_synthetic; with "per_class" a dict of these by class.
"""

TAIL = 0.05
NEAREST_K = 5


def class_margin(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability of each row's class less that of the best other one: float64 (n,) in [-1, 1].

    Args:
        probabilities: (n, classes), at least two classes.
        labels: class number (n,).
    """
    rows = np.arange(len(labels))
    others = np.array(probabilities, dtype=np.float64)
    own = others[rows, labels].copy()
    others[rows, labels] = -np.inf
    margins: np.ndarray = own - others.max(1)
    return margins


def distance_to_class(features: np.ndarray, train: np.ndarray, k: int = NEAREST_K) -> np.ndarray:
    """Mean Euclidean distance (n,) of rows (n, d) to the `k` nearest, or all if fewer, of the rows `train` (m, d)."""
    k = min(k, len(train))
    squares = (features**2).sum(1)[:, None] - 2 * features @ train.T + (train**2).sum(1)
    distances: np.ndarray = np.sqrt(np.maximum(np.partition(squares, k - 1, axis=1)[:, :k], 0)).mean(1)
    return distances


def typicality(distances: np.ndarray, real: np.ndarray, own: bool = False) -> np.ndarray:
    """Share (n,) of the real images' distances that are not below each of `distances`; 1 is the most typical.

    With `own`, `distances` are those of `real` themselves, none of which counts for itself.
    """
    not_below = len(real) - np.searchsorted(np.sort(real), distances, side="left")
    shares: np.ndarray = (not_below - own) / (len(real) - own)
    return shares


def alignment(shares: np.ndarray, margins: np.ndarray, typicalities: np.ndarray) -> np.ndarray:
    """The score (n,) in [0, 1]: mean of checklist share, margin brought to [0, 1], and typicality.

    Raises:
        ValueError: a value out of its range.
    """
    for name, values, lowest in (
        ("checklist_share", shares, 0),
        ("class_margin", margins, -1),
        ("typicality", typicalities, 0),
    ):
        bad = np.asarray(values)[~((np.asarray(values) >= lowest) & (np.asarray(values) <= 1))]
        if len(bad):
            raise ValueError(f"{name} must be in [{lowest}, 1], got {bad[0]}; leave out what was not measured")
    score: np.ndarray = (np.asarray(shares) + (1 + np.asarray(margins)) / 2 + np.asarray(typicalities)) / 3
    return score


def low_tail(synthetic: np.ndarray, real: np.ndarray) -> float:
    """Share of `synthetic` (n,) below the 5th percentile of `real` (m,)."""
    return float((synthetic < tail_threshold(real)).mean())


def tail_threshold(real: np.ndarray) -> float:
    """The 5th percentile of the real scores (m,), never between two of them: the lower one."""
    return float(np.quantile(real, TAIL, method="lower"))


def low_tail_interval(
    synthetic: np.ndarray, real: np.ndarray, n_bootstrap: int = 200, seed: int = 0, persons: np.ndarray | None = None
) -> tuple[float, float]:
    """Percentile bootstrap interval (95 %) of `low_tail`; both sides are resampled: the threshold is uncertain.

    Where `persons` (n_real,) say whose each real image is, persons are resampled with all their images.
    """
    generator = np.random.default_rng([seed, 7])
    whose = np.arange(len(real)) if persons is None else np.unique(persons, return_inverse=True)[1]
    own = np.split(real[np.argsort(whose, kind="stable")], np.cumsum(np.bincount(whose))[:-1])
    values = []
    for _ in range(n_bootstrap):
        made, drawn = generator.choice(synthetic, len(synthetic)), generator.integers(len(own), size=len(own))
        values.append(low_tail(made, np.concatenate([own[person] for person in drawn])))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


class Alignment(evaluate.Metric):
    """The functions above as an `evaluate` metric; configuration "per_class" takes a column `label` as well."""

    def _info(self) -> evaluate.MetricInfo:
        columns = {name: datasets.Value("float64") for name in ("checklist_share", "class_margin", "typicality")}
        columns["source"] = datasets.Value("string")
        if self.config_name == "per_class":
            columns["label"] = datasets.Value("string")
        return evaluate.MetricInfo(_DESCRIPTION, _CITATION, datasets.Features(columns), _INPUTS)

    def _compute(
        self, checklist_share: Any, class_margin: Any, typicality: Any, source: Any, label: Any = None, **settings: Any
    ) -> dict[str, Any]:
        scores = alignment(np.asarray(checklist_share), np.asarray(class_margin), np.asarray(typicality))
        sources = np.asarray(source)
        unknown = sorted(set(sources.tolist()) - {"real", "synthetic"})
        if unknown:
            raise ValueError(f'source must be "real" or "synthetic", got {unknown[0]!r}')
        if label is None:
            return self._measure(scores, sources, **settings)
        labels = np.asarray(label)
        return {
            str(name): self._measure(scores[labels == name], sources[labels == name], **settings)
            for name in np.unique(labels)
        }

    @staticmethod
    def _measure(scores: np.ndarray, sources: np.ndarray, n_bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
        real, synthetic = scores[sources == "real"], scores[sources == "synthetic"]
        if min(len(real), len(synthetic)) == 0:
            raise ValueError(f"needs both sides, got {len(real)} real and {len(synthetic)} synthetic images")
        return {
            "alignment": float(synthetic.mean()),
            "alignment_real": float(real.mean()),
            "low_alignment_tail": low_tail(synthetic, real),
            "interval": low_tail_interval(synthetic, real, n_bootstrap, seed) if n_bootstrap else None,
            "threshold": tail_threshold(real),
            "n_real": len(real),
            "n_synthetic": len(synthetic),
        }
