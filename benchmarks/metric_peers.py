"""The metrics of others, as metrics.py times them, and the features they are timed on."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np

Moments = tuple[np.ndarray, np.ndarray]


def two_sides(n: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Features as networks give them: not negative, of mixed scale, correlated; float64 (n, dimension) a side."""
    generator = np.random.default_rng(0)
    mix = generator.normal(size=(dimension, dimension)) / np.sqrt(dimension)
    mix *= np.exp(-3 * np.arange(dimension) / dimension)[:, None]
    real = np.maximum(generator.normal(size=(n, dimension)) @ mix + 0.2, 0)
    synthetic = np.maximum(1.1 * generator.normal(size=(n, dimension)) @ mix + 0.25, 0)
    return real, synthetic


def distance_by_square_root(real: Moments, synthetic: Moments) -> float:
    """The form of most published code: the trace of `scipy.linalg.sqrtm` of the product of the covariances."""
    import scipy.linalg

    (mean_1, cov_1), (mean_2, cov_2) = real, synthetic
    root = scipy.linalg.sqrtm(cov_1 @ cov_2).real
    return float(((mean_1 - mean_2) ** 2).sum() + np.trace(cov_1 + cov_2 - 2 * root))


def moments(rows: np.ndarray) -> Moments:
    """Mean (d,) and covariance (d, d) as numpy makes them."""
    return rows.mean(0), np.cov(rows, rowvar=False)


def distance_by_torchmetrics(real: Moments, synthetic: Moments) -> float:
    """torchmetrics' formula in float64."""
    import torch
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(*(torch.from_numpy(array) for side in (real, synthetic) for array in side)))


def moments_by_torchmetrics(rows: np.ndarray) -> Moments:
    """Mean and covariance as torchmetrics' `FrechetInceptionDistance` makes them, in float64."""
    import torch

    features = torch.from_numpy(rows)
    mean = (features.sum(0) / len(rows)).unsqueeze(0)
    covariance = (features.t().mm(features) - len(rows) * mean.t().mm(mean)) / (len(rows) - 1)
    return mean.squeeze(0).numpy(), covariance.numpy()


def from_features(fit: Callable[[np.ndarray], Any], distance: Callable[[Any, Any], float], sides: Any) -> float:
    """Fit a Gaussian to each side, then take their distance."""
    return distance(*(fit(rows) for rows in sides))


def least_work(real: np.ndarray, synthetic: np.ndarray) -> float:
    """The calls of BLAS and LAPACK that no form in float64 from features is without, their result thrown away.

    Two products of features with themselves (rank-k updates, half of a matrix product each), a root of each, and the
    eigenvalues of a d by d matrix. Means, centring and checks are left out.
    """
    factors = [np.linalg.cholesky(rows.T @ rows) for rows in (real, synthetic)]
    product = factors[0].T @ factors[1]
    return float(np.linalg.eigvalsh(product @ product.T)[-1])


def prdc_by_package(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """The four numbers of the package prdc, k = 5, without its print."""
    from prdc import compute_prdc

    with contextlib.redirect_stdout(io.StringIO()):
        return {name: float(value) for name, value in compute_prdc(real, synthetic, 5).items()}
