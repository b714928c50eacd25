"""The real images that image-to-image generation starts from: of the train split, and of another class.

A source is chosen by the seed of its row alone, so that a row can be made again from seed and data set. Each row keeps
its source's id, class and the strength.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm.auto import tqdm

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays, open_enlarged
from clinsynth.data.labels import UNKNOWN, first_of
from clinsynth.images import to_picture
from clinsynth.judges.checklists import sample_id
from clinsynth.models.generators import Generator, Sample
from clinsynth.models.image_encoders import hash_arrays
from clinsynth.plain_yaml import read_yaml
from clinsynth.run_folder import atomic_write, read_json
from clinsynth.seeds import derive_seed
from clinsynth.synthesis.arguments import SourceArguments, parse_strength

logger = logging.getLogger("clinsynth")

OWN = "own"
"""--from_class: the class to make itself, unless a class is called so."""

Data = TypeVar("Data", bound=ImageDataArguments)
Reject = Callable[[np.ndarray, list[int], list[int]], list[str | None]]
"""From images, labels and seeds to the reason why each is rejected, None where it is not."""


@dataclass(frozen=True)
class ImageSources:
    """Source images, and which of them serve each class.

    Attributes:
        images: uint8 (n, channels, side, side), of the size that the model draws.
        ids: of `clinsynth.judges.checklists.sample_id`, of the images at that size.
        classes: class name of each.
        of_class: number of a class to make to the row numbers of its sources.
        strengths: class to make to its strength.
        facts: what generation.json says of them.
    """

    images: np.ndarray
    ids: list[str]
    classes: list[str]
    of_class: dict[int, np.ndarray]
    strengths: dict[int, float]
    facts: dict[str, Any]

    def choose(self, label: int, seed: int) -> int:
        """The row number of the source of the image of class `label` with `seed`."""
        rows = self.of_class[label]
        return int(rows[derive_seed(seed, 1) % len(rows)])

    def images_of(self, labels: list[int], seeds: list[int]) -> np.ndarray:
        """The sources of the images of these classes and seeds."""
        return self.images[[self.choose(*pair) for pair in zip(labels, seeds, strict=True)]]

    def columns(self, label: int, seed: int) -> dict[str, Any]:
        """What a row says of its source."""
        row = self.choose(label, seed)
        return {"source_id": self.ids[row], "source_label": self.classes[row], "strength": self.strengths[label]}

    def with_strengths(self, strengths: dict[int, float], id2label: dict[int, str]) -> ImageSources:
        """The same sources at other strengths."""
        named = {id2label[label]: strengths[label] for label in self.of_class}
        return replace(self, strengths=strengths, facts={**self.facts, "strength": named})


def load_sources(
    args: SourceArguments, generator: Generator, labels: list[int], seed: int, split: str = "train"
) -> ImageSources:
    """The sources of `labels` (class numbers) in a real split, at the size and channels that the generator draws.

    An image that also stands in another split is left out, so that nothing made from it meets itself there.

    Raises:
        ValueError: a class without a source, an unknown class name, a column that the data set lacks, or a GAN.
    """
    if not generator.starts_from_images:
        raise ValueError(f"--from_images needs a diffusion model, but --model {generator.name} is a GAN; leave it out")
    id2label = generator.id2label
    splits = load_as_drawn(replace(args, dataset=str(args.from_images)), generator, seed)
    found = {name: [sample_id(to_picture(image)) for image in data.images] for name, data in splits.items()}
    elsewhere = {i for name, ids in found.items() if name != split for i in ids}
    data, ids = splits[split], found[split]
    classes = [data.label_names[label] for label in data.labels]
    if split == "train" and set(classes).isdisjoint(id2label.values()):
        logger.warning(
            "--from_images %s has none of the model's classes (%s), but %s: all its images count as of another "
            "class. If theirs are the same under other names, name them as the model does with --label_names",
            args.from_images,
            first_of(id2label.values()),
            first_of(data.label_names),
        )
    wanted = {label: id2label[label] for label in sorted(set(labels))}
    allowed = read_compatible(args.compatible, splits["train"], list(wanted.values())) if args.compatible else {}
    givers = parse_classes(args.from_class, data.label_names)
    own = args.from_class == OWN and OWN not in data.label_names
    usable = np.array([i not in elsewhere for i in ids])
    of_class = {}
    for label, name in wanted.items():
        from_own = [name] if own else [giver for giver in givers if giver != name]
        of_class[label] = np.flatnonzero(usable & serves(data, classes, from_own, allowed.get(name, {})))
        if len(of_class[label]) == 0:
            raise ValueError(
                f"no {split} image of --from_images {args.from_images} can be made into {name}: it must be of "
                f"{'this' if own else 'another'} class, agree with --from_class and --compatible, and be in no other "
                "split; loosen these"
            )
    facts = {
        "from_images": args.from_images,
        "split": split,
        "sha256": hash_arrays(data.images),
        "sources": {wanted[label]: len(rows) for label, rows in of_class.items()},
        "left_out_as_in_another_split": int((~usable).sum()),
    }
    empty = ImageSources(data.images, ids, classes, of_class, {}, facts)
    return empty.with_strengths(strengths_of(args, wanted), id2label)


def load_as_drawn(args: ImageDataArguments, generator: Generator, seed: int) -> dict[str, ImageArrays]:
    """The splits of --dataset, whose images are brought to the form of the generator's."""
    form = generator.form
    fixed = with_form(args, generator)
    return open_enlarged(fixed, form.side, seed).all() if form.enlarges else load_image_arrays(fixed, seed)


def with_form(args: Data, generator: Generator) -> Data:
    """`args` with the resolution and channels of the generator's images.

    Raises:
        ValueError: --resolution or --channels ask for others.
    """
    form = generator.form
    for name, value in {"resolution": form.side, "channels": form.channels}.items():
        if getattr(args, name) not in (None, value):
            raise ValueError(
                f"--{name} is {getattr(args, name)}, but --model {generator.name} draws {name} {value}, at which real "
                "images are taken; leave the flag out"
            )
    return replace(args, resolution=form.side, channels=form.channels)


def strengths_of(args: SourceArguments, wanted: dict[int, str]) -> dict[int, float]:
    """The strength of each class in `wanted`, number to name; the first of those to choose from."""
    found = parse_strength(args.strength)
    if isinstance(found, dict):
        for name in wanted.values():
            if name not in found:
                raise ValueError(
                    f"--strength {args.strength} says nothing of {name}; add {name}=S, or give one number"
                )
        return {label: found[name] for label, name in wanted.items()}
    return dict.fromkeys(wanted, found[0] if isinstance(found, list) else found)


def parse_classes(text: str | None, names: list[str]) -> list[str]:
    """The classes of --from_class; all of `names` where there is none, or the class to make itself is meant."""
    if text is None or (text == OWN and OWN not in names):
        return names
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in names:
            raise ValueError(f"--from_class {text}: {name!r} is no class of --from_images; it has {', '.join(names)}")
    return asked


def serves(data: ImageArrays, classes: list[str], givers: list[str], allowed: dict[str, list[str]]) -> np.ndarray:
    """Mask (n,) of the images of `data` that are of the classes `givers`; `allowed` maps a column to its values."""
    mask = np.array([name in givers for name in classes])
    for column, values in allowed.items():
        mask &= np.isin(data.groups[column], values)
    return mask


def read_compatible(path: str, train: ImageArrays, targets: list[str]) -> dict[str, dict[str, list[str]]]:
    """Class to column to the values that its sources may have; an unknown value agrees with nothing."""
    try:
        table = read_yaml(Path(path))
    except ValueError as error:
        raise ValueError(f"--compatible {error}") from error
    if not isinstance(table, dict) or not table.get("agree") or set(table) - {"agree", "classes"}:
        raise ValueError(
            f"--compatible {path} must hold `agree: [column, …]` and, if need be, `classes:`; write these"
        )
    own = table.get("classes") or {}
    for name in own:
        if name not in train.label_names:
            raise ValueError(f"--compatible {path} names the class {name!r}; there are {', '.join(train.label_names)}")
    for column in [*table["agree"], *(column for values in own.values() for column in values)]:
        if column not in train.groups:
            raise ValueError(
                f"--compatible {path}: --from_images has no column {column!r} of groups; it has "
                f"{', '.join(train.groups) or 'none'}"
            )
    given = {
        name: {column: [str(value) for value in found] for column, found in own.get(name, {}).items()}
        for name in targets
    }
    return {name: {**values_of(train, name, table["agree"]), **given[name]} for name in targets}


def values_of(train: ImageArrays, name: str, columns: list[str]) -> dict[str, list[str]]:
    """The known values that the train images of a class have in each column."""
    mine = np.array([train.label_names[label] == name for label in train.labels])
    return {column: sorted(set(train.groups[column][mine]) - {UNKNOWN}) for column in columns}


TRIED = 24
"""Images of each class at each strength, from the same sources and seeds at every strength."""
SWEEP = 2**32
"""Apart from the numbers of rows, whose seeds must not come here."""


def sweep_strengths(
    path: Path,
    strengths: list[float],
    validation: ImageSources,
    sampler: Callable[[ImageSources], Sample],
    reject: Reject,
    names: dict[int, str],
    made_by: dict[str, Any],
) -> dict[str, Any]:
    """How many of 24 images a class are kept at each strength, and the strength chosen for each class.

    Args:
        path: JSON file in which the result is kept, and found again.
        strengths: to choose from, rising.
        validation: sources in the validation split.
        sampler: from sources to what draws images from them.
        reject: the checks, for images made from `validation`.
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
                tried[str(strength)] = try_strength(label, sampler(sources), reject, made_by["seed"])
                progress.update()
            best = max(tried, key=lambda strength: tried[strength]["kept"])  # the first of equals
            found[names[label]] = {"chosen": float(best), "n": TRIED, "tried": tried}
    atomic_write(path, json.dumps({"made_by": made_by, "classes": found}, indent=1) + "\n")
    return found


def try_strength(label: int, sample: Sample, reject: Reject, seed: int) -> dict[str, Any]:
    """The share of images of one class that are kept, and how many are not, by reason."""
    labels, seeds = [label] * TRIED, [derive_seed(seed, SWEEP, label, number) for number in range(TRIED)]
    images, finite = sample(labels, seeds)
    reasons = reject(images, labels, seeds)
    counts = Counter(reason if good else "not finite" for reason, good in zip(reasons, finite, strict=True))
    kept = counts.pop(None, 0)
    return {"kept": kept / TRIED, "rejected": dict(sorted(counts.items()))}


def strength_lines(found: dict[str, Any]) -> list[str]:
    """What was tried and chosen, a line a class."""
    out = []
    for name, record in found.items():
        tried = ", ".join(f"{strength}: {value['kept']:.0%}" for strength, value in record["tried"].items())
        none = "" if any(value["kept"] for value in record["tried"].values()) else " (nothing was kept at any)"
        out.append(f"strength for {name}: {record['chosen']}{none}; kept of {record['n']} at {tried}")
    return out
