"""Cutting missing splits, and choosing a part of the train split: the same for images and texts."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from datasets import ClassLabel, Dataset

from clinsynth.data.arguments import DataArguments

logger = logging.getLogger("clinsynth")

Splits = dict[str, Dataset]

SHARES = {"test": 0.2, "validation": 0.1}
"""Share of the train split that a missing split takes."""
CUT_SEED = 0
PERSON_COLUMNS = ("patient_id", "patient", "subject_id", "subject", "person_id", "lesion_id")
"""Columns, the first that is there, whose equal values must not be torn apart by a cut."""


def person_column(dataset: Dataset) -> str | None:
    """The column that tells whose a row is, if there is one."""
    return next((column for column in PERSON_COLUMNS if column in dataset.column_names), None)


def with_all_splits(
    splits: Splits, noun: str = "image", kept_together: Callable[[Dataset], np.ndarray] | None = None
) -> Splits:
    """Cut a missing test or validation split off train, by class, one person's rows staying together.

    The cut is the same whatever the run's seed: else a row that one run tests on would be trained on by another.

    Args:
        noun: what a row is called in messages.
        kept_together: where no column tells persons, a value a row, (n,), equal ones of which stay together.

    Raises:
        ValueError: there is no train split, or a split would come out empty.
    """
    train = splits["train"]
    person = person_column(train)
    if person:
        warn_of_shared_persons(splits, person)
    missing = {name: share for name, share in SHARES.items() if name not in splits}
    if missing:
        if person:
            groups = np.asarray(train[person][:], dtype=str)
        else:
            groups = kept_together(train) if kept_together else np.arange(len(train))
        rows = cut_rows(np.asarray(train["label"][:]), groups, missing)
        for name, chosen in rows.items():
            if not chosen:
                raise ValueError(
                    f"no class is large enough to cut off a {name} split; add {noun}s, or name the splits yourself"
                )
        splits = {**splits, **{name: train.select(chosen) for name, chosen in rows.items()}}
        parts = ", ".join(f"{name} {len(rows[name])}" for name in rows)
        together = f", equal {person} kept together" if person else ""
        logger.info("no split %s: cut off train by class%s: %s", " or ".join(missing), together, parts)
    return {name: splits[name] for name in ("train", "validation", "test")}


def warn_of_shared_persons(splits: Splits, column: str) -> None:
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


def choose_train(train: Dataset, args: DataArguments, seed: int) -> Dataset:
    """Apply `--train_fraction` or `--few_shot`: by class, seeded, rows in their old order.

    Raises:
        ValueError: a negative seed, fewer than two classes, an empty or a too small one, or one with fewer rows than
            `--few_shot`.
    """
    if seed < 0:
        raise ValueError(f"--seed must be at least 0, got {seed}")
    check_classes(train, args, 1)
    if args.few_shot is not None or args.train_fraction != 1:
        rows = chosen_rows(np.asarray(train["label"][:]), train.features["label"].names, args, seed)
        logger.info("train: %d of %d %ss, by class, seed %d", len(rows), len(train), args.noun, seed)
        train = train.select(rows.tolist())
    check_classes(train, args, args.min_class_size)
    return train


def chosen_rows(labels: np.ndarray, names: list[str], args: DataArguments, seed: int) -> np.ndarray:
    """The numbers of the rows to take, in order."""
    chosen = []
    for label, name in enumerate(names):
        members = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        wanted = args.few_shot or max(1, round(args.train_fraction * len(members)))
        if wanted > len(members):
            raise ValueError(
                f"--few_shot {wanted}: class {name!r} has only {len(members)} train {args.noun}s; give at most "
                f"{len(members)}"
            )
        chosen.append(members[:wanted])
    return np.sort(np.concatenate(chosen))


def check_classes(train: Dataset, args: DataArguments, least: int) -> None:
    """Raise a `ValueError` for fewer than two classes, an empty one, or one of fewer than `least` train rows."""
    names, noun = train.features["label"].names, args.noun
    if len(names) < 2:
        raise ValueError(
            f"--dataset {args.dataset} has {len(names)} class ({', '.join(names)}); two or more are needed: add "
            f"{noun}s of another, or check --label_column"
        )
    for name, count in zip(names, np.bincount(train["label"][:], minlength=len(names)).tolist(), strict=True):
        if count == 0:
            raise ValueError(
                f"class {name!r} has no train {noun}s; add some, or leave the class out: without its name in "
                "--label_names, and with labels numbered from 0 without a gap"
            )
        if count < least:
            drop = " or leave such classes out with --drop_small_classes true" if noun == "text" else ""
            raise ValueError(
                f"class {name!r} has {count} train {noun}s, fewer than --min_class_size {least}; add {noun}s, give "
                f"--min_class_size {count}{drop}"
            )


def without_small_classes(splits: Splits, least: int, noun: str) -> Splits:
    """Splits without the classes that have fewer than `least` train rows; a message names them and the rows lost.

    Raises:
        ValueError: no class is left.
    """
    names = splits["train"].features["label"].names
    labels = splits["train"]["label"][:]
    large = [label for label in range(len(names)) if labels.count(label) >= least]
    if not large:
        raise ValueError(f"no class has {least} train {noun}s; lower --min_class_size")
    if len(large) == len(names):
        return splits
    feature = ClassLabel(names=[names[label] for label in large])
    result = {}
    for split, dataset in splits.items():
        rows = [row for row, label in enumerate(dataset["label"]) if label in large]
        chosen = dataset.select(rows)
        numbers = [large.index(label) for label in chosen["label"]]
        result[split] = chosen.remove_columns("label").add_column("label", numbers, feature=feature)
    small = ", ".join(name for label, name in enumerate(names) if label not in large)
    lost = ", ".join(f"{split} {len(splits[split]) - len(result[split])}" for split in splits)
    logger.warning("classes below %d train %ss are left out: %s; rows lost: %s", least, noun, small, lost)
    return result
