"""The real pictures that image-to-image generation starts from: of the train split, and of another class.

A source is chosen by the seed of its row alone, so that a row can be made again from seed and data set. Each row keeps
its source's id, class and the strength.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.labels import first_of
from clinsynth.images import to_picture
from clinsynth.judges.checklists import sample_id
from clinsynth.seeds import derive_seed
from clinsynth.synthesis.source_compatibility import read_compatible

logger = logging.getLogger("clinsynth")


@dataclass
class SourceArguments(ImageDataArguments):
    """Where image-to-image generation starts from."""

    from_images: str | None = None
    """make every picture from a real one of another class: the data set whose train split gives these, any spec that
    --dataset takes; the data flags hold for it"""
    strength: float | str = 0.3
    """share of the noise that a source is given, in (0, 1]; S, LABEL=S,LABEL=S for each class, or S,S,S to have the
    one chosen by how many pictures made from validation pictures are kept (needs --keep_if_checklist or
    --keep_if_class)"""
    from_class: str | None = None
    """classes whose pictures may be sources, LABEL,LABEL; default: all but the class to make"""
    compatible: str | None = None
    """YAML file of columns in which source and class must agree, such as body site: `agree: [column, …]`, and under
    `classes:` LABEL: {column: [value, …]} where not the values of the class's own train pictures hold"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.from_images:
            for name in ("from_class", "compatible"):
                if getattr(self, name) is not None:
                    raise ValueError(f"--{name} is about the sources of --from_images; name their data set")
        parse_strength(self.strength)

    @property
    def swept(self) -> list[float]:
        """The strengths to choose from; empty where none is to be chosen."""
        found = parse_strength(self.strength)
        return found if isinstance(found, list) else []


def parse_strength(text: float | str) -> float | dict[str, float] | list[float]:
    """`0.3` to a number, `"grade 4=0.5,grade 1=0.3"` to a dict by class, `"0.2,0.3"` to a list.

    Raises:
        ValueError: it is none of these, or a strength is outside (0, 1].
    """
    parts = [part.strip() for part in str(text).split(",")]
    try:
        if "=" in str(text):
            pairs = [part.rpartition("=") for part in parts]
            found: Any = {label.strip(): float(number) for label, _, number in pairs}
            good = all(found) and len(found) == len(parts) and all(0 < value <= 1 for value in found.values())
        else:
            values = [float(part) for part in parts]
            found = values[0] if len(values) == 1 else sorted(set(values))
            good = all(0 < value <= 1 for value in values)
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"--strength must be a number in (0, 1], LABEL=S,LABEL=S or S,S,S, got {text!r}; 0.3 keeps "
            "most of a picture"
        )
    return found


@dataclass(frozen=True)
class ImageSources:
    """Source pictures, and which of them serve each class.

    Attributes:
        images: uint8 (n, channels, side, side), of the size that the model draws.
        ids: of `clinsynth.judges.checklists.sample_id`, of the pictures at that size.
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
        """The row number of the source of the picture of class `label` with `seed`."""
        rows = self.of_class[label]
        return int(rows[derive_seed(seed, 1) % len(rows)])

    def pictures(self, labels: list[int], seeds: list[int]) -> np.ndarray:
        """The sources of the pictures of these classes and seeds."""
        return self.images[[self.choose(*pair) for pair in zip(labels, seeds, strict=True)]]

    def columns(self, label: int, seed: int) -> dict[str, Any]:
        """What a row says of its source."""
        row = self.choose(label, seed)
        return {"source_id": self.ids[row], "source_label": self.classes[row], "strength": self.strengths[label]}

    def with_strengths(self, strengths: dict[int, float], id2label: dict[int, str]) -> ImageSources:
        """The same sources at other strengths."""
        named = {id2label[label]: strengths[label] for label in self.of_class}
        return replace(self, strengths=strengths, facts={**self.facts, "strength": named})


def load_sources(args: Any, pipeline: Any, labels: list[int], split: str = "train") -> ImageSources:
    """The sources of `labels` (class numbers) in a real split, at the size and channels that the model draws.

    A picture that also stands in another split is left out, so that nothing made from it meets itself there.

    Raises:
        ValueError: a class without a source, an unknown class name, or a column that the data set lacks.
    """
    from clinsynth.models.image_encoders import hash_arrays

    splits = load_drawn(replace(args, dataset=args.from_images), pipeline)
    found = {name: [sample_id(to_picture(image)) for image in data.images] for name, data in splits.items()}
    elsewhere = {i for name, ids in found.items() if name != split for i in ids}
    data, ids = splits[split], found[split]
    classes = [data.label_names[label] for label in data.labels]
    if split == "train" and set(classes).isdisjoint(pipeline.id2label.values()):
        logger.warning(
            "--from_images %s has none of the model's classes (%s), but %s: all its pictures count as of another "
            "class. If theirs are the same under other names, name them as the model does with --label_names",
            args.from_images,
            first_of(pipeline.id2label.values()),
            first_of(data.label_names),
        )
    wanted = {label: pipeline.id2label[label] for label in sorted(set(labels))}
    allowed = read_compatible(args.compatible, splits["train"], list(wanted.values())) if args.compatible else {}
    givers = parse_classes(args.from_class, data.label_names)
    usable = np.array([i not in elsewhere for i in ids])
    of_class = {}
    for label, name in wanted.items():
        of_class[label] = np.flatnonzero(usable & serves(data, classes, name, givers, allowed.get(name, {})))
        if len(of_class[label]) == 0:
            raise ValueError(
                f"no {split} picture of --from_images {args.from_images} can be made into {name}: it must be of "
                "another class, agree with --from_class and --compatible, and be in no other split; loosen these"
            )
    facts = {
        "from_images": args.from_images,
        "split": split,
        "sha256": hash_arrays(data.images),
        "sources": {wanted[label]: len(rows) for label, rows in of_class.items()},
        "left_out_as_in_another_split": int((~usable).sum()),
    }
    empty = ImageSources(data.images, ids, classes, of_class, {}, facts)
    return empty.with_strengths(strengths_of(args, wanted), pipeline.id2label)


def load_drawn(args: Any, pipeline: Any) -> dict[str, Any]:
    """The splits of --dataset as the model draws pictures; a text-to-image model draws larger ones than others."""
    from clinsynth.data.images import load_image_arrays
    from clinsynth.trainers.text_to_image.text_to_image_pictures import open_pictures

    drawn = drawn_form(args, pipeline)
    if "vae" in pipeline.components:
        return open_pictures(args, drawn["resolution"], args.seed).all()
    return load_image_arrays(replace(args, **drawn), args.seed)


def drawn_form(args: Any, pipeline: Any) -> dict[str, Any]:
    """`resolution` and `channels` that the model draws.

    Raises:
        ValueError: --resolution or --channels ask for others.
    """
    if "vae" in pipeline.components:
        drawn = {"resolution": pipeline.side, "channels": 3}
    else:
        config = (pipeline.unet if "unet" in pipeline.components else pipeline.generator).config
        drawn = {"resolution": config.sample_size, "channels": config.out_channels}
    for name, value in drawn.items():
        if getattr(args, name) not in (None, value):
            raise ValueError(
                f"--{name} is {getattr(args, name)}, but --model {args.model} draws {name} {value}, at which real "
                "pictures are taken; leave the flag out"
            )
    return drawn


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
    """The classes of --from_class; all of `names` where there is none."""
    if text is None:
        return names
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in names:
            raise ValueError(f"--from_class {text}: {name!r} is no class of --from_images; it has {', '.join(names)}")
    return asked


def serves(data: Any, classes: list[str], target: str, givers: list[str], allowed: dict[str, list[str]]) -> np.ndarray:
    """Mask (n,) of the pictures of `data` that may become `target`; `allowed` maps a column to its values."""
    mask = np.array([name != target and name in givers for name in classes])
    for column, values in allowed.items():
        mask &= np.isin(data.groups[column], values)
    return mask
