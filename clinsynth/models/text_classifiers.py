"""What goes into a text classifier and comes out: loaded and saved models, logits of texts, their training."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
)

from clinsynth.data.text_arrays import TextArrays
from clinsynth.models.classifier_files import label_config, save_network
from clinsynth.models.classifier_fitting import balancing_weights, fit
from clinsynth.models.classifier_result import FitResult, macro_f1
from clinsynth.models.text_tokens import Tokens

if TYPE_CHECKING:
    from clinsynth.trainers.classifiers.arm_medium import Read

READ_AT_ONCE = 32
TRAINED_AT_ONCE = 4  # on a CPU, where texts of like length together spare more padding than small batches cost


def build_small_bert(tokens: Tokens, num_labels: int, seed: int) -> BertForSequenceClassification:
    """A BERT of two layers of 128 (BERT-Tiny, Turc et al. 2019, arXiv 1908.08962), random weights by `seed` alone."""
    config = BertConfig(
        vocab_size=len(tokens.tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        max_position_embeddings=tokens.max_length,
        pad_token_id=tokens.tokenizer.pad_token_id,
    )
    config.update({"num_labels": num_labels})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)


def load_text_classifier(
    source: str, label_names: list[str], tokens: Tokens, seed: int, from_scratch: bool = False
) -> PreTrainedModel:
    """Any `AutoModelForSequenceClassification` by folder or Hub id, with a new last layer (drawn from `seed`) where
    its own has another number of classes or there is none; with `from_scratch` only its architecture, all weights
    drawn from `seed`.

    Raises:
        ValueError: it is not there, or lacks weights of its body.
    """
    names = label_config(label_names)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if from_scratch:
                model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(source, **names))
                loading: dict[str, Any] = {"missing_keys": []}
            else:
                model, loading = AutoModelForSequenceClassification.from_pretrained(
                    source, **names, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True
                )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model {source} cannot be loaded ({error}); give small-bert, or the folder or Hub id of a "
            "transformers model that classifies texts"
        ) from error
    body = f"{model.base_model_prefix}."
    if [key for key in loading["missing_keys"] if key.startswith(body) and "pooler" not in key]:
        raise ValueError(f"--model {source} lacks weights of its network; give a complete checkpoint")
    model.config.pad_token_id = tokens.tokenizer.pad_token_id
    return model


def save_text_classifier(model: PreTrainedModel, label_names: list[str], tokens: Tokens, folder: Path) -> None:
    """Write model and tokenizer, so that `transformers.pipeline("text-classification", folder)` takes them."""
    save_network(model, label_names, folder)
    if tokens.tokenizer.is_fast:  # else the file tells whether the last text was cut
        tokens.tokenizer.backend_tokenizer.no_truncation()
    tokens.tokenizer.save_pretrained(folder)


def text_outputs(model: PreTrainedModel, tokens: Tokens, texts: Collection[str], read: Read) -> np.ndarray:
    """What `read` makes of the logits of each batch, float32 (n, …) in the order of `texts`; in evaluation mode and
    without gradients, texts of like length together."""
    ids = tokens.ids(texts)
    order = np.argsort([len(row) for row in ids], kind="stable")
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(order), READ_AT_ONCE):
            inputs = tokens.padded([ids[row] for row in order[start : start + READ_AT_ONCE]], model.device)
            parts.append(read(model(**inputs).logits).float().cpu().numpy())
    return np.concatenate(parts)[np.argsort(order)]


def batch_logits(model: PreTrainedModel, tokens: Tokens, texts: Collection[str]) -> torch.Tensor:
    """Logits (n, classes) of a batch in training; on a CPU in parts of like length, which changes no text's logits."""
    ids = tokens.ids(texts)
    order = np.argsort([len(row) for row in ids], kind="stable")
    size = TRAINED_AT_ONCE if model.device.type == "cpu" else len(order)
    parts = [
        model(**tokens.padded([ids[row] for row in order[start : start + size]], model.device)).logits
        for start in range(0, len(order), size)
    ]
    return torch.cat(parts)[torch.from_numpy(np.argsort(order)).to(model.device)]


def fit_text_classifier(
    model: PreTrainedModel,
    tokens: Tokens,
    train: TextArrays,
    validation: TextArrays,
    *,
    class_weights: bool,
    **common: Any,
) -> FitResult:
    """Train `model` in place on cross-entropy; it ends with the weights of the epoch whose macro-F1 on `validation` is
    best. `common` are the keywords of `classifier_fit.fit`.

    Raises:
        ValueError: a loss that is not finite (names the step), or a class without a train text to weight.
    """
    weight = balancing_weights(train).to(model.device) if class_weights else None
    labels = torch.as_tensor(train.labels, device=model.device)

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        return F.cross_entropy(batch_logits(model, tokens, train.texts[rows]), labels[rows], weight=weight)

    def score() -> float:
        predicted = text_outputs(model, tokens, validation.texts, lambda logits: logits).argmax(1)
        return macro_f1(validation.labels, predicted, len(validation.label_names))

    return fit(model, loss_of, score, rows=len(train.labels), **common)
