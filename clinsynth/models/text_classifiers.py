"""What goes into a text classifier and comes out: loaded and saved models, logits of texts, their training."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from clinsynth.data.texts import TextArrays
from clinsynth.models.classifier_fitting import FitResult, balancing_weights, fit, macro_f1
from clinsynth.models.image_classifiers import label_config, save_network

if TYPE_CHECKING:
    from clinsynth.trainers.classifiers.feature_space import Read

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


SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
VOCABULARY = 4000


class Tokens:
    """A tokenizer that keeps what it has read.

    Args:
        tokenizer: of the model to train; it is told `max_length`, so that a saved classifier cuts there too.
        max_length: tokens of a text at most, special ones included; what is longer is cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int):
        self.tokenizer, self.max_length = tokenizer, max_length
        tokenizer.model_max_length = max_length
        self.known: dict[str, torch.Tensor] = {}
        self.long: set[str] = set()

    def ids(self, texts: Collection[str]) -> list[torch.Tensor]:
        """The token numbers of each text, int64 (length,), cut at `max_length`."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        whole = self.tokenizer(new, truncation=False, verbose=False)["input_ids"] if new else []
        for text, numbers in zip(new, whole, strict=True):
            if len(numbers) > self.max_length:
                self.long.add(text)
                numbers = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
            self.known[text] = torch.tensor(numbers)
        return [self.known[text] for text in texts]

    def count_cut(self, texts: Collection[str]) -> int:
        """How many of the texts are longer than `max_length`."""
        self.ids(texts)
        return sum(text in self.long for text in texts)

    def padded(self, ids: list[torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
        """A model's inputs, each (n, longest of them)."""
        side, padding = self.tokenizer.padding_side, self.tokenizer.pad_token_id
        masks = [torch.ones_like(row) for row in ids]
        return {
            "input_ids": pad_sequence(ids, True, padding, side).to(device),
            "attention_mask": pad_sequence(masks, True, 0, side).to(device),
        }


def small_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte pairs (Sennrich et al. 2016, arXiv 1508.07909) of `texts` in lower case, at most 4,000 tokens, of pairs
    that occur twice or more; every script can be written in it. Equal texts give an equal tokenizer, which the
    library's trainer of word pieces does not promise."""
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    numbers = {name: number for number, name in enumerate(SPECIAL.values())}
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", numbers["[SEP]"]), ("[CLS]", numbers["[CLS]"]))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


def load_tokenizer(source: str, max_length: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a transformers model.

    Raises:
        ValueError: it is not there, cannot pad, or the model takes fewer than `max_length` tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--model {source} cannot be loaded ({error}); give small-bert, or the folder or Hub id of a "
            "transformers model with its tokenizer"
        ) from error
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:  # which counts its positions from the padding token's number on
        positions -= config.pad_token_id + 1
    most = min(tokenizer.model_max_length, positions)
    if max_length > most:
        raise ValueError(f"--max_length {max_length} is more than --model {source} takes; give at most {most}")
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"--model {source}: its tokenizer has no padding token; give a model that has one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
