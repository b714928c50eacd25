"""From scored candidates to preference pairs, and the data set of them.

data/train-00000-of-00001.parquet   rows of chosen and rejected (images), outcome, label, prompt, scores,
                                    reasons and seeds
preferences.json                    judge, checklist and its version, rule, counts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Value, load_dataset
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from PIL.Image import Image

from clinsynth.data.sources import load_folder
from clinsynth.run_folder import complete_folder

PREFERRED, BOTH_WIN, BOTH_LOSE, TIE = "preferred", "both_win", "both_lose", "tie"
Rule = Literal["magic", "margin"]
LOW_SHARE = 2 / 5  # MAGIC's "at most two of five items"
TINY = 1e-9
SIDES = ("chosen", "rejected")
OF_A_SIDE = {"row": "int64", "share": "float64", "seed": "int64", "reasons": "string"}
"""What a preference data set holds of each candidate of a pair beside its image."""


@dataclass(frozen=True)
class Candidate:
    """One generated image: its row in the candidates, class, prompt (those to compare share one), seed, score, and
    the judge's answers in words."""

    row: int
    label: int
    prompt: int
    seed: int
    share: float
    reasons: str = ""


@dataclass(frozen=True)
class Pair:
    """Two candidates of a prompt: `chosen` scores at least as high as `rejected`."""

    chosen: Candidate
    rejected: Candidate
    outcome: str


def outcome_of(higher: float, lower: float, rule: Rule, margin: float) -> str:
    """What a rule says of two shares of items met, `higher` >= `lower`, in [0, 1].

    magic (arXiv 2506.12323): both lose if the higher total of five is at most 2; both win if the lower is 5 or they
    tie above 2; else the higher wins. For other numbers of items the shares 2/5 and 1 take the place of 2 and 5.
    margin: the higher wins if it leads by `margin` or more, else it is a tie.
    """
    if rule == "margin":
        return PREFERRED if higher - lower > max(margin - TINY, TINY) else TIE
    if higher <= LOW_SHARE + TINY:
        return BOTH_LOSE
    if lower >= 1 - TINY or higher - lower < TINY:
        return BOTH_WIN
    return PREFERRED


def make_pairs(candidates: list[Candidate], rule: Rule, margin: float) -> list[Pair]:
    """All pairs of candidates within a prompt, each with its outcome, in order."""
    pairs = []
    for _, members in groupby(sorted(candidates, key=attrgetter("prompt")), attrgetter("prompt")):
        for both in combinations(members, 2):
            high, low = sorted(both, key=attrgetter("share"), reverse=True)
            pairs.append(Pair(high, low, outcome_of(high.share, low.share, rule, margin)))
    return pairs


def count_pairs(pairs: list[Pair], label_names: list[str]) -> dict[str, Any]:
    """How many pairs there are of each outcome, overall and by class."""
    by_label = {
        name: dict(Counter(pair.outcome for pair in pairs if pair.chosen.label == label))
        for label, name in enumerate(label_names)
    }
    return {"pairs": len(pairs), "outcomes": dict(Counter(pair.outcome for pair in pairs)), "by_class": by_label}


def check_pairs(pairs: list[Pair], unpaired: bool) -> None:
    """Raise a `ValueError` where no pair is left to learn from; `unpaired`: both-win and both-lose pairs count too."""
    outcomes = Counter(pair.outcome for pair in pairs)
    if enough(outcomes, unpaired):
        return
    if not pairs:
        raise ValueError("there are no pairs: each prompt has one candidate; give --candidates 2 or more")
    found = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
    raise ValueError(
        f"of {len(pairs)} pairs none prefers one image ({found}); give more --candidates or --prompts, "
        "--pair_rule margin with a small --margin, or a judge that tells these images apart"
    )


def enough(outcomes: Counter[str], unpaired: bool) -> bool:
    """Whether something can be learned from these outcomes."""
    return bool(outcomes[PREFERRED] or (unpaired and outcomes[BOTH_WIN] and outcomes[BOTH_LOSE]))


def write_pairs(
    folder: Path, pairs: list[Pair], images: Dataset, label_names: list[str], facts: dict[str, Any]
) -> None:
    """Write the data set; ties are dropped and counted.

    Args:
        images: the candidates, with a column image.
        facts: judge, checklist and rule, for preferences.json.
    """
    kept = [pair for pair in pairs if pair.outcome != TIE]
    cells = images.cast_column("image", ImageFeature(decode=False))["image"]
    sides: dict[str, list[Candidate]] = {side: [getattr(pair, side) for pair in kept] for side in SIDES}
    columns: dict[str, Any] = {
        **{side: [cells[candidate.row] for candidate in own] for side, own in sides.items()},
        "outcome": [pair.outcome for pair in kept],
        "label": [pair.chosen.label for pair in kept],
        "prompt": [pair.chosen.prompt for pair in kept],
        **{f"{side}_{name}": [getattr(one, name) for one in sides[side]] for side in SIDES for name in OF_A_SIDE},
        "judge": [facts["judge"]] * len(kept),
        "checklist": [f"{facts['checklist']} version {facts['checklist_version']}"] * len(kept),
    }
    counts = count_pairs(pairs, label_names)
    with complete_folder(folder) as aside:
        (aside / "data").mkdir()
        rows = Dataset.from_dict(columns, features=pair_features(label_names))
        rows.to_parquet(aside / "data" / "train-00000-of-00001.parquet")
        (aside / "preferences.json").write_text(json.dumps({**facts, **counts}, indent=1) + "\n")


def pair_features(label_names: list[str]) -> Features:
    """The columns of a preference data set."""
    known = {name: Value("string") for name in ("outcome", "judge", "checklist")}
    known |= {f"{side}_{name}": Value(kind) for name, kind in OF_A_SIDE.items() for side in SIDES}
    images = {side: ImageFeature() for side in SIDES}
    return Features({**images, **known, "prompt": Value("int64"), "label": ClassLabel(names=label_names)})


def read_pairs(folder: str | Path, unpaired: bool) -> Dataset:
    """A preference data set: a folder that `write_pairs` wrote, or the same on the Hub.

    Raises:
        ValueError: it cannot be read, misses a column or prefers nothing.
    """
    path = Path(folder)
    try:
        rows = load_folder(path / "data")["train"] if path.is_dir() else load_dataset(str(folder), split="train")
    except (DatasetGenerationError, KeyError, OSError, ValueError) as error:
        raise ValueError(f"--preferences {folder} cannot be read ({error}); give a preference data set") from error
    missing = [name for name in pair_features([]) if name not in rows.column_names]
    if missing:
        raise ValueError(f"--preferences {folder} has no column {missing[0]!r}; give a preference data set")
    if not enough(Counter(rows["outcome"]), unpaired):
        raise ValueError(f"--preferences {folder} holds no pair that prefers one image; make new ones")
    return rows


def pixels_of(images: Iterable[Image]) -> torch.Tensor:
    """PIL images as uint8 (n, channels, side, side)."""
    arrays = [np.asarray(image) for image in images]
    stacked = np.stack([array[None] if array.ndim == 2 else array.transpose(2, 0, 1) for array in arrays])
    return torch.from_numpy(stacked)


@dataclass(frozen=True)
class PairedImages:
    """The images of a preference data set, each once: uint8 (n, channels, side, side), with labels and seeds (n,).

    `chosen` and `rejected` (pairs,) say which of them each pair is of.
    """

    images: torch.Tensor
    labels: torch.Tensor
    seeds: list[int]
    chosen: torch.Tensor
    rejected: torch.Tensor


def paired_images(rows: Dataset) -> PairedImages:
    """The images of a preference data set; one that is in many pairs is decoded once."""
    seen: dict[tuple[int, int, int], int] = {}
    found: list[Any] = []
    numbers: dict[str, list[int]] = {}
    for side in SIDES:
        column, numbers[side] = rows[side], []
        keys = (rows["label"][:], rows[f"{side}_seed"][:], rows[f"{side}_row"][:])
        for pair, key in enumerate(zip(*keys, strict=True)):
            if key not in seen:
                seen[key] = len(seen)
                found.append(column[pair])
            numbers[side].append(seen[key])
    labels, seeds = torch.tensor([label for label, _, _ in seen]), [seed for _, seed, _ in seen]
    chosen, rejected = torch.tensor(numbers["chosen"]), torch.tensor(numbers["rejected"])
    return PairedImages(pixels_of(found), labels, seeds, chosen, rejected)


def signed_images(rows: Dataset) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels and signs (1 desirable, -1 not) of a preference data set, each image once for each sign."""
    paired = paired_images(rows)
    kept: dict[tuple[int, float], None] = {}  # in order, as a set is not
    for numbers, expected, against in ((paired.chosen, 1.0, BOTH_LOSE), (paired.rejected, -1.0, BOTH_WIN)):
        for number, outcome in zip(numbers.tolist(), rows["outcome"], strict=True):
            kept[number, -expected if outcome == against else expected] = None
    index = torch.tensor([number for number, _ in kept])
    return paired.images[index], paired.labels[index], torch.tensor([sign for _, sign in kept])
