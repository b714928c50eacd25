"""The training loop that whole classifiers and single last layers share, its batches and class weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

LossOf = Callable[[np.ndarray], torch.Tensor]


def fit(
    module: torch.nn.Module,
    loss_of: LossOf,
    score_of: Callable[[], float] | None,
    *,
    rows: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    steps_per_epoch: int | None = None,
    progress: str | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> FitResult:
    """Train `module` in place with AdamW, 10 % warm-up and cosine decay on `loss_of(row numbers)`; it ends with the
    weights of the epoch whose `score_of()` is best (the last epoch's without one). See `fit_classifier`."""
    started = time.perf_counter()
    batch_size = min(batch_size, rows)
    steps_per_epoch = steps_per_epoch or math.ceil(rows / batch_size)
    steps = epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(module.parameters(), lr=learning_rate, weight_decay=0.05, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    history: list[dict[str, float]] = []
    best_epoch, best_score, best_weights = epochs, math.nan, None
    with torch.random.fork_rng(), tqdm(total=steps, desc=progress, disable=progress is None) as bar:
        torch.manual_seed(seed)
        batches = endless_batches(rows, batch_size)
        for epoch in range(1, epochs + 1):
            module.train()
            losses = []
            for step in range((epoch - 1) * steps_per_epoch + 1, epoch * steps_per_epoch + 1):
                loss = loss_of(next(batches))
                losses.append(loss.item())
                bar.update()
                if not math.isfinite(losses[-1]):
                    raise ValueError(
                        f"the training loss of {progress or 'the classifier'} is {losses[-1]} at step {step}; "
                        "give smaller --learning_rates"
                    )
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            record = {"epoch": epoch, "step": step, "loss": float(np.mean(losses)), "learning_rate": learning_rate}
            if score_of is not None:
                score = score_of()
                record["validation_macro_f1"] = score
                if best_weights is None or score > best_score:
                    best_epoch, best_score = epoch, score
                    best_weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
            history.append(record)
            bar.set_postfix({k: f"{record[k]:.3f}" for k in ("loss", "validation_macro_f1") if k in record})
            if on_epoch:
                on_epoch(record)
    if best_weights is not None:
        module.load_state_dict(best_weights)
    module.eval()
    return FitResult(steps, time.perf_counter() - started, best_epoch, best_score, history)


def endless_batches(n: int, batch_size: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of equal size, for ever: one shuffle of all n rows after another."""
    rows = torch.empty(0, dtype=torch.long)
    while True:
        while len(rows) < batch_size:
            rows = torch.cat([rows, torch.randperm(n)])
        yield rows[:batch_size].numpy()
        rows = rows[batch_size:]


class Labelled(Protocol):
    """Rows of which the labels are looked at."""

    noun: ClassVar[str]

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def label_names(self) -> list[str]: ...


def balancing_weights(data: Labelled) -> torch.Tensor:
    """One loss weight a class, n / (classes * rows of the class), float32; a class without a row is an error."""
    counts = np.bincount(data.labels, minlength=len(data.label_names))
    if (counts == 0).any():
        missing = ", ".join(data.label_names[i] for i in np.flatnonzero(counts == 0))
        raise ValueError(
            f"the training rows hold no {data.noun} of {missing}; add some, or leave the class out of the data"
        )
    return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)


@dataclass
class FitResult:
    """What one training did: `steps` optimizer steps in `seconds`; the epoch (from 1) whose weights the model holds
    and its macro-F1 on validation (nan without a validation split); `history` has one record an epoch."""

    steps: int
    seconds: float
    best_epoch: int
    best_macro_f1: float
    history: list[dict[str, float]]


def macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean of the classes' F1, labels and predictions ints (n,); a class in neither counts 0."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, labels=np.arange(classes), average="macro", zero_division=0))


NOISE = 0.15  # largest standard deviation; normalised pixels have about 1
ERASED = 0.25  # side of the erased square as a share of the picture's
MIXUP_ALPHA = 0.2


def random_views(pixels: torch.Tensor, flips: bool, strength: float = 1.0) -> torch.Tensor:
    """Each picture of (n, c, s, s) turned by up to 10 degrees, scaled and shifted by up to 6 %, its contrast and
    brightness changed by up to 15 %, all times `strength`; with `flips` mirrored left-right and up-down with
    probability 1/2 each."""
    n = len(pixels)
    angle, scale, right, down = (torch.rand(4, n) * 2 - 1) * strength
    angle, scale = angle * math.pi / 18, 1 + 0.06 * scale
    cos, sin = scale * angle.cos(), scale * angle.sin()
    # Shifts are in half sides: affine_grid's coordinates run from -1 to 1.
    affine = torch.stack([cos, -sin, 0.12 * right, sin, cos, 0.12 * down], dim=1).view(n, 2, 3)
    if flips:
        affine[:, :, :2] *= torch.randint(0, 2, (n, 1, 2)) * 2 - 1
    grid = F.affine_grid(affine.to(pixels.device), list(pixels.shape), align_corners=False)
    views = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    gain, offset = (0.15 * strength * (torch.rand(2, n, 1, 1, 1) * 2 - 1)).to(pixels.device)
    return views * (1 + gain) + offset


def strong_views(pixels: torch.Tensor, flips: bool) -> torch.Tensor:
    """`random_views` at twice the strength, half of them with noise, half of them with an erased square."""
    views, n = random_views(pixels, flips, strength=2.0), len(pixels)
    amount = NOISE * torch.rand(n, 1, 1, 1) * torch.randint(0, 2, (n, 1, 1, 1))
    views = views + (amount * torch.randn(views.shape)).to(pixels.device)
    side = max(1, round(ERASED * pixels.shape[-1]))
    top, left = torch.randint(0, pixels.shape[-1] - side + 1, (2, n, 1))
    places = torch.arange(pixels.shape[-1])
    rows, columns = ((start <= places) & (places < start + side) for start in (top, left))
    erased = (rows[:, :, None] & columns[:, None, :])[:, None] & (torch.rand(n, 1, 1, 1) < 0.5)
    return views.masked_fill(erased.to(pixels.device), 0.0)  # 0 is the mean of normalised pixels


def mixup_loss(
    model: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor, weight: torch.Tensor | None
) -> torch.Tensor:
    """Cross-entropy of pictures that are each blended with another one of the batch, shares ~ Beta(0.2, 0.2), against
    both their labels in the same shares; classes weighted by `weight` (classes,)."""
    share = torch.distributions.Beta(MIXUP_ALPHA, MIXUP_ALPHA).sample().item()
    partner = torch.randperm(len(pixels)).to(pixels.device)
    logits = model(share * pixels + (1 - share) * pixels[partner]).logits
    own, other = (F.cross_entropy(logits, target, weight=weight) for target in (labels, labels[partner]))
    return share * own + (1 - share) * other
