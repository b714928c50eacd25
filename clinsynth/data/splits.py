"""Cutting missing splits, and choosing a part of the train split: the same for images and texts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from clinsynth.data.arguments import DataArguments
from clinsynth.data.labels import LOOK, PERSON, persons_of
from clinsynth.data.looks import Looks
from clinsynth.data.tables import numbers_of

logger = logging.getLogger("clinsynth")

Splits = dict[str, Dataset]


@dataclass(frozen=True)
class Loaded:
    """A data set as it came in.

    Attributes:
        splits: train, validation and test, with the column `person` where it is known whose a row is, of images with
            the column LOOK.
        subgroups: the columns that came in beside samples and labels.
        left_out: the columns that did not.
        notes: what a reader of any result on it must know.
        seen: what was seen of all images that were read; None of texts.
    """

    splits: DatasetDict
    subgroups: list[str]
    left_out: list[str]
    notes: list[str]
    seen: Looks | None = None

    def plain(self) -> DatasetDict:
        """The splits without the columns that only reading needs."""
        return self.splits.remove_columns([c for c in (PERSON, LOOK) if c in self.splits["train"].column_names])

    def looks(self) -> dict[str, Looks]:
        """What was seen of each split's images; nothing of texts."""
        return {} if self.seen is None else looks_of(self.splits, self.seen)


def looks_of(splits: Mapping[Any, Dataset], seen: Looks) -> dict[str, Looks]:
    """What was seen of each split's images."""
    return {str(name): Looks(seen.records, numbers_of(split, LOOK)) for name, split in splits.items()}


SHARES = {"test": 0.2, "validation": 0.1}
"""Share of the train split that a missing split takes."""
CUT_SEED = 0


def with_all_splits(
    splits: Splits, noun: str = "image", kept_together: Callable[[Dataset], np.ndarray] | None = None
) -> Splits:
    """Cut a missing test or validation split off train, by class, one person's rows staying together.

    The cut is the same whatever the run's seed: else a row that one run tests on would be trained on by another.

    Args:
        splits: with the column `person` where it is known whose a row is.
        noun: what a row is called in messages.
        kept_together: a value a row, (n,), equal ones of which stay together too.

    Raises:
        ValueError: there is no train split, or a split would come out empty.
    """
    train = splits["train"]
    missing = {name: share for name, share in SHARES.items() if name not in splits}
    if missing:
        labels = numbers_of(train, "label")
        whose = persons_of(train)
        persons = np.arange(len(train)) if whose is None else whose
        groups = persons
        if kept_together:  # the cut of rows without persons is that of earlier versions, whose sets name its rows
            groups = kept_together(train) if whose is None else joined(persons, kept_together(train))
        rows = cut_rows(labels, groups, missing)
        if not all(map(len, rows.values())) and kept_together and len(np.unique(persons)) > 1:
            logger.warning("so many %ss are equal or nearly so that no cut keeps these together", noun)
            rows = cut_rows(labels, persons, missing)
        for name, chosen in rows.items():
            if not len(chosen):
                raise ValueError(why_empty(name, noun, whose))
        splits = {**splits, **{name: train.select(chosen) for name, chosen in rows.items()}}
        parts = ", ".join(f"{name} {len(rows[name])}" for name in rows)
        together = ", one person's rows kept together" if PERSON in train.column_names else ""
        logger.info("no split %s: cut off train by class%s: %s", " or ".join(missing), together, parts)
    return {name: splits[name] for name in ("train", "validation", "test")}


def why_empty(split: str, noun: str, persons: np.ndarray | None) -> str:
    """What to say where a split would come out empty."""
    people = None if persons is None else len(set(persons.tolist()))
    if persons is not None and people == 1:
        return (
            f"all {len(persons)} {noun}s name one person, so that no {split} split can be cut off; if the ids were "
            "made alike, name a column that tells persons with --group_column, or give --group_column none"
        )
    few = "" if people is None else f" ({people} persons)"
    return f"no class is large enough to cut off a {split} split{few}; add {noun}s, or name the splits yourself"


def joined(*keys: np.ndarray) -> np.ndarray:
    """Numbers (n,) of the groups that rows fall into which share a value of any of `keys`, each (n,)."""
    n = len(keys[0])
    if len(keys) == 1:
        return np.unique(keys[0], return_inverse=True)[1]
    own = [np.unique(key, return_inverse=True)[1] for key in keys]
    starts = np.cumsum([n, *(values.max() + 1 for values in own)])
    columns = np.concatenate([values + start for values, start in zip(own, starts, strict=False)])
    rows = np.tile(np.arange(n), len(own))
    edges = coo_array((np.ones(len(rows)), (rows, columns)), shape=(starts[-1], starts[-1]))
    found: np.ndarray = connected_components(edges, directed=False)[1][:n]
    return found


def cut_rows(labels: np.ndarray, persons: np.ndarray, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Row numbers for train and each missing split; a person counts as of the class of their first row.

    A class gives every split its share, rounded, and keeps the rest for train.
    """
    _, first, person = np.unique(persons, return_index=True, return_inverse=True)
    sizes = np.bincount(person)
    home = np.zeros(len(first), dtype=np.uint8)  # 0 train, then in the order of shares
    for label in np.unique(labels):
        members = np.random.default_rng([CUT_SEED, int(label)]).permutation(np.flatnonzero(labels[first] == label))
        filled = np.cumsum(sizes[members])
        start = 0
        for split, share in enumerate(shares.values(), start=1):
            end = start + round(share * filled[-1]) if len(filled) else 0
            chosen = members[(filled > start) & (filled <= end) & (home[members] == 0)]
            if end > start and not len(chosen) and len(members) > len(shares):  # the next one alone is too large
                chosen = members[home[members] == 0][:1]
            home[chosen] = split
            start = end
    return {name: np.flatnonzero(home[person] == split) for split, name in enumerate(("train", *shares))}


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
        names = train.features["label"].names
        persons = persons_of(train)
        rows = chosen_rows(numbers_of(train, "label"), names, args, seed, persons)
        whole = "" if persons is None else f", of {len(set(persons[rows]))} of {len(set(persons))} persons"
        logger.info("train: %d of %d %ss%s, by class, seed %d", len(rows), len(train), args.noun, whole, seed)
        train = train.select(rows.tolist())
    check_classes(train, args, args.min_class_size)
    return train


def chosen_rows(
    labels: np.ndarray, names: list[str], args: DataArguments, seed: int, persons: np.ndarray | None = None
) -> np.ndarray:
    """The numbers of the rows to take, in order: whole persons, in one order for all classes, where it is known whose
    a row is; of the last person of `--few_shot` as many rows as are wanted still."""
    chosen = []
    turn = None if persons is None else np.random.default_rng(seed).permutation(persons.max() + 1)[persons]
    for label, name in enumerate(names):
        members = np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))
        wanted = args.few_shot or max(1, round(args.train_fraction * len(members)))
        if wanted > len(members):
            raise ValueError(
                f"--few_shot {wanted}: class {name!r} has only {len(members)} train {args.noun}s; give at most "
                f"{len(members)}"
            )
        if turn is not None:
            members = members[np.argsort(turn[members], kind="stable")]
            wanted = wanted if args.few_shot else whole_persons(turn[members], wanted)
        chosen.append(members[:wanted])
    return np.sort(np.concatenate(chosen))


def whole_persons(turns: np.ndarray, wanted: int) -> int:
    """How many of the rows, whose persons' turns (n,) rise, are whole persons and nearest to `wanted`."""
    ends = np.append(np.flatnonzero(np.diff(turns)) + 1, len(turns))
    return int(ends[np.argmin(np.abs(ends - wanted))])


def check_classes(train: Dataset, args: DataArguments, least: int) -> None:
    """Raise a `ValueError` for fewer than two classes, an empty one, or one of fewer than `least` train rows."""
    names, noun = train.features["label"].names, args.noun
    if len(names) < 2:
        raise ValueError(
            f"--dataset {args.dataset} has {len(names)} class ({', '.join(names)}); two or more are needed: add "
            f"{noun}s of another, or check --label_column"
        )
    for name, count in zip(names, np.bincount(numbers_of(train, "label"), minlength=len(names)).tolist(), strict=True):
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
    counts = np.bincount(numbers_of(splits["train"], "label"), minlength=len(names))
    large = np.flatnonzero(counts >= least).tolist()
    if not large:
        raise ValueError(f"no class has {least} train {noun}s; lower --min_class_size")
    if len(large) == len(names):
        return splits
    feature = ClassLabel(names=[names[label] for label in large])
    result = {}
    for split, dataset in splits.items():
        labels = numbers_of(dataset, "label")
        rows = np.flatnonzero(np.isin(labels, large))
        chosen, numbers = dataset.select(rows), np.searchsorted(large, labels[rows])
        result[split] = chosen.remove_columns("label").add_column("label", numbers, feature=feature)
    small = ", ".join(name for label, name in enumerate(names) if label not in large)
    lost = ", ".join(f"{split} {len(splits[split]) - len(result[split])}" for split in splits)
    logger.warning("classes below %d train %ss are left out: %s; rows lost: %s", least, noun, small, lost)
    return result
