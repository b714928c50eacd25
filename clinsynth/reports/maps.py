"""Maps of features: where synthetic samples lie among real ones, on the first two principal axes of the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clinsynth.metrics.records import Features

DOTS = 400
MAP = (320.0, 220.0)


def map_features(real: Features, synthetic: Features, label_names: list[str], seed: int) -> dict[str, Any]:
    """`maps` of dots, of all and of each class; `explained`, the share of the real variance that they show."""
    places, explained = project(real.rows, synthetic.rows)
    maps = list(draw_maps(places, (real.labels, synthetic.labels), label_names, seed))
    return {"maps": maps, "explained": explained}


def project(real: np.ndarray, synthetic: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], float]:
    """Places (n, 2), (m, 2) on the first two principal axes of the real features, and the variance these explain."""
    centre = real.mean(0)
    _, lengths, axes = np.linalg.svd(real - centre, full_matrices=False)
    total = float((lengths**2).sum())
    explained = float((lengths[:2] ** 2).sum() / total) if total else 0.0
    return ((real - centre) @ axes[:2].T, (synthetic - centre) @ axes[:2].T), explained


def draw_maps(
    places: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    label_names: list[str],
    seed: int,
) -> Iterator[dict[str, str]]:
    """A map of all, then one a class that has samples, on one scale; at most 400 dots a side, as SVG paths."""
    everything = np.concatenate(places)
    low, span = everything.min(0), np.maximum(np.ptp(everything, axis=0), 1e-9)
    drawn = [6 + (side - low) / span * (np.array(MAP) - 12) for side in places]
    generator = np.random.default_rng([seed, 3])
    maps = {"all classes": drawn}
    for number, name in enumerate(label_names):
        maps[name] = [side[own == number] for side, own in zip(drawn, labels, strict=True)]
    for name, sides in maps.items():
        if any(map(len, sides)):
            chosen = [side[generator.permutation(len(side))[:DOTS]] for side in sides]
            # moves, each with a line of no length, which a round cap makes a dot
            real, synthetic = ("".join(f"M{across:.1f} {up:.1f}h0" for across, up in side) for side in chosen)
            yield {"name": name, "real": real, "synthetic": synthetic}
