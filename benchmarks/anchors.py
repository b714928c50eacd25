"""What a Fréchet distance has to be read against: two anchors that a good generator leaves far behind, and a floor.

noise   Gaussian noise with the mean and covariance that the real pixels have
blur    the real pictures themselves, blurred with sigma 1.5 pixels
floor   real against real: the test split against the train split
"""

import numpy as np
from scipy.ndimage import gaussian_filter


def gaussian_noise_like(images: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """`n` pictures, uint8 (n, c, r, r), drawn from the normal distribution with the mean and the full covariance of
    all pixels of `images`, uint8 (m, c, r, r); rounded and clipped to 0 .. 255.

    A random mixture of the m centred pictures has just their covariance, so that the matrix, (c r r) squared, is
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


def references(train: np.ndarray, test: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """Name of the table's row to pictures, uint8 (n, c, r, r): the floor (to be compared with train) and the anchors,
    both made of as many pictures as train has."""
    return {
        "floor: real test": test,
        "anchor: blurred real train, sigma 1.5": blurred(train),
        "anchor: noise with real mean and covariance": gaussian_noise_like(train, len(train), seed),
    }
