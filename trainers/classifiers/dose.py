"""How much is gained by how many synthetic samples, and up to how many real ones: the arms of --each_ratio.

Over the ratio r of synthetic to real samples the gain in macro-F1 is fitted by a curve that saturates, most · (1 −
exp(−r / scale)), once for each resample of test rows and seeds, which gives its interval. Over the number of real
samples no shape is assumed: the gain at the largest ratio is read off straight lines between the sizes tried.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clinsynth.data.summary import VISIBLE
from clinsynth.metrics.intervals import percentile_interval
from clinsynth.trainers.classifiers.arms import Arm, Controls
from clinsynth.trainers.classifiers.resampling import CONFIDENCE, measured

NEARLY = 0.9  # of the most that is gained
SCALES = 80
KEPT = 200  # resamples that go into results.json, with four digits


def saturating(ratios: np.ndarray, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`most` and `scale` of the curve, least squares, (b,) each.

    For a given scale the best `most` is a quotient, so that a grid of scales finds the pair without a start value.

    Args:
        ratios: above 0, (r,).
        gains: at each of them, in b resamples: (b, r).
    """
    scales = np.geomspace(ratios.min() / 10, ratios.max(), SCALES)
    shapes = 1 - np.exp(-ratios / scales[:, None])  # (scales, r)
    along, length = gains @ shapes.T, (shapes**2).sum(1)
    best = (along**2 / length).argmax(1)  # what the fit takes off the sum of squares
    rows = np.arange(len(gains))
    return along[rows, best] / length[best], scales[best]


def dose_records(
    resampled: Mapping[str, np.ndarray], arms: Sequence[Arm], controls: Controls, real: int
) -> list[dict[str, Any]]:
    """One record for each kind and synthetic set with two ratios or more; `resampled` is what `bootstrap` returns,
    `real` the number of real train samples.

    Returns:
        Records: `points`, one a ratio with the gain over the control and its interval; `gain`, the curve at the
        largest ratio; `enough`, the ratio that brings nine tenths of it, with its interval; `resampled`, the first
        KEPT resamples of `gain`; a sentence.
    """
    found: dict[tuple[str, str], list[Arm]] = {}
    for arm in arms:
        if arm.ratio is not None:
            found.setdefault((arm.kind, arm.source), []).append(arm)
    records = []
    for (kind, source), own in found.items():
        own.sort(key=lambda arm: arm.ratio or 0.0)
        control, ratios = controls.of(own[0]), np.array([arm.ratio for arm in own], dtype=np.float64)
        if control is None or len(own) < 2:
            continue
        gains = np.stack([(resampled[arm.name] - resampled[control])[:, 0] for arm in own], axis=1)
        most, scale = saturating(ratios, gains)
        gain = most * (1 - np.exp(-ratios[-1] / scale))
        enough = np.minimum(-np.log(1 - NEARLY * (1 - np.exp(-ratios[-1] / scale))) * scale, ratios[-1])
        record = {"kind": kind, "source": source, "control": control, "real": real}
        points = [
            {"ratio": arm.ratio, "synthetic": round(arm.ratio * real), **measured(gains[:, i], "difference")}
            for i, arm in enumerate(own)
            if arm.ratio is not None
        ]
        record |= {"points": points, "gain": measured(gain), "enough": measured(enough)}
        record |= {"resampled": gain[1 : 1 + KEPT].round(4).tolist()}
        records.append({**record, "sentence": dose_sentence(record)})
    return records


def dose_sentence(record: dict[str, Any]) -> str:
    """How much is gained, and how many samples bring nine tenths of it."""
    gain, enough, real = record["gain"], record["enough"], record["real"]
    (low, high), most = gain["interval"], record["points"][-1]
    told = (
        f"{record['kind']}{record['source'] and '-' + record['source']} beside {real} real samples: "
        f"{most['ratio']:g} synthetic ones a real one change macro-F1 by {gain['value']:+.3f} "
        f"({low:+.3f} to {high:+.3f})"
    )
    if low <= 0:
        return f"{told}, so that no number of them is shown to help"
    first, last = (end * real for end in enough["interval"])
    return (
        f"{told}, nine tenths of it by {enough['value'] * real:.0f} samples ({first:.0f} to {last:.0f}), a ratio of "
        f"{enough['value']:.2g}"
    )


def fading(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """From how many real samples on the gain is below VISIBLE, by `dose_records` of one kind, set and test split with
    different numbers of real samples: `value` and `interval`, None for an end that was not reached, and a sentence.
    None where there are not two sizes."""
    ordered = sorted(records, key=lambda record: record["real"])
    sizes = np.array([record["real"] for record in ordered])
    if len(np.unique(sizes)) < 2:
        return None
    gains = np.array([record["resampled"] for record in ordered]).T
    value = falls_below(sizes, np.array([record["gain"]["value"] for record in ordered]))
    beyond = sizes[-1] + 1.0  # stands for infinity, of which there are no quantiles
    ends = percentile_interval(np.array([min(falls_below(sizes, row), beyond) for row in gains]), CONFIDENCE)
    low, high, found = (None if end > sizes[-1] else float(end) for end in (*ends, value))
    shown = [f"more than {sizes[-1]}" if end is None else f"{end:.0f}" for end in (low, high)]
    where = (
        f"beyond the {sizes[-1]} real samples tried" if found is None else f"from about {found:.0f} real samples on"
    )
    sentence = f"the gain is below {VISIBLE} in macro-F1 {where} (95 % interval {shown[0]} to {shown[1]})"
    return {"value": found, "interval": [low, high], "sentence": sentence}


def falls_below(sizes: np.ndarray, gains: np.ndarray) -> float:
    """The first size, on straight lines over its logarithm, at which a gain is below VISIBLE: the smallest one where
    it never was above, infinite where it never falls below."""
    if gains[0] < VISIBLE:
        return float(sizes[0])
    under = np.flatnonzero(gains < VISIBLE)
    if not len(under):
        return float("inf")
    after = under[0]
    share = (gains[after - 1] - VISIBLE) / (gains[after - 1] - gains[after])
    first, last = np.log(sizes[after - 1]), np.log(sizes[after])
    return float(np.exp(first + share * (last - first)))
