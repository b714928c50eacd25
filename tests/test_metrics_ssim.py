"""SSIM and MS-SSIM: against torchmetrics in float64; pairs of a class; the nearest real picture; the metric."""

from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from clinsynth.metrics.ssim.ssim import (
    BATCH,
    SCALE_WEIGHTS,
    count_scales,
    ms_ssim,
    nearest_pictures,
    ssim,
    ssim_to_nearest,
    within_class,
    within_class_pairs,
)

FOLDER = Path(__file__).parent.parent / "metrics" / "ssim"


def pictures(n: int, channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 200, size=(n, channels, -(-height // 4), -(-width // 4)))
    smooth = coarse.repeat(4, axis=2).repeat(4, axis=3)[:, :, :height, :width]
    return (smooth + generator.integers(0, 56, size=smooth.shape)).astype(np.uint8)


def like(images: np.ndarray, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 20, size=images.shape)
    return np.clip(images + noise + 5, 0, 255).astype(np.uint8)


def doubles(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array.astype(np.float64)) for array in arrays]


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 33, 20), (1, 1, 11, 64)])
@pytest.mark.parametrize("data_range", [255.0, 100.0])
def test_ssim_agrees_with_torchmetrics(shape: tuple[int, int, int, int], data_range: float) -> None:
    images = pictures(*shape)
    references = like(images)
    theirs = structural_similarity_index_measure(*doubles(images, references), data_range=data_range, reduction="none")
    assert ssim(images, references, data_range) == pytest.approx(theirs.numpy(), rel=1e-9)


@pytest.mark.parametrize(
    ("size", "scales"), [((176, 180), 5), ((100, 101), 4), ((64, 64), 3), ((28, 28), 2), ((13, 40), 1)]
)
def test_ms_ssim_agrees_with_torchmetrics_on_as_many_scales_as_fit(size: tuple[int, int], scales: int) -> None:
    images = pictures(2, 2, *size)
    references = like(images)
    assert count_scales(*size) == scales
    betas = tuple((SCALE_WEIGHTS[:scales] / SCALE_WEIGHTS[:scales].sum()).tolist())
    theirs = multiscale_structural_similarity_index_measure(
        *doubles(images, references), data_range=255.0, betas=betas, reduction="none"
    )
    assert ms_ssim(images, references) == pytest.approx(theirs.numpy(), rel=1e-9)


def test_a_picture_is_wholly_like_itself_and_not_like_its_negative() -> None:
    images = pictures(2, 1, 32, 32)
    assert ssim(images, images) == pytest.approx(1)
    assert ms_ssim(images, images) == pytest.approx(1)
    assert (ssim(images, 255 - images) < 0).all()
    assert (ms_ssim(images, 255 - images) == 0).all()


def test_batches_give_the_whole() -> None:
    images = pictures(BATCH + 3, 1, 12, 12)
    references = like(images)
    assert ssim(images, references)[-1:] == pytest.approx(ssim(images[-1:], references[-1:]))
    assert len(ms_ssim(images, references)) == BATCH + 3


@pytest.mark.parametrize(
    ("images", "references", "message"),
    [
        (np.zeros((2, 1, 16, 16)), np.zeros((3, 1, 16, 16)), "two arrays of one shape"),
        (np.zeros((2, 16, 16)), np.zeros((2, 16, 16)), "two arrays of one shape"),
        (np.zeros((2, 1, 10, 16)), np.zeros((2, 1, 10, 16)), r"at least 11 x 11 pixels, got \(10, 16\)"),
    ],
)
def test_refuses_what_cannot_be_compared(images: np.ndarray, references: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssim(images, references)


def test_pairs_are_of_one_class_disjoint_and_seeded() -> None:
    labels = np.array([0] * 7 + [1] * 4 + [2])
    left, right = within_class_pairs(labels, seed=1)
    assert (labels[left] == labels[right]).all()
    assert len(left) == 3 + 2 and len({*left, *right}) == 10
    assert not np.array_equal(left, within_class_pairs(labels, seed=2)[0])
    images = pictures(12, 1, 16, 16)
    assert within_class(images, labels, 1) == pytest.approx(ms_ssim(images[left], images[right]))
    assert len(within_class(images[:0], labels[:0])) == 0


def test_nearest_is_found_beyond_the_first_block() -> None:
    references = pictures(1100, 1, 12, 12)
    images = like(references[[1080, 3, 700]], seed=4)
    table = ((images[:, None].astype(float) - references[None]) ** 2).sum((2, 3, 4))
    assert nearest_pictures(images, references).tolist() == table.argmin(1).tolist() == [1080, 3, 700]
    assert ssim_to_nearest(images, references) == pytest.approx(ssim(images, references[[1080, 3, 700]]))
    assert nearest_pictures(references[:3], images).tolist() == [
        int(row.argmin()) for row in ((references[:3, None].astype(float) - images[None]) ** 2).sum((2, 3, 4))
    ]


def test_loads_with_evaluate_from_its_folder_in_three_configurations() -> None:
    real, synthetic = pictures(12, 3, 16, 16), pictures(10, 3, 16, 16, seed=2)
    pairs = evaluate.load(str(FOLDER), "pairs", keep_in_memory=True)
    for rows in (slice(0, 4), slice(4, 10)):
        pairs.add_batch(image=list(real[rows]), reference=list(synthetic[rows]))
    result = pairs.compute()
    assert result["ssim"] == pytest.approx(ssim(real[:10], synthetic).mean())
    assert (result["n"], result["scales"]) == (10, 1)

    whole = evaluate.load(str(FOLDER), keep_in_memory=True)
    whole.add_batch(image=list(real), source=["real"] * 12)
    whole.add_batch(image=list(synthetic), source=["synthetic"] * 10)
    result = whole.compute(seed=3)
    assert result["ms_ssim_within"] == pytest.approx(within_class(synthetic, np.zeros(10), 3).mean())
    assert result["ms_ssim_within_real"] == pytest.approx(within_class(real, np.zeros(12), 3).mean())
    assert result["ssim_nearest"] == pytest.approx(ssim_to_nearest(synthetic, real).mean())

    classes = evaluate.load(str(FOLDER), "per_class", keep_in_memory=True)
    classes.add_batch(image=list(real), source=["real"] * 12, label=["a"] * 6 + ["b"] * 6)
    classes.add_batch(image=list(synthetic), source=["synthetic"] * 10, label=["a"] * 4 + ["b"] * 6)
    result = classes.compute()
    assert (result["a"]["n_synthetic"], result["b"]["n_real"]) == (4, 6)
    assert result["a"]["ssim_nearest"] == pytest.approx(ssim_to_nearest(synthetic[:4], real[:6]).mean())
