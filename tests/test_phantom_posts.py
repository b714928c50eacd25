"""phantom-posts: deterministic, as unequal as it says, and its labels can be read off its words."""

from collections import Counter

import numpy as np
import pytest

from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.phantom_posts import (
    FREQUENCIES,
    LABELS,
    SCORES,
    SPLIT_COUNTS,
    SYMPTOMS,
    draw_scores,
    write_split,
)
from clinsynth.data.tasks import load_task
from clinsynth.data.texts import load_text_dataset


def label_of(score: int) -> str:
    """The label that a sum of scores stands for; the rule behind the table of phantom_posts.py."""
    return next(label for label, (low, high) in SCORES.items() if low <= score <= high)


def score_of(text: str) -> int:
    """The sum of the scores of the symptoms in a post, read off its sentences."""
    said = text.lower()
    symptoms = [symptom.lower() for known in SYMPTOMS.values() for symptom in known]
    return sum(
        score * sum(f"{phrase} {symptom}." in said for phrase in phrases for symptom in symptoms)
        for score, phrases in FREQUENCIES.items()
    )


def test_spec_gives_labelled_splits_whose_labels_are_in_the_words() -> None:
    splits = load_text_dataset(TextDataArguments(dataset="phantom-posts"))
    for name, counts in SPLIT_COUNTS.items():
        assert tuple(np.bincount(splits[name]["label"])) == counts
        for row in splits[name]:
            assert label_of(score_of(row["text"])) == LABELS[row["label"]]
    assert len(set(splits["train"]["text"])) == len(splits["train"]) == 440


def test_its_labels_are_those_of_the_task_of_severity_posts() -> None:
    task = load_task("severity-posts")
    assert list(task.labels) == LABELS
    bounds = task.schema["properties"]["text"]
    texts = [row["text"] for split in SPLIT_COUNTS for row in write_split(split, 40, seed=1)]
    assert all(len(text) >= bounds["minLength"] for text in texts)


def test_same_seed_same_posts_other_seed_others() -> None:
    first, again, other = (list(write_split("test", 30, seed)) for seed in (3, 3, 4))
    assert first == again
    assert all(a["text"] != b["text"] for a, b in zip(first, other, strict=True))


def test_every_label_keeps_to_its_scores() -> None:
    generator = np.random.default_rng(0)
    for label, (low, high) in SCORES.items():
        drawn = [draw_scores(label, generator) for _ in range(200)]
        sums = Counter(sum(scores.values()) for scores in drawn)
        assert (min(sums), max(sums)) == (low, high)
        assert all(score in (1, 2, 3) for scores in drawn for score in scores.values())


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("phantom-posts?size=3", "has no option 'size'; it takes seed, train, validation, test"),
        ("phantom-posts?train=3", "train must be a whole number from 4, got '3'"),
        ("phantom-posts?seed=-1", "seed must be a whole number from 0, got '-1'"),
    ],
)
def test_wrong_options_are_named(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        load_text_dataset(TextDataArguments(dataset=spec))
