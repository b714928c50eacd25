"""What classifiers of images and of texts share: their training loop, loss weights, loading, saving and last layer."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from sklearn.metrics import f1_score
from tqdm.auto import tqdm
from transformers import AutoConfig, PreTrainedModel, get_cosine_schedule_with_warmup

from clinsynth.data.labels import LabelledRows, first_of
from clinsynth.models.weights import explained_where_unloadable

Record = dict[str, float]
"""What there is to say of an epoch."""
Read = Callable[[torch.Tensor], torch.Tensor]
"""What is read of the logits of a batch."""


@dataclass(frozen=True)
class FitSettings:
    """How a network is trained.

    Attributes:
        class_weights: weight the classes in a classifier's loss by their inverse frequency.
        views: how images are varied; texts never are.
        steps_per_epoch: batches an epoch; None: one pass over the rows.
        progress: name of the bar; None shows none.
        on_epoch: called with the record of each epoch.
        targets: float32 (n, classes), what the train rows are taken for instead of their labels; a row's sum is its
            weight in the loss. None: the labels, of weight 1.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    class_weights: bool = False
    views: Literal["none", "light", "strong"] = "none"
    steps_per_epoch: int | None = None
    progress: str | None = None
    on_epoch: Callable[[Record], None] | None = None
    targets: np.ndarray | None = None


@dataclass
class FitResult:
    """What one training did: `steps` optimizer steps in `seconds`; the epoch (from 1) whose weights the model holds
    and its macro-F1 on validation (nan without a validation split); `history` has one record an epoch."""

    steps: int
    seconds: float
    best_epoch: int
    best_macro_f1: float
    history: list[Record]


def fit_classifier(
    network: torch.nn.Module,
    train: LabelledRows,
    validation: LabelledRows | None,
    loss_of: Callable[[np.ndarray, torch.Tensor | None], torch.Tensor],
    predict: Callable[[], np.ndarray],
    settings: FitSettings,
) -> FitResult:
    """`fit` on the rows of `train`; it ends with the weights of the epoch whose macro-F1 on `validation` is best.

    Args:
        loss_of: the loss of the rows of these numbers, given a weight a class, float32 (classes,), or None.
        predict: what the network gives for `validation` now, (n, classes).

    Raises:
        ValueError: a loss that is not finite (names the step), or a class without a train row to weight.
    """
    device = next(network.parameters()).device
    weight = balancing_weights(train, settings.targets).to(device) if settings.class_weights else None

    def score(known: LabelledRows) -> float:
        return macro_f1(known.labels, predict().argmax(1), len(known.label_names))

    return fit(
        network,
        len(train.labels),
        lambda rows: loss_of(rows, weight),
        None if validation is None else lambda: score(validation),
        settings,
    )


def fit(
    network: torch.nn.Module,
    rows: int,
    loss_of: Callable[[np.ndarray], torch.Tensor],
    score_of: Callable[[], float] | None,
    settings: FitSettings,
) -> FitResult:
    """Train `network` in place with AdamW, 10 % warm-up and cosine decay on `loss_of(row numbers)`; it ends with the
    weights of the epoch whose `score_of()` is best (the last epoch's without one).

    The result depends on the settings' seed and not on the global random generators, which are left as they were.

    Raises:
        ValueError: a loss that is not finite; names the step.
    """
    started = time.perf_counter()
    batch_size = min(settings.batch_size, rows)
    steps_per_epoch = settings.steps_per_epoch or math.ceil(rows / batch_size)
    steps = settings.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=0.05, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    history: list[Record] = []
    best_epoch, best_score, best_weights = settings.epochs, math.nan, None
    progress = settings.progress
    with torch.random.fork_rng(), tqdm(total=steps, desc=progress, disable=progress is None) as bar:
        torch.manual_seed(settings.seed)
        batches = endless_batches(rows, batch_size)
        for epoch in range(1, settings.epochs + 1):
            network.train()
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
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                schedule.step()
            record = {
                "epoch": epoch,
                "step": step,
                "loss": float(np.mean(losses)),
                "learning_rate": settings.learning_rate,
            }
            if score_of is not None:
                score = score_of()
                record["validation_macro_f1"] = score
                if best_weights is None or score > best_score:
                    best_epoch, best_score = epoch, score
                    best_weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
            history.append(record)
            bar.set_postfix({k: f"{record[k]:.3f}" for k in ("loss", "validation_macro_f1") if k in record})
            if settings.on_epoch:
                settings.on_epoch(record)
    if best_weights is not None:
        network.load_state_dict(best_weights)
    network.eval()
    return FitResult(steps, time.perf_counter() - started, best_epoch, best_score, history)


def endless_batches(n: int, batch_size: int) -> Iterator[np.ndarray]:
    """Row numbers in batches of equal size, for ever: one shuffle of all n rows after another."""
    rows = torch.empty(0, dtype=torch.long)
    while True:
        while len(rows) < batch_size:
            rows = torch.cat([rows, torch.randperm(n)])
        yield rows[:batch_size].numpy()
        rows = rows[batch_size:]


def known_targets(data: LabelledRows, settings: FitSettings, device: torch.device) -> torch.Tensor:
    """What the rows of `data` are trained on: their labels, int64 (n,), or the settings' targets (n, classes)."""
    return torch.as_tensor(data.labels if settings.targets is None else settings.targets, device=device)


def classification_loss(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Cross-entropy of `logits` (n, classes), mean by weight; classes weigh `weight` (classes,).

    `target` are labels (n,), or shares of classes (n, classes) whose sum is a row's weight. With shares of 0 and 1 the
    two are the same."""
    if target.ndim == 1:
        return F.cross_entropy(logits, target, weight=weight)
    shares = target if weight is None else target * weight
    return -(shares * logits.log_softmax(-1)).sum() / shares.sum()


def balancing_weights(data: LabelledRows, targets: np.ndarray | None = None) -> torch.Tensor:
    """One loss weight a class, n / (classes * rows of the class), float32; rows count as `targets` (n, classes) has
    them. A class without a row is an error."""
    counts = np.bincount(data.labels, minlength=len(data.label_names)) if targets is None else targets.sum(0)
    if (counts == 0).any():
        missing = ", ".join(data.label_names[i] for i in np.flatnonzero(counts == 0))
        raise ValueError(
            f"the training rows hold no {data.noun} of {missing}; add some, or leave the class out of the data"
        )
    return torch.tensor(counts.sum() / (len(counts) * counts), dtype=torch.float32)


def macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean of the classes' F1, labels and predictions ints (n,); a class in neither counts 0."""
    return float(f1_score(labels, predicted, labels=np.arange(classes), average="macro", zero_division=0))


def load_trained(kind: Any, flag: str, source: str, hint: str, device: str | torch.device) -> PreTrainedModel:
    """A classifier as it was saved, float32, on `device`, in evaluation mode.

    Args:
        kind: its `AutoModelFor…`.
        flag: what errors call the folder or Hub id `source`.
        hint: what errors say to give.

    Raises:
        ValueError: it cannot be loaded, or weights are missing.
    """
    with explained_where_unloadable(flag, source, hint):
        model, loading = kind.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, use_safetensors=True
        )
    if missing_weights(model, loading):
        raise ValueError(f"{flag} {source} has no trained classifier on its network; train it first")
    trained: PreTrainedModel = model.to(device).eval()
    return trained


def load_to_train(
    kind: Any, source: str, hint: str, label_names: list[str], seed: int, from_scratch: bool
) -> PreTrainedModel:
    """A classifier of the classes `label_names`, float32, with a new last layer (drawn from `seed`) where its own has
    another number of classes or there is none; with `from_scratch` only its architecture, all weights drawn from
    `seed`. Arguments are those of `load_trained`.

    Raises:
        ValueError: it cannot be loaded, or lacks weights of its body.
    """
    names, flag = label_config(label_names), "--model"
    with explained_where_unloadable(flag, source, hint), torch.random.fork_rng():
        torch.manual_seed(seed)
        if from_scratch:
            model: PreTrainedModel = kind.from_config(AutoConfig.from_pretrained(source, **names))
            return model
        model, loading = kind.from_pretrained(
            source,
            **names,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            use_safetensors=True,
        )
    body = f"{model.base_model_prefix}."
    if [name for name in missing_weights(model, loading) if name.startswith(body) and "pooler" not in name]:
        raise ValueError(f"{flag} {source} lacks weights of its network; give a complete checkpoint")
    return model


def missing_weights(model: PreTrainedModel, loading: dict[str, Any]) -> list[str]:
    """Names of the parameters that a checkpoint did not have."""
    return sorted(set(loading["missing_keys"]) & {name for name, _ in model.named_parameters()})


def save_network(model: PreTrainedModel, label_names: list[str], folder: Path) -> None:
    """Write config.json, with the classes' names, and model.safetensors into `folder`."""
    model.config.update(label_config(label_names))
    model.config.architectures = [type(model).__name__]
    # Not model.save_pretrained: among several processes it writes the weights of the first one only, and here every
    # process has a model of its own.
    model.config.save_pretrained(folder)
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})


def label_config(label_names: list[str]) -> dict[str, Any]:
    """The entries of a transformers configuration that name the classes."""
    return {"id2label": dict(enumerate(label_names)), "label2id": {name: i for i, name in enumerate(label_names)}}


def class_names(model: PreTrainedModel) -> dict[int, str]:
    """The classes by the classifier's numbers."""
    return {int(number): name for number, name in (model.config.id2label or {}).items()}


def class_numbers(flag: str, model: PreTrainedModel, names: Sequence[str]) -> list[int]:
    """The classifier's number of each of `names`.

    Raises:
        ValueError: it does not know one of them.
    """
    known = {name: number for number, name in class_names(model).items()}
    for name in names:
        if name not in known:
            raise ValueError(f"{flag} has the classes {first_of(known)}, without {name!r}; give one that has it")
    return [known[name] for name in names]


def last_layer(model: PreTrainedModel) -> torch.nn.Linear:
    """The linear layer that gives the classes' logits.

    Raises:
        ValueError: the model has none.
    """
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == model.num_labels]
    if not layers:
        raise ValueError(
            f"--model {type(model).__name__} ends in no linear layer; leave the arms in feature space out of --arms"
        )
    return layers[-1]
