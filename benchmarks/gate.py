"""Which copies the gate refuses, and which honest sets: known copies are planted in held-out rows, kind by kind.

     python -m benchmarks.gate --dataset retinamnist.npz --output_dir runs/benchmark-gate
     python -m benchmarks.gate --dataset ham10000_128 --resolution 32 --output_dir runs/benchmark-gate-skin
     python -m benchmarks.gate --texts mts_dialog --output_dir runs/benchmark-gate-notes
     python -m benchmarks.gate --dataset few.npz --plants 0 --sets "a DDPM=drawn.npz" --output_dir runs/gate-learned

Train rows are what a generator would have seen; one half of the held-out rows makes the thresholds, the other half is
the honest set in which copies are planted. A set is refused where one of its rows is an exact copy or a single copy.
What the gate reads besides (near copies in number, closeness, names and numbers) can only refuse more.

Honest sets are cut in many ways: each cut makes its own thresholds from one half, and the other half is a set of real
rows of other persons. `--sets` adds drawn ones; a Gaussian of the train images' pixels is always among them. The last
command looks at a generator that was trained for long on few images, `few.npz`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.timing import BenchmarkArguments, write_results
from clinsynth.arguments import run
from clinsynth.metrics.privacy.power import beyond
from clinsynth.run_folder import create_run_folder

ROWS = 200
NUMBERS = (1, 4, 10)
TRIALS, CUTS = 2000, 200


@dataclass(kw_only=True)
class GateArguments(BenchmarkArguments):
    """Plant copies, and count which sets the gate refuses."""

    may_be_zero = frozenset({"seed", "plants"})

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
    sets: str = ""
    """drawn images that are looked at, too, as NAME=FILE with commas between: .npz files with `images`, uint8"""
    seed: int = 0
    """of what is drawn"""


@dataclass(frozen=True)
class Looked:
    """What the check makes of rows.

    Attributes:
        honest: mask (n,) of the held-out rows that made no threshold: which are taken for copies.
        kinds: the same of the planted copies, by kind.
        cuts: share of those flagged in each cut of the held-out rows.
        sets: the same of the sets that were drawn, by name, (cuts, n).
    """

    honest: np.ndarray
    kinds: dict[str, np.ndarray]
    cuts: np.ndarray
    sets: dict[str, np.ndarray]


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
    honest = list(honest_sets(looked, args.seed))
    lines += [
        "",
        f"Honest rows flagged: {flagged} of {total}.",
        "",
        "| set | rows flagged | sets refused |",
        "|---|---|---|",
    ]
    lines += [f"| {one['set']} | {one['flagged']:.2%} | {one['refused']:.1%} |" for one in honest]
    write_results(args, "gate", text="\n".join(lines), rows=rows, honest=honest)


def honest_sets(looked: Looked, seed: int) -> Iterator[dict[str, Any]]:
    """Over all cuts: the share of rows flagged, and of sets refused; of a drawn set, of `ROWS` rows of it."""
    yield {"set": "real rows of others", "flagged": looked.cuts.mean(), "refused": (looked.cuts > 0).mean()}
    generator = np.random.default_rng([seed, 22])
    for name, flagged in looked.sets.items():
        refused = [cut[generator.integers(len(cut), size=ROWS)].any() for cut in flagged]
        yield {"set": name, "flagged": flagged.mean(), "refused": float(np.mean(refused))}


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
    from clinsynth.metrics.privacy.views import KINDS, ViewSpace, certain_thresholds

    splits = load_image_arrays(ImageDataArguments(args.dataset, resolution=args.resolution))
    generator = np.random.default_rng(args.seed)
    train = some(splits["train"].images, args.train, generator)
    unseen = some(
        np.concatenate([splits[name].images for name in ("validation", "test")]), 3 * args.held_out, generator
    )
    unseen = unseen[~(duplicated(ThumbnailSpace.of(train).closest(unseen)) | (exact_rows(unseen, train) >= 0))]
    half = min(args.held_out, len(unseen) // 2)
    honest = unseen[half : 2 * half]
    space, exact = ViewSpace.of(train), set(picture_digests(train))

    def look(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return space.closest(images)[0], np.array([one in exact for one in picture_digests(images)], dtype=bool)

    kinds = {"as it is": lambda image, _: image, **KINDS} if args.plants else {}
    rows, others = generator.permutation(len(train))[: args.plants], generator.integers(len(honest), size=args.plants)
    planted = {
        kind: look(np.stack([alter(train[row], honest[other]) for row, other in zip(rows, others, strict=False)]))
        for kind, alter in kinds.items()
    }
    drawn = {"a Gaussian": gaussian(train, args.held_out, generator)} | {
        name: np.load(path)["images"][: args.held_out]
        for name, _, path in (one.partition("=") for one in args.sets.split(",") if one)
    }
    sets = {name: look(images) for name, images in drawn.items()}
    return looked_at(look(unseen[: 2 * half])[0], certain_thresholds, planted, sets, generator)


def gaussian(train: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Images drawn from a Gaussian with the train images' mean and covariance of pixels."""
    rows = train.reshape(len(train), -1).astype(np.float32)
    mixed = generator.normal(size=(count, len(rows))).astype(np.float32) @ (rows - rows.mean(0)) / np.sqrt(len(rows))
    return np.clip(mixed + rows.mean(0), 0, 255).round().astype(np.uint8).reshape(count, *train.shape[1:])


def looked_at(
    unseen: np.ndarray,
    fit: Callable[[np.ndarray], np.ndarray | None],
    planted: dict[str, tuple[np.ndarray, np.ndarray]],
    sets: dict[str, tuple[np.ndarray, np.ndarray]],
    generator: np.random.Generator,
) -> Looked:
    """From the scores of all held-out rows (n, k), and those of planted and drawn rows with the mask of exact copies.

    The first half makes the thresholds of the plants; the cuts are others at random.
    """
    half = len(unseen) // 2
    thresholds = fit(unseen[:half])
    if thresholds is None:
        raise ValueError("there are too few held-out rows for a threshold; give a larger data set")
    cuts, by_set = [], {name: [] for name in sets}
    for _ in range(CUTS):
        order = generator.permutation(len(unseen))
        own = fit(unseen[order[:half]])
        cuts.append((beyond(unseen[order[half:]], own) > 1).mean())
        for name, (scores, same) in sets.items():
            by_set[name].append(same | (beyond(scores, own) > 1))
    return Looked(
        beyond(unseen[half:], thresholds) > 1,
        {kind: same | (beyond(scores, thresholds) > 1) for kind, (scores, same) in planted.items()},
        np.array(cuts),
        {name: np.array(found) for name, found in by_set.items()},
    )


def look_at_texts(args: GateArguments) -> Looked:
    """As the evidence on texts does it."""
    from clinsynth.data.arguments import TextDataArguments
    from clinsynth.data.texts import load_text_dataset
    from clinsynth.metrics.privacy.exact import text_digests
    from clinsynth.metrics.texts.single_copies import KINDS, TextSpace, text_thresholds

    splits = load_text_dataset(TextDataArguments(args.texts), 0)
    generator, train = np.random.default_rng(args.seed), list(splits["train"]["text"])
    space, exact = TextSpace.of(train), set(text_digests(train))
    unseen = [text for name in ("validation", "test") for text in splits[name]["text"]]
    same = space.closest(unseen)[1] | np.array([one in exact for one in text_digests(unseen)])
    kept = [unseen[row] for row in generator.permutation(len(unseen)) if not same[row]]
    half = len(kept) // 2
    honest = kept[half:]

    def look(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return space.closest(texts)[0], np.array([one in exact for one in text_digests(texts)], dtype=bool)

    kinds = {"as it is": lambda text, _: text, **KINDS}
    rows, others = generator.permutation(len(train))[: args.plants], generator.integers(len(honest), size=args.plants)
    planted = {
        kind: look([alter(train[row], honest[other]) for row, other in zip(rows, others, strict=False)])
        for kind, alter in kinds.items()
    }
    return looked_at(space.closest(kept)[0], text_thresholds, planted, {}, generator)


def some(rows: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """At most so many rows, drawn without replacement."""
    return rows[generator.permutation(len(rows))[:most]]


if __name__ == "__main__":
    run(GateArguments, main)
