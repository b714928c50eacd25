"""A synthetic set of images on disk.

data/train-00000-of-00003.parquet   rows of image, label, seed; made from real images: source_id, …; and of what each
                                    row says of where it is from, as does a text chunk of its image's PNG file
contact_sheets/000.png              the first images of a class, by its number
generation.json, README.md          as of every synthetic set
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from datasets import ClassLabel, Features, Value
from datasets import Image as ImageFeature

from clinsynth.images import contact_sheet, from_png, to_picture, to_png
from clinsynth.run_folder import atomic_write, read_json
from clinsynth.synthesis.provenance import Provenance, find_provenance, mark_image
from clinsynth.synthesis.shard_files import GIVEN_UP, HashedFile, look_at, parquet_options
from clinsynth.synthesis.shards import Counts, Drawn, Place, ShardPlan, write_shards

if TYPE_CHECKING:
    from clinsynth.models.generators import Sample
    from clinsynth.synthesis.image_sources import ImageSources, Reject

SHEET_COLUMNS, SHEET_ROWS = 8, 8
NOT_FINITE = "not finite"

NO_PATIENT = "Synthetic images: no row is a patient. `generation.json` says how they were made.\n"
FROM_REAL = """Each image was made from a real image of a train split, of which it keeps much; source_id names that
one. Treat the set as you treat the real one. `generation.json` says how it was made.
"""


@dataclass(frozen=True)
class ImageShards(ShardPlan):
    """The shards of a set of images; `sources` are the real ones that they are made from, if any."""

    sources: ImageSources | None = None

    thing: ClassVar[str] = "image"
    hint: ClassVar[str] = "after {most_draws} draws: loosen what is kept, or train or guide the model further"

    @property
    def features(self) -> Features:
        columns = {"image": ImageFeature(), "label": ClassLabel(names=list(self.id2label.values()))}
        columns |= {"seed": Value("int64")}
        if self.sources is not None:
            columns |= {"source_id": Value("string"), "source_label": Value("string"), "strength": Value("float64")}
        if self.provenance is not None:
            columns |= {"synthetic": Value("bool"), "generator": Value("string"), "revision": Value("string")}
        return Features(columns)

    @property
    def about(self) -> str:
        return NO_PATIENT if self.sources is None else FROM_REAL

    @property
    def parquet_options(self) -> dict[str, Any]:
        return {} if self.provenance is None else parquet_options(list(self.features))

    @cached_property
    def provenance(self) -> Provenance | None:
        """What the rows say of their generator, as generation.json has it since `begin`.

        None of a set that was begun before rows said it: all shards of a set have the same columns.
        """
        says = read_json(self.output_dir / "generation.json").get("provenance")
        return None if says is None else Provenance(**says)

    def to_row(self, image: np.ndarray, label: int, seed: int) -> dict[str, Any]:
        """The row of an image, uint8 (channels, side, side)."""
        png, says = to_png(to_picture(image)), {}
        if self.provenance is not None:
            png, says = mark_image(png, self.provenance.of_row(seed)), self.provenance.columns()
        source = {} if self.sources is None else self.sources.columns(label, seed)
        return {"image": {"bytes": png, "path": None}, "label": label, "seed": seed, **source, **says}

    def results(self, counts: Counts | None) -> dict[str, Any]:
        if counts is not None:
            counts.rejected[NOT_FINITE] += 0  # it is said of every set of images
        return super().results(counts)

    def more(self, description: dict[str, Any], counts: Counts | None) -> dict[str, Any]:
        """Where rows may be given up, how many were; the rows' provenance; and whether they can be published so."""
        found: dict[str, Any] = {}
        if {"reject_copies", "keep"} & set(description["generator"]):
            rows = None if counts is None else counts.given_up
            found["given_up"] = {"rows": rows, "after_draws": self.most_draws}
        begun = (self.output_dir / "generation.json").exists()
        provenance = self.provenance if begun else find_provenance(description, self.output_dir)
        if provenance is not None:
            found["provenance"] = asdict(provenance)
            if counts is not None:
                shards = {path: HashedFile.of(path) for path in map(self.path, range(self.num_shards))}
                found["looked_at"] = look_at(shards, provenance, frozenset([*counts.rejected, GIVEN_UP]))
        return found

    def write_beside(self) -> None:
        """Contact sheets: one PNG a class with its first images."""
        first: dict[int, list[np.ndarray]] = {label: [] for label in set(self.labels)}
        for shard in range(self.num_shards):
            if all(len(images) >= SHEET_COLUMNS * SHEET_ROWS for images in first.values()):
                break
            table, _ = self.read(shard, ["image", "label"])
            for row in table.to_pylist():
                if len(first[row["label"]]) < SHEET_COLUMNS * SHEET_ROWS:
                    first[row["label"]].append(from_png(row["image"]["bytes"]))
        folder = self.output_dir / "contact_sheets"
        folder.mkdir(exist_ok=True)
        for label, images in first.items():
            if images:
                atomic_write(folder / f"{label:03d}.png", to_png(contact_sheet(np.stack(images), SHEET_COLUMNS)))


def write_image_shards(
    plan: ImageShards, sample: Sample, batch_size: int, process_index: int = 0, reject: Reject | None = None
) -> None:
    """Write this process's missing shards; an image that `reject` gives a reason for is drawn anew."""
    draw = partial(draw_images, plan, sample, reject)
    write_shards(plan, lambda shard: nullcontext(draw), batch_size, process_index)


def draw_images(plan: ImageShards, sample: Sample, reject: Reject | None, places: list[Place]) -> Iterator[Drawn]:
    """What came of each place; an image with numbers that are not finite would be the same the next time."""
    labels, seeds = [place.label for place in places], [place.seed for place in places]
    images, finite = sample(labels, seeds)
    reasons = reject(images, labels, seeds) if reject else [None] * len(places)
    for place, image, is_finite, reason in zip(places, images, finite, reasons, strict=True):
        if not is_finite:
            yield Drawn(None, [NOT_FINITE])
        elif reason is not None:
            yield Drawn(None, [reason], again=True)
        else:
            yield Drawn(plan.to_row(image, place.label, place.seed), [])
