"""phantom-posts: posts of a grammar whose four severities differ by symptoms that can be counted.

No person stands behind them: a grammar writes each post from a scene and from symptoms of the nine areas that the
PHQ-9 questionnaire asks about, each with how often it comes. How often scores 1 to 3 as there, and the sum of a post
is its label, so that the answer is known. They are for trying things out without data; nobody writes like that.

| label         | sum of the scores |
|---------------|-------------------|
| non-depressed | 0 to 4            |
| mild          | 5 to 9            |
| moderate      | 10 to 14          |
| severe        | 15 to 21          |

Post i depends on the seed, its split, that split's size and i alone, and on the order of phantom_posts.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from typing import Any

import numpy as np
import yaml
from datasets import ClassLabel, Dataset, Features, Value

from clinsynth.data.sources import parse_options, share_out

NAME = "phantom-posts"
LABELS = ["non-depressed", "mild", "moderate", "severe"]
SCORES = {"non-depressed": (0, 4), "mild": (5, 9), "moderate": (10, 14), "severe": (15, 21)}
SPLIT_COUNTS = {"train": (240, 100, 60, 40), "validation": (48, 20, 12, 8), "test": (96, 40, 24, 16)}
PHRASES = yaml.safe_load(resources.files(__package__).joinpath("phantom_posts.yaml").read_text(encoding="utf-8"))
FREQUENCIES: dict[int, list[str]] = PHRASES["frequencies"]
SYMPTOMS: dict[str, list[str]] = PHRASES["symptoms"]


def build_splits(spec: str) -> dict[str, Dataset]:
    """Splits of `phantom-posts[?seed=…&train=…&validation=…&test=…]`: text and label.

    Raises:
        ValueError: an unknown option or a number out of range (seed from 0, at least 4 posts).
    """
    totals = {name: sum(counts) for name, counts in SPLIT_COUNTS.items()}
    lowest = {"seed": 0, **dict.fromkeys(SPLIT_COUNTS, len(LABELS))}
    options = parse_options(spec, NAME, {"seed": 0, **totals}, lowest)
    features = Features(text=Value("string"), label=ClassLabel(names=LABELS))
    return {
        split: Dataset.from_list(list(write_split(split, options[split], options["seed"])), features=features)
        for split in SPLIT_COUNTS
    }


def write_split(split: str, total: int, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a split, `total` posts with the labels as unequal as SPLIT_COUNTS has them."""
    number = list(SPLIT_COUNTS).index(split)
    labels = np.repeat(np.arange(len(LABELS)), share_out(total, SPLIT_COUNTS[split]))
    np.random.default_rng([seed, number]).shuffle(labels)
    for index, label in enumerate(labels.tolist()):
        generator = np.random.default_rng([seed, number, index])
        yield {"text": write_post(draw_scores(LABELS[label], generator), generator), "label": label}


def draw_scores(label: str, generator: np.random.Generator) -> dict[str, int]:
    """Area of symptoms to its score, 1 to 3; the sum lies in the label's range."""
    low, high = SCORES[label]
    scores: dict[str, int] = {}
    for _ in range(int(generator.integers(low, high, endpoint=True))):
        open_areas = [area for area in SYMPTOMS if scores.get(area, 0) < 3]
        raised = [area for area in open_areas if area in scores]
        pool = raised if raised and generator.random() < 0.5 else open_areas
        area = str(generator.choice(pool))
        scores[area] = scores.get(area, 0) + 1
    return scores


def write_post(scores: dict[str, int], generator: np.random.Generator) -> str:
    """An opening, sentences on a scene, on ordinary things and on each symptom in random order, and a closing."""

    def one(phrases: list[str]) -> str:
        return str(generator.choice(phrases))

    felt = [f"{one(FREQUENCIES[score])} {one(SYMPTOMS[area])}." for area, score in scores.items()]
    plain = [one(PHRASES["ordinary"]) for _ in range(max(1, 3 - len(felt)))]
    middle = [one(PHRASES["scenes"]), *felt, *plain]
    order = generator.permutation(len(middle))
    sentences = [one(PHRASES["openings"]), *(middle[number] for number in order), one(PHRASES["closings"])]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
