"""Cutting missing splits, and choosing a part of the train split."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from clinsynth.data.labels import check_classes

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.data.arguments import ImageDataArguments

logger = logging.getLogger("clinsynth")

SHARES = {"test": 0.2, "validation": 0.1}
"""Share of the train split that a missing split takes."""
CUT_SEED = 0
PERSON_COLUMNS = ("patient_id", "patient", "subject_id", "subject", "person_id", "lesion_id")
"""Columns, the first that is there, whose equal values must not be torn apart by a cut."""


def with_all_splits(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    """Cut a missing test or validation split off train, by class, one person's pictures staying together.

    The cut is the same whatever the run's seed: else a picture that one run tests on would be trained on by another.

    Raises:
        ValueError: a split would come out empty.
    """
    train = splits["train"]
    person = next((column for column in PERSON_COLUMNS if column in train.column_names), None)
    if person:
        warn_of_shared_persons(splits, person)
    missing = {name: share for name, share in SHARES.items() if name not in splits}
    if missing:
        persons = np.asarray(train[person][:], dtype=str) if person else np.arange(len(train))
        rows = cut_rows(np.asarray(train["label"][:]), persons, missing)
        check_cut(rows)
        splits = {**splits, **{name: train.select(chosen) for name, chosen in rows.items()}}
        parts = ", ".join(f"{name} {len(rows[name])}" for name in rows)
        together = f", equal {person} kept together" if person else ""
        logger.info("no split %s: cut off train by class%s: %s", " or ".join(missing), together, parts)
    return {name: splits[name] for name in ("train", "validation", "test")}


def check_cut(rows: dict[str, list[int]]) -> None:
    for name, chosen in rows.items():
        if not chosen:
            raise ValueError(
                f"no class is large enough to cut off a {name} split; add images, or name the splits yourself"
            )


def warn_of_shared_persons(splits: dict[str, Dataset], column: str) -> None:
    known = {name: set(split[column][:]) for name, split in splits.items() if column in split.column_names}
    for name in known.keys() - {"train"}:
        shared = len(known[name] & known["train"])
        if shared:
            logger.warning("%d values of %s are in train and in %s: results on %s flatter", shared, column, name, name)


def cut_rows(labels: np.ndarray, persons: np.ndarray, shares: dict[str, float]) -> dict[str, list[int]]:
    """Row numbers for train and each missing split; a person counts as of the class of their first row.

    A class gives every split its share, rounded, and keeps the rest for train.
    """
    _, first, person = np.unique(persons, return_index=True, return_inverse=True)
    sizes = np.bincount(person)
    home = np.full(len(first), "train", dtype=object)
    for label in np.unique(labels):
        members = np.random.default_rng([CUT_SEED, int(label)]).permutation(np.flatnonzero(labels[first] == label))
        filled = np.cumsum(sizes[members])
        start = 0
        for name, share in shares.items():
            end = start + round(share * filled[-1]) if len(filled) else 0
            home[members[(filled > start) & (filled <= end)]] = name
            start = end
    return {name: np.flatnonzero(home[person] == name).tolist() for name in ("train", *shares)}


def choose_train(train: Dataset, args: ImageDataArguments, seed: int) -> Dataset:
    """Apply `--train_fraction` or `--few_shot`: by class, seeded, rows in their old order.

    Raises:
        ValueError: a number out of range, both flags at once, or a class with fewer images than `--few_shot`.
    """
    check_choice(args, seed)
    labels = np.asarray(train["label"][:])
    names = train.features["label"].names
    check_classes(np.bincount(labels, minlength=len(names)), names, 1)
    if args.few_shot is None and args.train_fraction == 1:
        return train
    chosen = []
    for label, name in enumerate(names):
        members = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        wanted = args.few_shot or max(1, round(args.train_fraction * len(members)))
        if wanted > len(members):
            raise ValueError(
                f"--few_shot {wanted}: class {name!r} has only {len(members)} train images; "
                f"give {len(members)} or fewer"
            )
        chosen.append(members[:wanted])
    rows = np.sort(np.concatenate(chosen))
    logger.info("train: %d of %d images, by class, seed %d", len(rows), len(train), seed)
    return train.select(rows.tolist())


def check_choice(args: ImageDataArguments, seed: int) -> None:
    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}")
    if not 0 < args.train_fraction <= 1:
        raise ValueError(f"--train_fraction must be above 0 and at most 1, got {args.train_fraction}")
    if args.few_shot is not None and args.few_shot < 1:
        raise ValueError(f"--few_shot must be at least 1 image a class, got {args.few_shot}")
    if args.few_shot is not None and args.train_fraction != 1:
        raise ValueError(
            f"--few_shot {args.few_shot} and --train_fraction {args.train_fraction}: give only one of them"
        )
