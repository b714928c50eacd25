"""The reward model of --reward model: a small network that predicts the judge's score of an image of a class.

reward_model/   model.safetensors, and reward.json with its error on prompts that it was not fitted on

Images that the judge scored alike by luck get what images like them get: the weights follow the score's regularities
and not its noise (Lee et al. 2023, "Aligning text-to-image models using human feedback").
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_model, save_model

from clinsynth.models.classifiers import FitSettings, fit
from clinsynth.models.image_classifiers import build_small_resnet, in_batches, model_inputs
from clinsynth.run_folder import complete_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EPOCHS = 20
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
HELD_OUT_EVERY = 5  # every fifth prompt is held out


def predicted_shares(
    images: np.ndarray, labels: np.ndarray, shares: np.ndarray, prompts: np.ndarray, folder: Path, seed: int
) -> np.ndarray:
    """What a reward model, fitted on four fifths of the prompts, predicts for all images: float32 (n,) in [0, 1].

    Args:
        images: uint8 (n, channels, side, side).
        labels: int64 (n,).
        shares: (n,), the judge's scores in [0, 1].
        prompts: int64 (n,); images of one prompt are held out together.
        folder: where the model is kept, and found again when the same command is started anew.

    Raises:
        ValueError: on the prompts held out it predicts no better than the mean score of the class.
    """
    network = build_small_resnet(int(labels.max()) + 1, images.shape[1], seed=seed)  # an output a class
    if not (folder / "reward.json").exists():
        held_out = held_out_rows(prompts)
        fit_shares(network, images[~held_out], labels[~held_out], shares[~held_out], seed)
        facts = errors(predict_shares(network, images, labels), labels, shares, held_out)
        with complete_folder(folder) as aside:
            save_model(network, str(aside / "model.safetensors"), metadata={"format": "pt"})
            (aside / "reward.json").write_text(json.dumps(facts, indent=1) + "\n")
    facts = json.loads((folder / "reward.json").read_text())
    if facts["held_out_error"] >= facts["error_of_class_means"]:
        raise ValueError(
            f"the reward model learned nothing: on prompts held out its root mean square error is "
            f"{facts['held_out_error']:.3f}, that of the class means {facts['error_of_class_means']:.3f}; give more "
            "--prompts or --candidates, or --reward judge for the judge's own scores"
        )
    load_model(network, folder / "model.safetensors")
    return predict_shares(network.eval(), images, labels)


def held_out_rows(prompts: np.ndarray) -> np.ndarray:
    """Which images are held out, bool (n,): those of every fifth prompt; of fewer than five, the last one's."""
    numbers = np.unique(prompts)
    chosen = numbers[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]
    return np.isin(prompts, chosen if len(chosen) else numbers[-1:])


def fit_shares(
    network: PreTrainedModel, images: np.ndarray, labels: np.ndarray, shares: np.ndarray, seed: int
) -> None:
    """Least squares between the output of an image's class, through a sigmoid, and its score."""
    targets, classes = torch.from_numpy(shares).float(), torch.from_numpy(labels)

    def loss(rows: np.ndarray) -> torch.Tensor:
        outputs = network(model_inputs(network, images[rows])).logits.sigmoid()
        return F.mse_loss(outputs.gather(1, classes[rows][:, None])[:, 0], targets[rows])

    settings = FitSettings(EPOCHS, BATCH_SIZE, LEARNING_RATE, seed, progress="reward model")
    fit(network, len(labels), loss, None, settings)


def predict_shares(network: PreTrainedModel, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted scores, float32 (n,)."""
    outputs = in_batches(network, images, lambda pixels: network(pixels).logits.sigmoid())
    return outputs[np.arange(len(labels)), labels]


def errors(predicted: np.ndarray, labels: np.ndarray, shares: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """Root mean square errors on the images held out, of the model and of the other images' class means."""
    means = np.array([class_mean(label, labels, shares, ~held_out) for label in labels])
    return {
        "pictures": len(labels),
        "held_out": int(held_out.sum()),
        "held_out_error": float(np.sqrt(np.square(predicted - shares)[held_out].mean())),
        "error_of_class_means": float(np.sqrt(np.square(means - shares)[held_out].mean())),
    }


def class_mean(label: int, labels: np.ndarray, shares: np.ndarray, rows: np.ndarray) -> float:
    """Mean score of a class among `rows`, of all where it has none there."""
    members = rows & (labels == label)
    return float(shares[members if members.any() else rows].mean())
