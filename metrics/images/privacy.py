"""The privacy evidence on a synthetic image set: copies, closeness to the train split, the closest pairs, a verdict.

Everything is measured twice: on the features of an extractor, and on thumbnails of the images themselves
(`clinsynth.metrics.privacy.copies`), which see what an extractor leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.metrics.nearest import Closest, as_views, closest_rows, loss_in_words
from clinsynth.metrics.privacy.closest_records import DCR_SHARE, MemorisationRecord, measure_memorisation
from clinsynth.metrics.privacy.copies import (
    CERTAIN,
    EXACT,
    NEAR,
    SPACE,
    CopyRecord,
    Threshold,
    ThumbnailSpace,
    count_certain,
    count_exact,
    count_near,
    duplicated,
    fit_threshold,
    pixel_digests,
)
from clinsynth.metrics.privacy.exact import SPLITS, picture_digests, where_found
from clinsynth.metrics.privacy.exact import count_exact as count_exact_anywhere
from clinsynth.metrics.privacy.power import IMAGE_CHECK, power_in_words
from clinsynth.metrics.privacy.views import ViewSpace, beyond, certain_thresholds, find_power
from clinsynth.metrics.records import OVERALL, Features, MeasurementSettings
from clinsynth.metrics.registry import COPIES, MEMORISED, NO_SIGN, UNCLEAR

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays

GRAVITY = (NO_SIGN, UNCLEAR, MEMORISED, COPIES)
SIGNIFICANT = 0.005  # for each of two detectors, so that both together cry wolf in less than one set in 100
PAIRS = 12


@dataclass(frozen=True)
class Detector:
    """One way of comparing images with the train split, and what it finds.

    Attributes:
        name: what reports call it.
        features: of "synthetic", "train" and "test".
        near, near_held_out: the train rows closest to the synthetic and to the held-out images.
        threshold: of the scores of copies, from those of held-out images.
    """

    name: str
    features: dict[str, Features]
    near: Closest
    near_held_out: Closest
    threshold: Threshold

    def describe_row(self, row: int) -> dict[str, Any]:
        """What it finds of one synthetic image."""
        return {
            "distance": float(self.near.distances[row, 0]),
            "score": float(self.near.relative()[row]),
            "threshold": self.threshold.value,
            "train_row": int(self.near.numbers[row, 0]),
        }


def image_privacy(
    synthetic: ImageArrays,
    real: dict[str, ImageArrays],
    features: dict[str, Features],
    settings: MeasurementSettings,
    pairs: int = PAIRS,
) -> dict[str, Any]:
    """Whether the synthetic set copies or memorises the train split, as a JSON-able record.

    Args:
        synthetic: the set in question, labels numbered as in `real`.
        real: splits "train", "test" (held out: the generator has not seen it) and, for exact copies, "validation", at
            the size of `synthetic`.
        features: of "train", "test" and "synthetic" by the extractor that `settings` name.
        pairs: closest pairs to list.

    Returns:
        "verdict" and "text", in words; "exact", exact copies by split; "copies", one `CopyRecord` a detector;
        "power", how many planted copies of each kind are found one at a time (`find_power`); "records",
        `MemorisationRecord`s of the DCR share and of the NNDR, overall and a class, for the thumbnails and for the
        extractor; "pairs", the closest pairs; "n" of each split; "duplicates", the test rows left out of thresholds.

    Raises:
        ValueError: fewer than three train images.
    """
    train, held_out = real["train"], real["test"]
    space = ThumbnailSpace.of(train.images)
    seen, seen_held_out = space.closest(synthetic.images), space.closest(held_out.images)
    exact, exact_held_out = exact_rows(synthetic.images, train.images), exact_rows(held_out.images, train.images)
    excluded = duplicated(seen_held_out) | (exact_held_out >= 0)
    near, near_held_out = (
        closest_rows(as_views(features[x].rows), features["train"].rows) for x in ("synthetic", "test")
    )
    thumbnails = thumbnail_features(space, synthetic, held_out, train)
    detectors = [
        Detector(SPACE, thumbnails, seen, seen_held_out, fit_threshold(seen_held_out.relative(), excluded)),
        Detector(settings.extractor, features, near, near_held_out, fit_threshold(near_held_out.relative(), excluded)),
    ]
    copies = [count_exact(exact >= 0, exact_held_out >= 0, len(train.images))]
    records: list[MemorisationRecord] = []
    for one in detectors:
        closest = one.near, one.near_held_out
        scores = one.near.relative(), one.near_held_out.relative()
        copies.append(count_near(one.name, *scores, one.threshold, len(train.images)))
        sides = one.features["synthetic"], one.features["train"], one.features["test"]
        records += measure_memorisation(sides, closest, synthetic.label_names, replace(settings, extractor=one.name))
    views = ViewSpace.of(train.images)
    single, single_held_out = (views.closest(split.images)[0] for split in (synthetic, held_out))
    thresholds = certain_thresholds(single_held_out[~excluded])
    if thresholds is not None:
        sizes = len(train.images), int(excluded.sum())
        copies.append(count_certain(beyond(single, thresholds), beyond(single_held_out, thresholds), 1.0, sizes))
    power = find_power(views, thresholds, train.images, held_out.images, settings.seed, len(single))
    exact_anywhere = count_exact_anywhere(
        picture_digests(synthetic.images),
        {name: picture_digests(real[name].images) for name in SPLITS if name in real},
    )
    found = privacy_verdict(copies, records, exact_anywhere)
    return {
        **found,
        "text": f"{found['text']} {power_in_words(power, len(single), IMAGE_CHECK)}{loss_in_words(seen, near)}",
        "exact": exact_anywhere,
        "power": power,
        "copies": [record.to_dict() for record in copies],
        "records": [record.to_dict() for record in records],
        "pairs": closest_images(detectors, exact, pairs),
        "n": {"synthetic": len(synthetic.images), "train": len(train.images), "test": len(held_out.images)},
        "duplicates": np.flatnonzero(excluded).tolist(),
    }


def exact_rows(images: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The number of the train image with the same pixels, -1 where there is none; (n,)."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(pixel_digests(train)):
        first.setdefault(digest, row)
    return np.array([first.get(digest, -1) for digest in pixel_digests(images)])


def thumbnail_features(
    space: ThumbnailSpace, synthetic: ImageArrays, held_out: ImageArrays, train: ImageArrays
) -> dict[str, Features]:
    """Thumbnails as features, unmoved on all three sides: a view more for one side would bring it nearer."""
    return {
        "synthetic": Features(space.embed(synthetic.images), synthetic.labels),
        "test": Features(space.embed(held_out.images), held_out.labels, held_out.persons),
        "train": Features(space.rows, train.labels, train.persons),
    }


def closest_images(detectors: list[Detector], exact: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The synthetic rows most like a train row: exact copies first, then by score over the median held-out score.

    Each with its row, the train row, the deciding detector, distance, score and threshold by every detector, and a
    verdict: exact copy, near copy, or as near as held-out images come.
    """
    medians = [max(float(np.median(one.near_held_out.relative())), 1e-12) for one in detectors]
    ratios = np.stack([one.near.relative() / median for one, median in zip(detectors, medians, strict=True)])
    deciding = ratios.argmin(0)
    order = np.lexsort((ratios.min(0), exact < 0))[:count]
    return [describe_pair(int(row), detectors, int(deciding[row]), int(exact[row])) for row in order]


def describe_pair(row: int, detectors: list[Detector], deciding: int, exact: int) -> dict[str, Any]:
    near = [bool(detector.threshold.flags(detector.near.relative()[[row]])[0]) for detector in detectors]
    return {
        "synthetic_row": row,
        "train_row": exact if exact >= 0 else int(detectors[deciding].near.numbers[row, 0]),
        "detector": "pixels" if exact >= 0 else detectors[deciding].name,
        "distances": {detector.name: detector.describe_row(row) for detector in detectors},
        "verdict": EXACT if exact >= 0 else NEAR if any(near) else "as near as held-out images come",
    }


def privacy_verdict(
    copies: list[CopyRecord], records: list[MemorisationRecord], exact: dict[str, Any] | None = None
) -> dict[str, str]:
    """The gravest finding as "verdict", and every finding with its numbers as "text"."""
    findings = [*findings_on_exact(exact), *findings_on_copies(copies), *findings_on_shares(records)]
    verdict = max((verdict for verdict, _ in findings), key=GRAVITY.index, default=NO_SIGN)
    return {"verdict": verdict, "text": " ".join(text for _, text in findings)}


def findings_on_exact(exact: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    """A verdict and a sentence where an image is one of whichever real split."""
    if exact and exact["count"]:
        yield (
            COPIES,
            f"{exact['count']} of {exact['n_synthetic']} are real images ({where_found(exact)}), as they are, or "
            "turned, mirrored or inverted.",
        )


def findings_on_copies(copies: list[CopyRecord]) -> Iterator[tuple[str, str]]:
    """A verdict and a sentence a detector."""
    for record in copies:
        share = f"{record.count} of {record.n_synthetic}"
        if record.metric == EXACT:
            yield COPIES if record.count else NO_SIGN, f"{share} are train images, pixel for pixel."
        elif record.metric == CERTAIN:
            yield COPIES if record.count else NO_SIGN, f"{share} are nearer to a train image than real ones come."
        elif record.p_value is None:
            yield NO_SIGN, f"Too few held-out images ({record.n_held_out}) for a threshold by {record.detector}."
        else:
            found = record.p_value < SIGNIFICANT
            yield (
                COPIES if found else NO_SIGN,
                f"{share} are flagged as near copies by {record.detector}, where {record.expected_false_alarms:.1f} "
                f"false alarms are expected (p = {record.p_value:.2g}).",
            )


def findings_on_shares(records: list[MemorisationRecord]) -> Iterator[tuple[str, str]]:
    """A verdict and a sentence an overall DCR share."""
    for record in records:
        if (record.metric, record.label) != (DCR_SHARE, OVERALL):
            continue
        if record.value is None:
            yield NO_SIGN, f"Closeness by {record.extractor} is {record.note}."
            continue
        interval = "" if record.interval is None else " (95 % {:.1%} to {:.1%})".format(*record.interval)
        text = f"{record.value:.1%}{interval} lie closer to train than to held-out images by {record.extractor}"
        if not record.exceeds_chance:
            yield NO_SIGN, f"{text}; 50 % is ideal."
        elif record.is_shifted:
            yield (
                UNCLEAR,
                f"{text}, but of the held-out images themselves only {record.floor:.1%}: the splits differ, which "
                "alone can bring a generator nearer to train.",
            )
        else:
            reached = 0.5 if record.chance_range is None else record.chance_range[1]
            yield MEMORISED, f"{text}, where chance reaches {reached:.1%}."


def worst_over_runs(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The worst case of one generator's synthetic sets: `image_privacy` of each, by name (a seed).

    Returns:
        "verdict" and "text" of the gravest run and its name, "run"; "runs", how many there were; "exact", of the run
        with most exact copies, None where a run did not count them; "copies" and
        "records", of each kind the worst with its "run": the largest share of copies, the largest DCR share, the
        smallest ratio.

    Raises:
        ValueError: no run.
    """
    if not runs:
        raise ValueError("the worst case needs the privacy evidence of one synthetic set or more, got none")
    name = max(runs, key=lambda run: (GRAVITY.index(runs[run]["verdict"]), copied(runs[run])))
    exact: list[Any] = [evidence.get("exact") for evidence in runs.values()]
    return {
        "verdict": runs[name]["verdict"],
        "text": runs[name]["text"],
        "run": name,
        "runs": len(runs),
        "exact": max(exact, key=lambda one: one["count"]) if all(exact) else None,
        "copies": list(worst_records(runs, "copies", ("metric", "detector"))),
        "records": list(worst_records(runs, "records", ("metric", "label", "extractor"))),
    }


def copied(evidence: dict[str, Any]) -> float:
    """The largest share of copies by any detector."""
    return max(record["value"] for record in evidence["copies"])


def worst_records(runs: dict[str, dict[str, Any]], part: str, kind: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Of each kind of record the worst over the runs; one that no run could measure stays without a value."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run, evidence in runs.items():
        for record in evidence[part]:
            groups.setdefault(tuple(record[key] for key in kind), []).append({**record, "run": run})
    yield from (max(group, key=badness) for group in groups.values())


def badness(record: dict[str, Any]) -> float:
    if record["value"] is None:
        return float("-inf")
    return -record["value"] if record["metric"].startswith("nndr") else record["value"]
