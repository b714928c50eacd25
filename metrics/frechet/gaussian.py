"""Gaussians fitted to rows of features: streaming sums, and a factor of the covariance."""

import numpy as np
from scipy.linalg import lapack

BLOCK_ROWS = 2048


class GaussianStatistics:
    """Mean and covariance of rows that arrive in batches, in float64: memory grows with d squared, not with n.

    The sum of squares is kept about the running mean (Chan et al. 1979, "Updating formulae and a pairwise algorithm
    for computing sample variances"), so that features far from zero lose no digits. The sums of several processes are
    joined with `merge`.

    Attributes:
        count: rows seen.
        mean: float64 (d,), empty before the first batch.
        squares: float64 (d, d), the sum over rows of (x - mean)(x - mean)'.
    """

    def __init__(self) -> None:
        self.count = 0.0
        self.mean = np.zeros(0)
        self.squares = np.zeros((0, 0))

    def update(self, batch: np.ndarray, counts: np.ndarray | None = None) -> None:
        """Add the rows of `batch` (n, d), row i `counts[i]` times (once, if not given).

        Raises:
            ValueError: not a matrix, other columns than before, or a value that is not finite.
        """
        batch = np.asarray(batch, dtype=np.float64)
        if batch.ndim != 2 or (self.count and batch.shape[1] != len(self.mean)):
            raise ValueError(f"a batch must be a matrix of {len(self.mean) or 'd'} columns, got shape {batch.shape}")
        if not np.isfinite(batch).all():
            raise ValueError("features hold NaN or infinity; look at the extractor and its input")
        for start in range(0, len(batch), BLOCK_ROWS):
            rows = batch[start : start + BLOCK_ROWS]
            weights = None if counts is None else counts[start : start + BLOCK_ROWS]
            if weights is not None and not weights.all():
                rows, weights = rows[weights > 0], weights[weights > 0]
            if len(rows):
                self._add_rows(rows, weights)

    def merge(self, other: "GaussianStatistics") -> None:
        """Add the rows that `other` has seen."""
        if other.count and self.count and len(other.mean) != len(self.mean):
            raise ValueError(f"{len(other.mean)} columns cannot be merged with {len(self.mean)}; use one extractor")
        if other.count:
            between = self._move_mean(other.count, other.mean)
            self.squares += other.squares + np.outer(between, between)

    def covariance(self) -> np.ndarray:
        """Float64 (d, d), with 1/(n - 1).

        Raises:
            ValueError: fewer than two rows.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs two rows or more, got {self.count:g}")
        return self.squares / (self.count - 1)

    def _add_rows(self, rows: np.ndarray, weights: np.ndarray | None) -> None:
        total = float(len(rows) if weights is None else weights.sum())
        mean = rows.sum(axis=0) / total if weights is None else weights @ rows / total
        centred = np.empty((len(rows) + 1, len(mean)))
        np.subtract(rows, mean, out=centred[:-1])
        if weights is not None:
            centred[:-1] *= np.sqrt(weights)[:, None]
        centred[-1] = self._move_mean(total, mean)
        self.squares += centred.T @ centred  # numpy knows this product as a rank-k update: half the work

    def _move_mean(self, count: float, mean: np.ndarray) -> np.ndarray:
        """Join `count` rows to the mean; v such that vv' is what the distance of the two means adds to the squares."""
        if self.count == 0:
            self.mean = np.zeros(len(mean))
            self.squares = np.zeros((len(mean), len(mean)))
        difference, total = mean - self.mean, self.count + count
        between = difference * np.sqrt(self.count * count / total)
        self.mean = self.mean + difference * (count / total)
        self.count = total
        return between


def covariance_factor(covariance: np.ndarray) -> np.ndarray:
    """F (rank, d) with F'F = C of a positive semidefinite C (d, d): Cholesky, pivoted where C is singular."""
    try:
        return np.linalg.cholesky(covariance).T
    except np.linalg.LinAlgError:
        factor, pivots, rank, _ = lapack.dpstrf(covariance)
        result = np.zeros((rank, len(covariance)))
        result[:, pivots - 1] = np.triu(factor)[:rank]
        return result
