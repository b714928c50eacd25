"""What the evidence costs: Fréchet distance against two peers, precision to coverage against the package prdc.

     python -m benchmarks.metrics --output_dir runs/benchmark-metrics

The Fréchet distance is timed twice: from the features, and from means and covariances that are there already, as after
streaming sums. Peers are the form with `scipy.linalg.sqrtm` and torchmetrics' formula, both in float64. The package
prdc makes 8 threads of its own, so its seconds of processor time are the fair ones. Memory is that of a process that
does nothing else: allocated during the call by Python and numpy (features not included), and the peak resident size.
"""

import contextlib
import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from benchmarks.timing import Comparison, TimingArguments, compare, run_alone, write_results
from clinsynth.arguments import run

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


MEMORY_GOAL = 0.25


@dataclass(kw_only=True)
class MetricsArguments(TimingArguments):
    """Measure the speed and memory of the metrics as ratios, and their agreement."""

    known: ClassVar[tuple[str, ...]] = ("frechet", "prdc", "memory")

    sections: str = "frechet,prdc,memory"
    """Comma-separated: frechet, prdc, memory."""
    n: int = 10_000
    """Rows of features a side."""
    dimension: int = 1280
    """Columns of features."""
    repeats: int = 3
    """Repeats of A B A B …"""


def main(args: MetricsArguments) -> None:
    """Run the sections asked for; print and write their table."""
    wanted = args.wanted
    # First, since a child's peak resident size starts from its parent's, which the imports below swell.
    lines = compare_memory(args) if "memory" in wanted else []
    args.begin()
    comparisons: list[Comparison] = []
    if "frechet" in wanted:
        comparisons += compare_frechet(args)
        values = frechet_values(*two_sides(args.n, args.dimension))
        lines += [f"- Fréchet distance, {name}: {value!r}" for name, value in values.items()]
    if "prdc" in wanted:
        from clinsynth.metrics.prdc.prdc import prdc

        sides = two_sides(args.n, args.dimension)
        what = f"precision to coverage, {args.n} x {args.dimension}"
        ours, package = ("clinsynth", lambda: prdc(*sides)), ("prdc", lambda: prdc_by_package(*sides))
        comparisons.append(compare(what, ours, package, repeats=args.repeats, goal=("<=", 1.0)))
        theirs = prdc_by_package(*sides)
        lines += [f"- {name}: {value!r}, package {theirs[name]!r}" for name, value in prdc(*sides).items()]
    write_results(args, "metrics", comparisons, "\n".join(lines), lines=lines)


def frechet_values(real: np.ndarray, synthetic: np.ndarray) -> dict[str, float]:
    """The distance in all three forms, and the largest relative difference from ours."""
    from clinsynth.metrics.frechet.frechet import frechet_distance

    ours = frechet_distance(real, synthetic)
    theirs = {
        "scipy.linalg.sqrtm": from_features(moments, distance_by_square_root, (real, synthetic)),
        "torchmetrics": from_features(moments_by_torchmetrics, distance_by_torchmetrics, (real, synthetic)),
    }
    difference = max(abs(value / ours - 1) for value in theirs.values())
    return {"clinsynth": ours, **theirs, "largest relative difference": difference}


def compare_frechet(args: MetricsArguments) -> list[Comparison]:
    """sqrtm's seconds over ours and ours over torchmetrics', from features and from means and covariances."""
    from clinsynth.metrics.frechet.frechet import GaussianStatistics, frechet_distance, statistics_distance

    sides = two_sides(args.n, args.dimension)
    sums = (GaussianStatistics(), GaussianStatistics())
    for side, rows in zip(sums, sides, strict=True):
        side.update(rows)
    fitted = [(side.mean, side.covariance()) for side in sums]
    peers = {
        "sqrtm": (moments, distance_by_square_root),
        "torchmetrics": (moments_by_torchmetrics, distance_by_torchmetrics),
    }
    comparisons = []
    for what, ours, theirs in (
        (
            f"Fréchet distance, {args.n} x {args.dimension} features",
            partial(frechet_distance, *sides),
            {name: partial(from_features, *peer, sides) for name, peer in peers.items()},
        ),
        (
            f"Fréchet distance, means and covariances of {args.dimension}",
            partial(statistics_distance, *sums),
            {name: partial(peer[1], *fitted) for name, peer in peers.items()},
        ),
    ):
        a, b = ("scipy.linalg.sqrtm", theirs["sqrtm"]), ("torchmetrics", theirs["torchmetrics"])
        comparisons.append(compare(what, a, ("clinsynth", ours), repeats=args.repeats, goal=(">=", 5.0)))
        comparisons.append(compare(what, ("clinsynth", ours), b, repeats=args.repeats, goal=("<=", 1.0)))
    return comparisons + compare_with_least_work(args, sides)


def compare_with_least_work(args: MetricsArguments, sides: tuple[np.ndarray, np.ndarray]) -> list[Comparison]:
    """The physical limit from features: ours over it, and how far it is itself from five times the form with sqrtm."""
    from clinsynth.metrics.frechet.frechet import frechet_distance

    what = f"Fréchet distance, {args.n} x {args.dimension} features, beside bare BLAS and LAPACK"
    bare = ("least work", partial(least_work, *sides))
    square_root = ("scipy.linalg.sqrtm", partial(from_features, moments, distance_by_square_root, sides))
    return [
        compare(what, ("clinsynth", partial(frechet_distance, *sides)), bare, repeats=args.repeats, goal=("<=", 1.25)),
        compare(what, square_root, bare, repeats=args.repeats, goal=(">=", 5.0)),
    ]


def once(which: str, n: int, dimension: int) -> None:
    """What a process of `compare_memory` does: make the features, run one of the two, print what it allocated."""
    import tracemalloc

    if which == "clinsynth":
        from clinsynth.metrics.prdc.prdc import prdc as measure
    else:
        measure = prdc_by_package
    sides = two_sides(n, dimension)
    tracemalloc.start()
    measure(*sides)
    print(tracemalloc.get_traced_memory()[1] / 1e6)


def compare_memory(args: MetricsArguments) -> list[str]:
    """MB (10**6 bytes) that ours and the package allocate during the call, and the peaks of their whole processes."""
    found: dict[str, list[float]] = {"during the call": [], "of the process at its peak, imports included": []}
    for which in ("clinsynth", "prdc"):
        code = f"from benchmarks.metrics import once; once({which!r}, {args.n}, {args.dimension})"
        printed, _, peak = run_alone([sys.executable, "-c", code])
        for sizes, size in zip(found.values(), (float(printed.split()[-1]), peak), strict=True):
            sizes.append(size)
    return [
        f"- MB {what}: clinsynth {ours:.0f}, prdc {theirs:.0f}, ratio {ours / theirs:.3f} (goal of the call: <= "
        f"{MEMORY_GOAL})"
        for what, (ours, theirs) in found.items()
    ]


if __name__ == "__main__":
    run(MetricsArguments, main)
