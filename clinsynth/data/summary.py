"""What is in a data set: counts a class, sizes and modes, subgroups, and duplicates within and across splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset

from clinsynth.data.duplicates import NEAR_THRESHOLD, exact_pairs, fingerprint, near_pairs
from clinsynth.data.images import count_modes, count_sizes, decode, open_images, survey, to_eight_bits
from clinsynth.data.labels import AGE_BANDS, AGE_WORDS, age_band, age_of, words_of

MAX_VALUES = 30  # a text column with more values than these is described by their number


def summarize(splits: Mapping[str, Dataset]) -> dict[str, Any]:
    """Counts for each split and the duplicates among all of them, ready for JSON.

    Raises:
        ValueError: an image that cannot be read, by name.
    """
    described = {name: describe_split(split) for name, split in splits.items()}
    return {"splits": described, "duplicates": find_duplicates(splits)}


def describe_split(split: Dataset) -> dict[str, Any]:
    names = split.features["label"].names
    counts = np.bincount(split["label"][:], minlength=len(names)).tolist()
    found = survey(split)
    sizes = {f"{width}x{height}": count for (width, height), count in count_sizes(found).most_common()}
    subgroups = {name: describe_column(name, split[name][:]) for name in split.column_names[2:]}
    return {
        "images": len(split),
        "classes": dict(zip(names, counts, strict=True)),
        "sizes": sizes,
        "modes": dict(count_modes(found).most_common()),
        "subgroups": subgroups,
    }


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


def find_duplicates(splits: Mapping[str, Dataset]) -> dict[str, Any]:
    """Pairs of the same pixels (each later image with its first) and of near duplicates that are not the same."""
    places = [(name, row) for name, split in splits.items() for row in range(len(split))]
    labels = np.concatenate([split["label"][:] for split in splits.values()])
    parts = [part for split in splits.values() for part in fingerprints(split)]
    digests = [digest for digest, _ in parts]
    exact = exact_pairs(digests)
    likely = near_pairs(np.stack([thumbnail for _, thumbnail in parts]))
    near = {(i, j): round(likeness, 3) for i, j, likeness in likely if digests[i] != digests[j]}
    return {
        "exact": describe_pairs(exact, places, labels),
        "near": {"threshold": NEAR_THRESHOLD, **describe_pairs(near, places, labels)},
    }


def fingerprints(split: Dataset) -> Iterator[tuple[str, np.ndarray]]:
    """Digest and thumbnail of each image; one at a time."""
    for name, image in open_images(split):
        decode(name, image)
        yield fingerprint(image, to_eight_bits(name, image, None))


def describe_pairs(
    pairs: Iterable[tuple[int, int]], places: list[tuple[str, int]], labels: np.ndarray
) -> dict[str, Any]:
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
    for title, key in (("size", "sizes"), ("mode", "modes")):
        lines += ["", *count_lines(title, {name: split[key] for name, split in splits.items()})]
    for column in next(iter(splits.values()))["subgroups"]:
        lines += ["", *count_lines(column, {name: split["subgroups"][column] for name, split in splits.items()})]
    for kind in ("exact", "near"):
        lines += ["", duplicate_line(kind, summary["duplicates"][kind])]
    return "\n".join(lines)


def count_lines(title: str, columns: Mapping[str, Mapping[str, Any]], total: bool = False) -> list[str]:
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    width = max(map(len, [title, *rows, "all"])) + 2
    lines = [title.ljust(width) + "".join(name.rjust(12) for name in columns)]
    for row in rows:
        lines.append(row.ljust(width) + "".join(str(column.get(row, 0)).rjust(12) for column in columns.values()))
    if total:
        lines.append("all".ljust(width) + "".join(str(sum(column.values())).rjust(12) for column in columns.values()))
    return lines


def duplicate_line(kind: str, found: Mapping[str, Any]) -> str:
    what = "pairs of the same pixels" if kind == "exact" else f"near duplicates (likeness >= {found['threshold']})"
    where = "; ".join(f"{splits}: {count}" for splits, count in found["by splits"].items())
    different = f"; of different labels: {found['of different labels']}" if found["pairs"] else ""
    return f"{what}: {found['pairs']}" + (f" ({where}{different})" if found["pairs"] else "")
