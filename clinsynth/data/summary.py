"""What is in a data set of images or texts: counts a class, sizes, subgroups, persons, duplicates within and across
splits, what came in and what was left out, and the smallest difference that its test split can show."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from datasets import Dataset

from clinsynth.data.duplicates import NEAR_THRESHOLD, exact_pairs, near_pairs, text_keys
from clinsynth.data.labels import AGE_BANDS, AGE_WORDS, age_band, age_of, persons_of, words_of
from clinsynth.data.looks import Looks, joined
from clinsynth.data.splits import Loaded
from clinsynth.data.tables import AT_ONCE, cells_of, column_of, numbers_of
from clinsynth.data.targets import count_modes, count_sizes

MAX_VALUES = 30  # a text column with more values than these is described by their number


def summarize(splits: Mapping[str, Dataset], looks: Mapping[str, Looks]) -> dict[str, Any]:
    """Counts for each split and the duplicates among all of them, ready for JSON.

    `looks` were seen of the images of each split; of texts there are none.
    """
    described = {name: describe_split(split, looks.get(name)) for name, split in splits.items()}
    return {"splits": described, "duplicates": find_duplicates(splits, looks)}


def summarize_loaded(loaded: Loaded) -> dict[str, Any]:
    """`summarize`, and what is to be known before anything is trained: persons, columns, notes, power."""
    whose = {name: persons_of(split) for name, split in loaded.splits.items()}
    persons = {name: None if found is None else len(set(found.tolist())) for name, found in whose.items()}
    smallest = min(((count, name) for name, count in count_classes(loaded.splits["train"]).items()), default=None)
    return {
        **summarize({str(name): split for name, split in loaded.plain().items()}, loaded.looks()),
        "persons": persons,
        "subgroups": loaded.subgroups,
        "columns left out": loaded.left_out,
        "notes": loaded.notes,
        "smallest class": smallest and {"name": smallest[1], "train": smallest[0]},
        "smallest difference": smallest_difference(loaded),
    }


def count_classes(split: Dataset) -> dict[str, int]:
    """Rows of each class."""
    names = split.features["label"].names
    return dict(zip(names, np.bincount(numbers_of(split, "label"), minlength=len(names)).tolist(), strict=True))


def describe_split(split: Dataset, looks: Looks | None) -> dict[str, Any]:
    """Rows, classes and subgroups of a split, and what its images or texts measure."""
    classes = {"classes": count_classes(split)}
    others = [name for name in split.column_names if name not in ("id", "image", "text", "label")]
    subgroups = {name: describe_column(name, column_of(split, name)) for name in others}
    if looks is None:
        lengths = np.fromiter(map(len, cells_of(split, "text")), dtype=np.int64)
        spread = {"least": int(lengths.min()), "median": int(np.median(lengths)), "most": int(lengths.max())}
        return {
            "texts": len(split),
            **classes,
            "characters": spread,
            "subgroups": subgroups,
        }
    found = looks.survey()
    sizes = {f"{width}x{height}": count for (width, height), count in count_sizes(found).most_common()}
    return {
        "images": len(split),
        **classes,
        "sizes": sizes,
        "modes": dict(count_modes(found).most_common()),
        "subgroups": subgroups,
    }


RESAMPLES = 500
MOST_TRAIN = 4000
BASELINES, FEW_ROWS = 3, 2
VISIBLE = 0.03
"""The gain in macro-F1 that a study should be able to show."""
POWER = 2.8  # standard errors: 1.96 for 5 % two-sided, 0.84 for a power of 80 %


def smallest_difference(loaded: Loaded) -> dict[str, Any] | None:
    """The smallest difference in macro-F1 between two classifiers that this test split can show: 2.8 standard errors
    of a difference (5 % two-sided, 80 % power), each as uncertain as a quick baseline under a bootstrap of test rows,
    or of persons. Arms that are paired on the same rows may show less.

    The baseline is a logistic regression on thumbnails or words, trained on at most 4,000 train rows.
    """
    found = resampled_baselines(loaded, 1)
    if found is None:
        return None
    return {
        "macro_f1": round(POWER * float(np.sqrt(2) * found[1:, 0].std()), 3),
        "baseline": round(float(found[0, 0]), 3),
        "test": len(loaded.splits["test"]),
    }


def visible_gain(loaded: Loaded, seeds: int) -> float | None:
    """The smallest gain in macro-F1 that a study of `seeds` trainings an arm can show on this test split, before any
    is done: as `smallest_difference`, but of two arms on the same test rows, told from baselines that are trained on
    different resamples of train; how much these differ stands for the spread of trainings."""
    found = resampled_baselines(loaded, BASELINES)
    counts = np.unique(numbers_of(loaded.splits["test"], "label"), return_counts=True)[1]
    return None if found is None else visible(found, seeds, counts)


def visible(scores: np.ndarray, seeds: int, counts: np.ndarray) -> float:
    """2.8 standard errors of a difference of two arms of `seeds` trainings each; never less than what FEW_ROWS rows of
    the rarest class make, answered otherwise.

    Args:
        scores: of several trainings of one arm, (1 + resamples, trainings), the first of them the rows as they are.
            Pairs of trainings tell how far two arms differ on the same rows; a single one is taken for two unpaired.
        counts: test rows of each class.
    """
    many = scores.shape[1]
    pairs = [scores[1:, i] - scores[1:, j] for i in range(many) for j in range(i)]
    rows = np.mean([pair.var() for pair in pairs]) if pairs else 2 * scores[1:, 0].var()
    spread = scores[0].var(ddof=1) if many > 1 else 0.0
    least = FEW_ROWS / (len(counts) * max(int(counts.min()), 1))
    return max(least, POWER * float(np.sqrt(rows + 2 * spread / seeds)))


def resampled_baselines(loaded: Loaded, count: int) -> np.ndarray | None:
    """Macro-F1 of `count` quick baselines, on the test rows as they are and on resamples of them, or of persons:
    (1 + RESAMPLES, count). The first is trained on the train rows, others on resamples. None with a single class."""
    from sklearn.base import clone
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    train, test = loaded.splits["train"], loaded.splits["test"]
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(train))[:MOST_TRAIN]
    labels, known = numbers_of(train, "label")[rows], numbers_of(test, "label")
    if len(np.unique(labels)) < 2:
        return None
    seen, unseen = features_of_rows(loaded, rows)
    predicted = np.zeros((count, len(known)), dtype=np.int64)
    draws = [np.arange(len(rows)), *(resample_of_classes(labels, rng) for _ in range(count - 1))]
    model = LogisticRegression(class_weight="balanced", max_iter=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a quick baseline need not end
        models = [clone(model).fit(seen[drawn], labels[drawn]) for drawn in draws]
    for first, block in unseen:
        for number, fitted in enumerate(models):
            predicted[number, first : first + AT_ONCE] = fitted.predict(block)
    whose = persons_of(test)
    units = np.arange(len(test)) if whose is None else np.unique(whose, return_inverse=True)[1]
    rng, many = np.random.default_rng(0), units.max() + 1
    drawn = (np.bincount(rng.integers(many, size=many), minlength=many)[units] for _ in range(RESAMPLES))
    weights = chain([np.ones(len(known))], drawn)
    return np.array([[macro_f1(known, run, each) for run in predicted] for each in weights])


def resample_of_classes(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers of as many rows of each class, drawn with replacement."""
    own = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.concatenate([rng.choice(rows, len(rows)) for rows in own])


def macro_f1(known: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> float:
    """Mean F1 of the classes that have weight; all arrays (n,)."""
    found = []
    for label in np.unique(known[weights > 0]):
        hits = weights[(known == label) & (predicted == label)].sum()
        found.append(2 * hits / (weights[known == label].sum() + weights[predicted == label].sum()))
    return float(np.mean(found))


def features_of_rows(loaded: Loaded, rows: np.ndarray) -> tuple[Any, Iterator[tuple[int, Any]]]:
    """Standardised thumbnails (n, 784), or weights of words, of the train rows `rows`, and of all test rows in parts,
    each behind the number of its first row."""
    test = loaded.splits["test"]
    starts = range(0, len(test), AT_ONCE)
    if loaded.seen is None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        train = loaded.splits["train"].select(rows.tolist())
        words = TfidfVectorizer(min_df=1, max_features=20_000)
        seen, parts = words.fit_transform(train["text"]), test.select_columns("text").iter(AT_ONCE)
        return seen, ((start, words.transform(part["text"])) for start, part in zip(starts, parts, strict=True))
    looks = loaded.looks()
    known, unseen = looks["train"].thumbnails[rows], looks["test"].thumbnails
    pixels = known.reshape(len(known), -1) / 255
    mean, spread = pixels.mean(0), pixels.std(0) + 1e-3
    blocks = ((start, unseen[start : start + AT_ONCE].reshape(-1, pixels.shape[1]) / 255) for start in starts)
    return (pixels - mean) / spread, ((start, (block - mean) / spread) for start, block in blocks)


def describe_column(name: str, values: list[Any]) -> dict[str, Any]:
    """Counts of texts and age bands; mean, lowest and highest of other numbers."""
    known = [value for value in values if value is not None and value == value and value != ""]
    missing = {"(missing)": len(values) - len(known)} if len(known) < len(values) else {}
    ages = [age_of(value) for value in known]
    if set(words_of(name)) & AGE_WORDS and None not in ages:
        bands = Counter(age_band(age) for age in ages if age is not None)
        return {**{band: bands[band] for band in map(age_band, AGE_BANDS) if bands[band]}, **missing}
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return {"mean": round(float(np.mean(known)), 2), "lowest": min(known), "highest": max(known), **missing}
    counts = Counter(str(value) for value in known)
    if len(counts) > MAX_VALUES:
        return {"different values": len(counts), **missing}
    return {**dict(counts.most_common()), **missing}


def find_duplicates(splits: Mapping[str, Dataset], looks: Mapping[str, Looks]) -> dict[str, Any]:
    """Pairs of the same pixels (each later image with its first) and of near duplicates that are not the same."""
    places = Places(list(splits), np.cumsum([0, *map(len, splits.values())]))
    labels = np.concatenate([numbers_of(split, "label") for split in splits.values()])
    if not looks:
        keys = np.concatenate([text_keys(cells_of(split, "text")) for split in splits.values()])
        return {"exact": describe_pairs(exact_pairs(keys), places, labels)}
    every = joined([looks[name] for name in splits])
    digests = every.digests
    exact = exact_pairs(digests)
    likely = near_pairs(every.thumbnails)
    near = {(i, j): round(likeness, 3) for i, j, likeness in likely if digests[i] != digests[j]}
    return {
        "exact": describe_pairs(exact, places, labels),
        "near": {"threshold": NEAR_THRESHOLD, **describe_pairs(near, places, labels)},
    }


@dataclass(frozen=True)
class Places:
    """Where the rows of all splits, one after the other, stand: names of the splits, and where each starts."""

    names: list[str]
    starts: np.ndarray

    def __getitem__(self, number: int) -> tuple[str, int]:
        split = int(np.searchsorted(self.starts, number, side="right")) - 1
        return self.names[split], number - int(self.starts[split])


def describe_pairs(pairs: Iterable[tuple[int, int]], places: Places, labels: np.ndarray) -> dict[str, Any]:
    pairs = list(pairs)
    return {
        "pairs": len(pairs),
        "of different labels": sum(int(labels[i] != labels[j]) for i, j in pairs),
        "by splits": dict(Counter(f"{places[i][0]} - {places[j][0]}" for i, j in pairs)),
        "rows": [[*places[i], *places[j]] for i, j in pairs],
    }


def to_table(summary: Mapping[str, Any]) -> str:
    """The summary as text for a terminal."""
    splits = summary["splits"]
    columns = {name: split["classes"] for name, split in splits.items()}
    lines = count_lines("class", columns, total=True)
    for title, key in (("size", "sizes"), ("mode", "modes"), ("characters", "characters")):
        if key in next(iter(splits.values())):
            lines += ["", *count_lines(title, {name: split[key] for name, split in splits.items()})]
    for column in next(iter(splits.values()))["subgroups"]:
        lines += ["", *count_lines(column, {name: split["subgroups"][column] for name, split in splits.items()})]
    for kind, found in summary["duplicates"].items():
        lines += ["", duplicate_line(kind, found, "texts" in next(iter(splits.values())))]
    return "\n".join([*lines, *way_in_lines(summary)])


def way_in_lines(summary: Mapping[str, Any]) -> list[str]:
    """What came in, what was left out and what is to be known, a line each."""
    if "persons" not in summary:
        return []
    persons = {name: count for name, count in summary["persons"].items() if count is not None}
    people = ", ".join(f"{name} {count}" for name, count in persons.items())
    smallest, power = summary["smallest class"], summary["smallest difference"]
    lines = [
        "",
        f"persons: {people or 'not known, each row counts as one (--group_column names the column that tells)'}",
        f"subgroups: {', '.join(summary['subgroups']) or 'none'}",
        f"columns left out: {', '.join(summary['columns left out']) or 'none'}",
        f"smallest class: {smallest['name']}, {smallest['train']} in train",
    ]
    if power:
        lines.append(
            f"smallest difference in macro-F1 that {power['test']} test rows can show: {power['macro_f1']:.3f} (a "
            f"quick baseline reads {power['baseline']:.3f})"
        )
    return [*lines, *(f"note: {note}" for note in summary["notes"])]


def count_lines(title: str, columns: Mapping[str, Mapping[str, Any]], total: bool = False) -> list[str]:
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    width = max(map(len, [title, *rows, "all"])) + 2
    lines = [title.ljust(width) + "".join(name.rjust(12) for name in columns)]
    for row in rows:
        lines.append(row.ljust(width) + "".join(str(column.get(row, 0)).rjust(12) for column in columns.values()))
    if total:
        lines.append("all".ljust(width) + "".join(str(sum(column.values())).rjust(12) for column in columns.values()))
    return lines


def duplicate_line(kind: str, found: Mapping[str, Any], of_texts: bool = False) -> str:
    """How many pairs there are, and where."""
    exact = "pairs of the same words" if of_texts else "pairs of the same pixels"
    what = exact if kind == "exact" else f"near duplicates (likeness >= {found['threshold']})"
    where = "; ".join(f"{splits}: {count}" for splits, count in found["by splits"].items())
    different = f"; of different labels: {found['of different labels']}" if found["pairs"] else ""
    return f"{what}: {found['pairs']}" + (f" ({where}{different})" if found["pairs"] else "")
