"""Real data, a named feature extractor, and distances in its features: what quality.py and score.py share."""

from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.data.images import ImageArrays, load_image_arrays
from clinsynth.metrics.frechet.frechet import frechet_distance, frechet_interval
from clinsynth.metrics.kid.kid import kernel_distance, kernel_interval


def real_splits(dataset: str, resolution: int, channels: int) -> dict[str, ImageArrays]:
    """Train, validation and test of `dataset` at the size and mode of the pictures they are compared with."""
    return load_image_arrays(ImageDataArguments(dataset=dataset, resolution=resolution, channels=channels))


def named_extractor(name: str, splits: dict[str, ImageArrays], folder: Path, seed: int = 0) -> Any:
    """The extractor `name`: a path or id, or "default", the CNN that is trained on
    `splits["train"]` the first time and kept in `folder`."""
    from clinsynth.models.image_encoders import load_extractor, train_default_extractor

    if name != "default":
        return load_extractor(name)
    return train_default_extractor(splits["train"], splits["validation"], folder, seed)


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


def cells(measured: dict[str, Any]) -> str:
    """Fréchet distance and 1000 × KID with their intervals, as two cells of a Markdown row."""
    frechet, kid = f"{measured['frechet']:.3f}", f"{1000 * measured['kid']:.2f}"
    if measured["frechet_interval"]:
        (low, high), (kid_low, kid_high) = measured["frechet_interval"], measured["kid_interval"]
        frechet += f" ({low:.3f} to {high:.3f})"
        kid += f" ({1000 * kid_low:.2f} to {1000 * kid_high:.2f})"
    return f"{frechet} | {kid}"
