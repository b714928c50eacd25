"""Which copies the gate refuses: known copies are planted in sets of held-out rows, kind by kind and number by number.

     python -m benchmarks.gate --dataset retinamnist.npz --output_dir runs/benchmark-gate
     python -m benchmarks.gate --dataset ham10000_128 --resolution 32 --output_dir runs/benchmark-gate-skin
     python -m benchmarks.gate --texts mts_dialog --output_dir runs/benchmark-gate-notes

Train rows are what a generator would have seen; one half of the held-out rows makes the thresholds, the other half is
the honest set in which copies are planted. A set is refused where one of its rows is an exact copy or a single copy.
What the gate reads besides (near copies in number, closeness, names and numbers) can only refuse more.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.timing import BenchmarkArguments, write_results
from clinsynth.arguments import run
from clinsynth.run_folder import create_run_folder

ROWS = 200
NUMBERS = (1, 4, 10)
TRIALS = 2000


@dataclass(kw_only=True)
class GateArguments(BenchmarkArguments):
    """Plant copies, and count which sets the gate refuses."""

    may_be_zero = frozenset({"seed"})

    dataset: str = ""
    """images: as of `clinsynth evaluate images --real`"""
    texts: str = ""
    """texts, in the place of images: as of `clinsynth evaluate text --real`"""
    resolution: int | None = None
    """height and width of the images in pixels; default: their own"""
    train: int = 600
    """train rows, at most"""
    held_out: int = 200
    """rows for the thresholds, at most, and as many for the honest set"""
    plants: int = 40
    """copies of each kind"""
    seed: int = 0
    """of what is drawn"""


@dataclass(frozen=True)
class Looked:
    """Which rows the check takes for copies, masks (n,): of held-out rows that made no threshold, and of the planted
    copies by kind."""

    honest: np.ndarray
    kinds: dict[str, np.ndarray]


def main(args: GateArguments) -> None:
    """Look, and write the table."""
    if bool(args.dataset) == bool(args.texts):
        raise ValueError("give --dataset for images or --texts for texts, one of the two")
    create_run_folder(args.output_dir)
    looked = look_at_texts(args) if args.texts else look_at_images(args)
    rows = list(rows_of(looked, args.seed))
    flagged, total = int(looked.honest.sum()), len(looked.honest)
    head = ["kind of copy", "found one at a time", *(f"refused with {n} in {ROWS}" for n in NUMBERS)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {row['kind']} | {row['found']} of {row['planted']} | {' | '.join(row['shown'])} |" for row in rows]
    lines += ["", f"Honest rows flagged: {flagged} of {total}."]
    write_results(args, "gate", text="\n".join(lines), rows=rows, honest={"flagged": flagged, "rows": total})


def rows_of(looked: Looked, seed: int) -> Iterator[dict[str, Any]]:
    """One row a kind: how many plants are found, and what share of sets that hold so many of them is refused."""
    generator = np.random.default_rng([seed, 21])
    for kind, found in looked.kinds.items():
        refused = {n: float(found[generator.integers(len(found), size=(TRIALS, n))].any(1).mean()) for n in NUMBERS}
        shown = [f"{share:.0%}" for share in refused.values()]
        yield {"kind": kind, "found": int(found.sum()), "planted": len(found), "refused": refused, "shown": shown}


def look_at_images(args: GateArguments) -> Looked:
    """As the evidence on images does it."""
    from clinsynth.data.arguments import ImageDataArguments
    from clinsynth.data.images import load_image_arrays
    from clinsynth.metrics.images.privacy import exact_rows
    from clinsynth.metrics.privacy.copies import ThumbnailSpace, duplicated
    from clinsynth.metrics.privacy.exact import picture_digests
    from clinsynth.metrics.privacy.views import KINDS, ViewSpace, beyond, certain_thresholds

    splits = load_image_arrays(ImageDataArguments(args.dataset, resolution=args.resolution))
    generator = np.random.default_rng(args.seed)
    train = some(splits["train"].images, args.train, generator)
    unseen = some(
        np.concatenate([splits[name].images for name in ("validation", "test")]), 3 * args.held_out, generator
    )
    unseen = unseen[~(duplicated(ThumbnailSpace.of(train).closest(unseen)) | (exact_rows(unseen, train) >= 0))]
    half = min(args.held_out, len(unseen) // 2)
    held_out, honest = unseen[:half], unseen[half : 2 * half]
    space, exact = ViewSpace.of(train), set(picture_digests(train))
    thresholds = certain_thresholds(space.closest(held_out)[0])
    if thresholds is None:
        raise ValueError(f"--dataset {args.dataset} has too few held-out images for a threshold; give a larger one")

    def flagged(images: np.ndarray) -> np.ndarray:
        same = np.array([one in exact for one in picture_digests(images)])
        return same | (beyond(space.closest(images)[0], thresholds) > 1)

    kinds = {"as it is": lambda image, _: image, **KINDS}
    rows, others = generator.permutation(len(train))[: args.plants], generator.integers(len(honest), size=args.plants)
    planted = {
        kind: np.stack([alter(train[row], honest[other]) for row, other in zip(rows, others, strict=False)])
        for kind, alter in kinds.items()
    }
    return Looked(flagged(honest), {kind: flagged(images) for kind, images in planted.items()})


def look_at_texts(args: GateArguments) -> Looked:
    """As the evidence on texts does it."""
    from clinsynth.data.arguments import TextDataArguments
    from clinsynth.data.texts import load_text_dataset
    from clinsynth.metrics.privacy.exact import text_digests
    from clinsynth.metrics.privacy.power import beyond
    from clinsynth.metrics.texts.single_copies import KINDS, TextSpace, text_thresholds

    splits = load_text_dataset(TextDataArguments(args.texts), 0)
    generator, train = np.random.default_rng(args.seed), list(splits["train"]["text"])
    space, exact = TextSpace.of(train), set(text_digests(train))
    unseen = [text for name in ("validation", "test") for text in splits[name]["text"]]
    same = space.closest(unseen)[1] | np.array([one in exact for one in text_digests(unseen)])
    kept = [unseen[row] for row in generator.permutation(len(unseen)) if not same[row]]
    held_out, honest = kept[::2], kept[1::2]
    thresholds = text_thresholds(space.closest(held_out)[0])
    if thresholds is None:
        raise ValueError(f"--texts {args.texts} has too few held-out texts for a threshold; give a larger one")

    def flagged(texts: list[str]) -> np.ndarray:
        known = np.array([one in exact for one in text_digests(texts)])
        return known | (beyond(space.closest(texts)[0], thresholds) > 1)

    kinds = {"as it is": lambda text, _: text, **KINDS}
    rows, others = generator.permutation(len(train))[: args.plants], generator.integers(len(honest), size=args.plants)
    planted = {
        kind: [alter(train[row], honest[other]) for row, other in zip(rows, others, strict=False)]
        for kind, alter in kinds.items()
    }
    return Looked(flagged(honest), {kind: flagged(texts) for kind, texts in planted.items()})


def some(rows: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """At most so many rows, drawn without replacement."""
    return rows[generator.permutation(len(rows))[:most]]


if __name__ == "__main__":
    run(GateArguments, main)
