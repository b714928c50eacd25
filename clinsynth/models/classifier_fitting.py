"""The training loop that whole classifiers and single last layers share, its batches and class weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import ClassVar, Protocol

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from clinsynth.models.classifier_result import FitResult

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
