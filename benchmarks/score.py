"""Fréchet distance and KID of drawn images against real train and test, beside the floor and the anchors.

     python -m benchmarks.score --dataset retinamnist.npz --samples runs/equal-time --extractors default,mobilenet_v2 \
         --output_dir runs/equal-time/scores

`--samples` is a folder in which equal_time.py wrote `<name>/samples.npz` with their `samples.json`.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter

from benchmarks.timing import BenchmarkArguments, markdown, write_results
from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.metrics.frechet.frechet import frechet_distance, frechet_interval
from clinsynth.metrics.kid.kid import kernel_distance, kernel_interval
from clinsynth.models.image_encoders import load_extractor, train_default_extractor
from clinsynth.run_folder import create_run_folder


def real_splits(dataset: str, resolution: int, channels: int) -> dict[str, ImageArrays]:
    """Train, validation and test of `dataset` at the size and mode of the images they are compared with."""
    return load_image_arrays(ImageDataArguments(dataset=dataset, resolution=resolution, channels=channels))


@dataclass(kw_only=True)
class ImagesArguments(BenchmarkArguments):
    """The real images that are trained on and compared with."""

    dataset: str = "phantom-fundus"
    """Data set spec."""
    resolution: int = 32
    """Height and width in pixels."""
    channels: int = 1
    """1 grey, 3 colour."""

    @property
    def splits(self) -> dict[str, ImageArrays]:
        """Train, validation and test."""
        return real_splits(self.dataset, self.resolution, self.channels)


def named_extractor(name: str, splits: dict[str, ImageArrays], folder: Path) -> Any:
    """The extractor `name`: a path or id, or "default", the CNN that is trained on
    `splits["train"]` the first time and kept in `folder`."""
    if name != "default":
        return load_extractor(name)
    return train_default_extractor(splits["train"], splits["validation"], folder)


def distances(real: np.ndarray, other: np.ndarray, n_bootstrap: int) -> dict[str, Any]:
    """Fréchet distance and KID of two sets of features, float64 (n, d) and (m, d), each with a 95 % interval.

    A replicate of the Fréchet distance costs a singular value decomposition, about a second where d is 1280; 0
    replicates leave both intervals out.
    """
    return {
        "frechet": frechet_distance(real, other),
        "frechet_interval": frechet_interval(real, other, n_bootstrap) if n_bootstrap else None,
        "kid": kernel_distance(real, other),
        "kid_interval": kernel_interval(real, other, n_bootstrap) if n_bootstrap else None,
        "n_real": len(real),
        "n": len(other),
        "dimension": real.shape[1],
    }


def cells(measured: dict[str, Any]) -> list[str]:
    """Fréchet distance and 1000 × KID with their intervals, as two cells of a table's row."""
    frechet, kid = f"{measured['frechet']:.3f}", f"{1000 * measured['kid']:.2f}"
    if measured["frechet_interval"]:
        (low, high), (kid_low, kid_high) = measured["frechet_interval"], measured["kid_interval"]
        frechet += f" ({low:.3f} to {high:.3f})"
        kid += f" ({1000 * kid_low:.2f} to {1000 * kid_high:.2f})"
    return [frechet, kid]


def gaussian_noise_like(images: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """`n` images, uint8 (n, c, r, r), drawn from the normal distribution with the mean and the full covariance of
    all pixels of `images`, uint8 (m, c, r, r); rounded and clipped to 0 .. 255.

    A random mixture of the m centred images has just their covariance, so that the matrix, (c r r) squared, is
    never formed.
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    mean = flat.mean(0)
    weights = np.random.default_rng(seed).standard_normal((n, len(flat))) / np.sqrt(len(flat) - 1)
    noise = mean + weights @ (flat - mean)
    return np.clip(np.rint(noise), 0, 255).astype(np.uint8).reshape(n, *images.shape[1:])


def blurred(images: np.ndarray, sigma: float = 1.5) -> np.ndarray:
    """`images`, uint8 (n, c, r, r), each channel blurred by a Gaussian of `sigma` pixels, mirrored at the border."""
    smooth = gaussian_filter(images.astype(np.float32), (0, 0, sigma, sigma), mode="reflect")
    return np.clip(np.rint(smooth), 0, 255).astype(np.uint8)


def references(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Name of the table's row to images, uint8 (n, c, r, r): the floor (to be compared with train) and the anchors,
    both made of as many images as train has."""
    return {
        "floor: real test": test,
        "anchor: blurred real train, sigma 1.5": blurred(train),
        "anchor: noise with real mean and covariance": gaussian_noise_like(train, len(train)),
    }


@dataclass(kw_only=True)
class ScoreArguments(BenchmarkArguments):
    """Score sets of drawn images against real ones, as a Markdown table."""

    may_be_zero: ClassVar[frozenset[str]] = frozenset({"n_bootstrap"})

    samples: str
    """Folder that is searched for samples.npz (images: uint8 (n, c, r, r)) with a samples.json of facts beside it."""
    dataset: str
    """The real data set the images were modelled on."""
    extractors: str = "default"
    """Comma-separated: `default` (a CNN trained on the real train split), paths or ids."""
    n_bootstrap: int = 50
    """Bootstrap replicates of the intervals; 0 for none. With 1280 features each costs about a second a cell."""


def main(args: ScoreArguments) -> None:
    """Score every set with every extractor; print and write the tables."""
    sets = find_samples(Path(args.samples))
    shape = sets[0]["images"].shape
    splits = real_splits(args.dataset, shape[2], shape[1])
    output_dir = create_run_folder(args.output_dir)
    found, text = {}, []
    for name in args.extractors.split(","):
        extract = named_extractor(name, splits, output_dir / "extractor")
        rows = score_all(extract, splits["train"].images, splits["test"].images, sets, args.n_bootstrap)
        found[extract.name] = rows
        text.append(score_table(extract.name, rows))
    write_results(args, "scores", text="\n\n".join(text), extractors=found)


def find_samples(folder: Path) -> list[dict[str, Any]]:
    """Every complete set under `folder`: its facts and `images`, in the order of arm and budget."""
    sets = []
    for path in sorted(folder.rglob("samples.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            sets.append(json.loads((path.parent / "samples.json").read_text()) | {"images": arrays["images"]})
    if not sets:
        raise ValueError(f"--samples {folder} holds no samples.npz; draw some with `python -m benchmarks.equal_time`")
    return sorted(sets, key=lambda s: (s["name"], s["cpu_seconds"], s["sampler"]))


def score_all(
    extract: Any, train: np.ndarray, test: np.ndarray, sets: list[dict[str, Any]], n_bootstrap: int
) -> list[dict[str, Any]]:
    """One row a set, the floor and the anchors first; each against train and test."""
    real = {"train": extract(train), "test": extract(test)}
    fixed = [{"name": name, "images": images} for name, images in references(train, test).items()]
    rows = []
    for item in fixed + sets:
        features = extract(item["images"])
        row = {key: value for key, value in item.items() if key != "images"}
        for split, reference in real.items():
            if (item["name"], split) != ("floor: real test", "test"):  # test against itself says nothing
                row[split] = distances(reference, features, n_bootstrap)
        rows.append(row)
    return rows


def score_table(extractor: str, rows: list[dict[str, Any]]) -> str:
    """A Markdown table of all rows, with the extractor's name over it."""
    head = (
        f"Extractor: {extractor} ({rows[0]['train']['dimension']} features). Fréchet distance and "
        "1000 × KID, 95 % bootstrap intervals in brackets."
    )
    columns = (
        "generator | CPU s of training | steps | M parameters | sampler | n | Fréchet, train | KID, train | "
        "Fréchet, test | KID, test"
    )
    lines = []
    for row in rows:
        facts = ["", "", "", ""]  # of the floor and the anchors, which nobody trained
        if "sampler" in row:
            size = f"{row['parameters'] / 1e6:.2f}"
            facts = [f"{row['cpu_seconds']:.0f}", str(row["steps"]), size, row["sampler"]]
        test = cells(row["test"]) if "test" in row else ["", ""]
        lines.append([row["name"], *facts, str(row["train"]["n"]), *cells(row["train"]), *test])
    return f"{head}\n\n{markdown(columns, lines)}"


if __name__ == "__main__":
    run(ScoreArguments, main)
