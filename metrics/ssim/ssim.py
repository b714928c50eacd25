"""SSIM and MS-SSIM: how alike images are, pair by pair, within classes, and to the nearest real image.

SSIM is that of Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity"), MS-SSIM
that of Wang, Simoncelli & Bovik 2003 ("Multiscale structural similarity for image quality assessment"), computed in
float64 with the conventions of torchmetrics, with which both agree: Gaussian window of 11 x 11 pixels and sigma 1.5,
mirrored borders, K1 = 0.01, K2 = 0.03, `data_range` 255 unless told otherwise, mean over channels and pixels; in
MS-SSIM the contrast terms are means over whole windows only, images are halved by means of 2 x 2 pixels, and
negative terms count as 0. Five scales need 176 pixels; a smaller image is measured on as many scales as leave it 11
pixels, with the weights of those scales divided by their sum. Such a value is not comparable with one of five scales.

Mean MS-SSIM of random pairs of one class tells how diverse a set is (Odena et al. 2017, arXiv 1610.09585, section
4.2): well above the real images' own value, the set repeats itself. SSIM of a synthetic image to its nearest real
one tells whether it is a copy. This file stands alone: `evaluate.load("./metrics/ssim")`.
"""

from collections.abc import Iterator
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = "SSIM and MS-SSIM of pairs of images, within the classes of a set, and to the nearest real image."
_CITATION = "Wang et al., Image quality assessment: from error visibility to structural similarity, 2004"
_INPUTS = """
Args:
    image: uint8 images, nested lists (channels, height, width), all of one size.
    reference: the image that each is compared with; only of the configuration "pairs".
    source: "real" or "synthetic" for each image; of the configurations "default" and "per_class".
    label: class of each image; only of the configuration "per_class".
    seed: of the random pairs.
Returns:
    pairs: ssim, ms_ssim (means over pairs), n. Else: ms_ssim_within and ms_ssim_within_real (mean over random pairs,
    the second the floor of the first), ssim_nearest (mean SSIM of a synthetic image to its nearest real one),
    n_real, n_synthetic; with "per_class" a dict of these by class. All with `scales`, how many MS-SSIM used.
"""

WINDOW = 11
SIGMA = 1.5
SCALE_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
BATCH = 256
BLOCK_ROWS = 1024


def ssim(images: np.ndarray, references: np.ndarray, data_range: float = 255.0) -> np.ndarray:
    """SSIM of each image with its reference: float64 (n,), at most 1, from images (n, channels, height, width).

    Raises:
        ValueError: shapes differ, or images are smaller than 11 x 11.
    """
    check_pictures(images, references)
    return np.concatenate([_maps(*batch, data_range)[0].mean((1, 2, 3)) for batch in _batches(images, references)])


def ms_ssim(images: np.ndarray, references: np.ndarray, data_range: float = 255.0) -> np.ndarray:
    """MS-SSIM of each image with its reference: float64 (n,) in [0, 1], on `count_scales` scales.

    Raises:
        ValueError: shapes differ, or images are smaller than 11 x 11.
    """
    check_pictures(images, references)
    return np.concatenate([_multiscale(*batch, data_range) for batch in _batches(images, references)])


def count_scales(height: int, width: int) -> int:
    """Scales of MS-SSIM, 1 to 5: as many as leave the image at least the window's 11 pixels."""
    return sum(min(height, width) // 2**i >= WINDOW for i in range(len(SCALE_WEIGHTS)))


def within_class_pairs(labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers (left, right) of random pairs of one class; a row is in one pair at most.

    Pairs without a common row are independent of one another, so their mean has an interval like any other mean.
    """
    generator = np.random.default_rng([seed, 4])
    left, right = [], []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        half = len(rows) // 2
        left.append(rows[:half])
        right.append(rows[half : 2 * half])
    if not left:
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    return np.concatenate(left), np.concatenate(right)


def within_class(images: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """MS-SSIM of random disjoint pairs of one class: (about n / 2,); see `within_class_pairs`."""
    left, right = within_class_pairs(labels, seed)
    return ms_ssim(images[left], images[right]) if len(left) else np.zeros(0)


def nearest_pictures(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Number (n,) of the reference with the smallest squared difference of pixels to each uint8 image."""
    numbers = np.zeros(len(images), dtype=int)
    for i in range(0, len(images), BLOCK_ROWS):
        queries = _rows(images[i : i + BLOCK_ROWS])
        best = np.full(len(queries), np.inf)
        for j in range(0, len(references), BLOCK_ROWS):
            rows = _rows(references[j : j + BLOCK_ROWS])
            scores = (rows**2).sum(1) - 2 * queries @ rows.T
            nearest = scores.argmin(1)
            found = scores[np.arange(len(queries)), nearest]
            numbers[i : i + BLOCK_ROWS] = np.where(found < best, nearest + j, numbers[i : i + BLOCK_ROWS])
            best = np.minimum(best, found)
    return numbers


def ssim_to_nearest(images: np.ndarray, references: np.ndarray) -> np.ndarray:
    """SSIM (n,) of each uint8 image to the reference that is nearest in pixels."""
    return ssim(images, references[nearest_pictures(images, references)])


def check_pictures(images: np.ndarray, references: np.ndarray) -> None:
    """An error where images cannot be compared."""
    if images.shape != references.shape or images.ndim != 4 or len(images) == 0:
        raise ValueError(
            f"images must come as two arrays of one shape (n, channels, height, width), n >= 1, got {images.shape} "
            f"and {references.shape}; bring both to one size and mode"
        )
    if min(images.shape[2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} x {WINDOW} pixels, got {images.shape[2:]}")


def _rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def _batches(images: np.ndarray, references: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(images), BATCH):
        yield images[start : start + BATCH], references[start : start + BATCH]


def _maps(x: np.ndarray, y: np.ndarray, data_range: float) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and its contrast-structure term at each pixel, (n, channels, height, width)."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    rows, columns = _blur_matrix(x.shape[2]), _blur_matrix(x.shape[3])

    def blur(picture: np.ndarray) -> np.ndarray:
        return rows @ picture @ columns.T

    mean_x, mean_y = blur(x), blur(y)
    variance_x = np.maximum(blur(x * x) - mean_x**2, 0)
    variance_y = np.maximum(blur(y * y) - mean_y**2, 0)
    covariance = blur(x * y) - mean_x * mean_y
    contrast = (2 * covariance + c2) / (variance_x + variance_y + c2)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * contrast, contrast


def _blur_matrix(size: int) -> np.ndarray:
    """(size, size): row i holds the Gaussian window about pixel i, folded back at the borders."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    window = np.exp(-((offsets / SIGMA) ** 2) / 2)
    window /= window.sum()
    matrix = np.zeros((size, size))
    for i in range(size):
        mirrored = np.abs(i + offsets)
        mirrored = np.where(mirrored >= size, 2 * (size - 1) - mirrored, mirrored)
        np.add.at(matrix[i], mirrored, window)
    return matrix


def _multiscale(x: np.ndarray, y: np.ndarray, data_range: float) -> np.ndarray:
    """Product over scales of the contrast term, of the last scale SSIM itself, to the power of the scale's weight."""
    weights = SCALE_WEIGHTS[: count_scales(*x.shape[2:])]
    weights = weights / weights.sum()
    inside = slice(WINDOW // 2, -(WINDOW // 2))
    product = np.ones(len(x))
    for i, weight in enumerate(weights):
        similarity, contrast = _maps(x, y, data_range)
        last = i == len(weights) - 1
        term = similarity.mean((1, 2, 3)) if last else contrast[:, :, inside, inside].mean((1, 2, 3))
        product *= np.maximum(term, 0) ** weight
        x, y = halve(x), halve(y)
    return product


def halve(x: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    n, channels, height, width = x.shape
    cut = x[:, :, : height // 2 * 2, : width // 2 * 2].astype(np.float64)
    return cut.reshape(n, channels, height // 2, 2, width // 2, 2).mean((3, 5))


class SSIM(evaluate.Metric):
    """The functions above as an `evaluate` metric, in the configurations "default", "per_class" and "pairs"."""

    def _info(self) -> evaluate.MetricInfo:
        picture = datasets.Sequence(datasets.Sequence(datasets.Sequence(datasets.Value("uint8"))))
        columns: dict[str, Any] = {"image": picture}
        if self.config_name == "pairs":
            columns["reference"] = picture
        else:
            columns["source"] = datasets.Value("string")
        if self.config_name == "per_class":
            columns["label"] = datasets.Value("string")
        return evaluate.MetricInfo(_DESCRIPTION, _CITATION, datasets.Features(columns), _INPUTS)

    def _compute(
        self, image: Any, reference: Any = None, source: Any = None, label: Any = None, seed: int = 0
    ) -> dict[str, Any]:
        images = np.asarray(image, dtype=np.uint8)
        if reference is not None:
            others = np.asarray(reference, dtype=np.uint8)
            values = {"ssim": ssim(images, others), "ms_ssim": ms_ssim(images, others)}
            means = {name: float(value.mean()) for name, value in values.items()}
            return {**means, "n": len(images), "scales": count_scales(*images.shape[2:])}
        sources = np.asarray(source)
        unknown = sorted(set(sources.tolist()) - {"real", "synthetic"})
        if unknown:
            raise ValueError(f'source must be "real" or "synthetic", got {unknown[0]!r}')
        if label is None:
            return self._measure(images, sources, seed)
        labels = np.asarray(label)
        return {
            str(name): self._measure(images[labels == name], sources[labels == name], seed)
            for name in np.unique(labels)
        }

    @staticmethod
    def _measure(images: np.ndarray, sources: np.ndarray, seed: int) -> dict[str, Any]:
        real, synthetic = images[sources == "real"], images[sources == "synthetic"]
        if len(real) < 2 or len(synthetic) < 2:
            raise ValueError(f"two images a side or more are needed, got {len(real)} real, {len(synthetic)} synthetic")
        one_class = [np.zeros(len(side), dtype=int) for side in (synthetic, real)]
        return {
            "ms_ssim_within": float(within_class(synthetic, one_class[0], seed).mean()),
            "ms_ssim_within_real": float(within_class(real, one_class[1], seed).mean()),
            "ssim_nearest": float(ssim_to_nearest(synthetic, real).mean()),
            "n_real": len(real),
            "n_synthetic": len(synthetic),
            "scales": count_scales(*images.shape[2:]),
        }
