"""Choose the strength of image-to-image generation on validation pictures: which has the most pictures kept?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from clinsynth.run_folder import atomic_write, read_json
from clinsynth.seeds import derive_seed
from clinsynth.synthesis.image_sources import ImageSources

PICTURES = 24
"""Of each class at each strength, from the same sources and seeds at every strength."""
SWEEP = 2**32
"""Apart from the numbers of rows, whose seeds must not come here."""

Sampler = Callable[[ImageSources], Any]


def sweep_strengths(
    path: Path,
    strengths: list[float],
    validation: ImageSources,
    sampler: Sampler,
    keep: Any,
    names: dict[int, str],
    made_by: dict[str, Any],
) -> dict[str, Any]:
    """How many of 24 pictures a class are kept at each strength, and the strength chosen for each class.

    Args:
        path: JSON file in which the result is kept, and found again.
        strengths: to choose from, rising.
        validation: sources in the validation split.
        sampler: from sources to the function from labels and seeds to pictures.
        keep: the checks, for pictures made from `validation`.
        names: class number to name.
        made_by: generator, with its `seed`, sources and checks; another one's result is not used.

    Returns:
        class name to `chosen` and `tried` (strength to kept share and reasons); the most kept wins, of equals the
        smallest strength, which keeps most of the source.
    """
    made_by = {**made_by, "strengths": strengths}
    before = read_json(path)
    if before.get("made_by") == made_by:
        return dict(before["classes"])
    found: dict[str, Any] = {}
    with tqdm(total=len(strengths) * len(validation.of_class), desc="strengths", unit="class") as progress:
        for label in validation.of_class:
            tried = {}
            for strength in strengths:
                sources = validation.with_strengths(dict.fromkeys(validation.of_class, strength), names)
                tried[str(strength)] = try_strength(label, sampler(sources), keep, made_by["seed"])
                progress.update()
            best = max(tried, key=lambda strength: tried[strength]["kept"])  # the first of equals
            found[names[label]] = {"chosen": float(best), "n": PICTURES, "tried": tried}
    atomic_write(path, json.dumps({"made_by": made_by, "classes": found}, indent=1) + "\n")
    return found


def try_strength(label: int, sample: Any, keep: Any, seed: int) -> dict[str, Any]:
    """The share of pictures of one class that are kept, and how many are not, by reason."""
    seeds = [derive_seed(seed, SWEEP, label, number) for number in range(PICTURES)]
    images, usable = sample([label] * PICTURES, seeds)
    reasons = keep(images, [label] * PICTURES, seeds)
    counts = Counter(reason if good else "not finite" for reason, good in zip(reasons, usable, strict=True))
    kept = counts.pop(None, 0)
    return {"kept": kept / PICTURES, "rejected": dict(sorted(counts.items()))}


def lines(found: dict[str, Any]) -> list[str]:
    """What was tried and chosen, a line a class."""
    out = []
    for name, record in found.items():
        tried = ", ".join(f"{strength}: {value['kept']:.0%}" for strength, value in record["tried"].items())
        none = "" if any(value["kept"] for value in record["tried"].values()) else " (nothing was kept at any)"
        out.append(f"strength for {name}: {record['chosen']}{none}; kept of {record['n']} at {tried}")
    return out
