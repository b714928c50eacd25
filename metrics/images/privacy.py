"""The privacy evidence on a synthetic image set: copies, closeness to the train split, the closest pairs, a verdict.

Everything is measured twice: on the features of an extractor, and on thumbnails of the pictures themselves
(`clinsynth.metrics.privacy.copies`), which see what an extractor leaves out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clinsynth.data.images import ImageArrays
from clinsynth.metrics.nearest import Closest, as_views, closest_rows
from clinsynth.metrics.privacy.closest_records import MemorisationRecord, measure_ratios, measure_shares
from clinsynth.metrics.privacy.copies import (
    EXACT,
    NEAR,
    SPACE,
    CopyRecord,
    Threshold,
    ThumbnailSpace,
    count_exact,
    count_near,
    duplicated,
    fit_threshold,
    pixel_digests,
)
from clinsynth.metrics.privacy.verdict import judge
from clinsynth.metrics.records import Features, MeasurementSettings

PAIRS = 12


@dataclass(frozen=True)
class Compared:
    """What one way of comparing found: the closest train rows, and the threshold of their scores."""

    name: str
    synthetic: Closest
    held_out: Closest
    threshold: Threshold

    @classmethod
    def of(cls, name: str, synthetic: Closest, held_out: Closest, excluded: np.ndarray) -> Compared:
        return cls(name, synthetic, held_out, fit_threshold(held_out.relative(), excluded))


def privacy_evidence(
    synthetic: ImageArrays,
    real: dict[str, ImageArrays],
    features: dict[str, Features],
    seed: int,
    *,
    extractor: str,
    replicates: int = 200,
    pairs: int = PAIRS,
) -> dict[str, Any]:
    """Whether the synthetic set copies or memorises the train split, as a JSON-able record.

    Args:
        synthetic: the set in question, labels numbered as in `real`.
        real: splits "train" and "test" (held out: the generator has not seen it), at the size of `synthetic`.
        features: of "train", "test" and "synthetic" by the extractor of that name.
        replicates: of the bootstraps.
        pairs: closest pairs to list.

    Returns:
        "verdict" and "text", in words; "copies", one `CopyRecord` a detector; "records", `MemorisationRecord`s of the
        DCR share and of the NNDR, overall and a class, for the thumbnails and for the extractor; "pairs", the closest
        pairs; "n" of each split; "duplicates", the test rows left out of the thresholds.

    Raises:
        ValueError: fewer than three train pictures.
    """
    train, held_out = real["train"], real["test"]
    space = ThumbnailSpace.of(train.images)
    seen, seen_held_out = space.closest(synthetic.images), space.closest(held_out.images)
    exact, exact_held_out = exact_rows(synthetic.images, train.images), exact_rows(held_out.images, train.images)
    excluded = duplicated(seen_held_out) | (exact_held_out >= 0)
    near, near_held_out = (
        closest_rows(as_views(features[name].rows), features["train"].rows) for name in ("synthetic", "test")
    )
    found = [
        Compared.of(SPACE, seen, seen_held_out, excluded),
        Compared.of(extractor, near, near_held_out, excluded),
    ]
    copies = [count_exact(exact >= 0, exact_held_out >= 0, len(train.images))]
    copies += [count_near_by(compared, len(train.images)) for compared in found]
    settings = MeasurementSettings(extractor, replicates, seed)
    sides = thumbnail_features(space, synthetic, held_out, train)
    records = measure_memorisation(found[0], sides, synthetic.label_names, replace(settings, extractor=SPACE))
    records += measure_memorisation(found[1], features, synthetic.label_names, settings)
    return {
        **judge(copies, records),
        "copies": [record.to_dict() for record in copies],
        "records": [record.to_dict() for record in records],
        "pairs": closest_pairs(found, exact, pairs),
        "n": {"synthetic": len(synthetic.images), "train": len(train.images), "test": len(held_out.images)},
        "duplicates": np.flatnonzero(excluded).tolist(),
    }


def exact_rows(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The number of the train picture with the same pixels, -1 where there is none; (n,)."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(pixel_digests(train)):
        first.setdefault(digest, row)
    return np.array([first.get(digest, -1) for digest in pixel_digests(images)])


def count_near_by(compared: Compared, n_train: int) -> CopyRecord:
    scores = compared.synthetic.relative(), compared.held_out.relative()
    return count_near(compared.name, *scores, compared.threshold, n_train)


def thumbnail_features(
    space: ThumbnailSpace, synthetic: ImageArrays, held_out: ImageArrays, train: ImageArrays
) -> dict[str, Features]:
    """Thumbnails as features, unmoved on all three sides: a view more for one side would bring it nearer."""
    return {
        "synthetic": Features(space.describe(synthetic.images), synthetic.labels),
        "test": Features(space.describe(held_out.images), held_out.labels),
        "train": Features(space.rows, train.labels),
    }


def measure_memorisation(
    compared: Compared, features: dict[str, Features], label_names: list[str], settings: MeasurementSettings
) -> list[MemorisationRecord]:
    """DCR shares and NNDR of one way of comparing, overall and a class."""
    synthetic, train, held_out = features["synthetic"], features["train"], features["test"]
    shares = measure_shares(synthetic, train, held_out, label_names, settings)
    labels = (synthetic.labels, held_out.labels)
    sides = (compared.synthetic, compared.held_out)
    return shares + measure_ratios(*sides, *labels, label_names, len(train.rows), settings)


def closest_pairs(found: Iterable[Compared], exact: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The synthetic rows most like a train row: exact copies first, then by score over the median held-out score.

    Each with its row, the train row, the deciding comparison ("detector"), distance, score and threshold in every
    comparison, and a verdict: exact copy, near copy, or as near as held-out pictures come.
    """
    found = list(found)
    ratios = np.stack([in_held_out_medians(compared) for compared in found])
    deciding = ratios.argmin(0)
    order = np.lexsort((ratios.min(0), exact < 0))[:count]
    return [describe_pair(int(row), found, int(deciding[row]), int(exact[row])) for row in order]


def in_held_out_medians(compared: Compared) -> np.ndarray:
    return compared.synthetic.relative() / max(float(np.median(compared.held_out.relative())), 1e-12)


def describe_pair(row: int, found: list[Compared], deciding: int, exact: int) -> dict[str, Any]:
    near = [bool(compared.threshold.flags(compared.synthetic.relative()[[row]])[0]) for compared in found]
    return {
        "synthetic_row": row,
        "train_row": exact if exact >= 0 else int(found[deciding].synthetic.numbers[row, 0]),
        "detector": "pixels" if exact >= 0 else found[deciding].name,
        "distances": {
            compared.name: {
                "distance": float(compared.synthetic.distances[row, 0]),
                "score": float(compared.synthetic.relative()[row]),
                "threshold": compared.threshold.value,
                "train_row": int(compared.synthetic.numbers[row, 0]),
            }
            for compared in found
        },
        "verdict": EXACT if exact >= 0 else NEAR if any(near) else "as near as held-out pictures come",
    }
