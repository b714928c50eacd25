"""What goes into a text classifier and comes out: loaded and saved models, logits of texts, their training."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import torch
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
from clinsynth.models.classifiers import (
    FitResult,
    FitSettings,
    Read,
    classification_loss,
    fit_classifier,
    known_targets,
    load_to_train,
    load_trained,
    save_network,
)
from clinsynth.models.weights import explained_where_unloadable

MOST_TOKENS = 512
READ_AT_ONCE = 32
TRAINED_AT_ONCE = 4  # on a CPU, where texts of like length together spare more padding than small batches cost
WINDOWS = "most_windows"  # what a saved classifier's config.json calls them
WANTED = "the folder or Hub id of a transformers model that classifies texts, with its tokenizer"


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


def load_text_classifier(flag: str, source: str, device: str | torch.device = "cpu") -> tuple[PreTrainedModel, Tokens]:
    """A trained classifier, float32, on `device`, and its tokenizer, which reads long texts in as many windows as the
    classifier was trained with, each of what it can read or of 512 tokens.

    Args:
        flag: what errors call the folder or Hub id `source`.

    Raises:
        ValueError: it cannot be loaded, or has no trained last layer.
    """
    hint = "give a folder that `clinsynth train text-classifier` saved, or another with all its files"
    tokenizer, most = load_tokenizer(flag, source, hint)
    model = load_trained(AutoModelForSequenceClassification, flag, source, hint, device)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, Tokens(tokenizer, min(most, MOST_TOKENS), getattr(model.config, WINDOWS, 1))


def load_text_classifier_to_train(
    source: str, label_names: list[str], tokens: Tokens, seed: int, from_scratch: bool = False
) -> PreTrainedModel:
    """Any `AutoModelForSequenceClassification` by folder or Hub id, as `load_to_train` has it."""
    kind = AutoModelForSequenceClassification
    model = load_to_train(kind, source, f"give small-bert, or {WANTED}", label_names, seed, from_scratch)
    model.config.pad_token_id = tokens.tokenizer.pad_token_id
    return model


def save_text_classifier(model: PreTrainedModel, label_names: list[str], tokens: Tokens, folder: Path) -> None:
    """Write model and tokenizer, so that `transformers.pipeline("text-classification", folder)` takes them; it reads
    the first window of a text alone, `load_text_classifier` all."""
    model.config.update({WINDOWS: tokens.most_windows})
    save_network(model, label_names, folder)
    if tokens.tokenizer.is_fast:  # else the file tells whether the last text was cut
        tokens.tokenizer.backend_tokenizer.no_truncation()
    tokens.tokenizer.save_pretrained(folder)


def text_outputs(model: PreTrainedModel, tokens: Tokens, texts: Collection[str], read: Read) -> np.ndarray:
    """What `read` makes of the logits of each batch, float32 (n, …) in the order of `texts`, mean of a text's windows;
    in evaluation mode and without gradients, windows of like length together."""
    windows, owners = tokens.windows(texts)
    order = np.argsort([len(row) for row in windows], kind="stable")
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(order), READ_AT_ONCE):
            inputs = tokens.padded([windows[row] for row in order[start : start + READ_AT_ONCE]], model.device)
            parts.append(read(model(**inputs).logits).float().cpu().numpy())
    rows = np.concatenate(parts)[np.argsort(order)]
    if len(windows) == len(texts):
        return rows
    starts = np.searchsorted(owners, np.arange(len(texts)))
    means: np.ndarray = np.add.reduceat(rows, starts) / np.bincount(owners)[:, None].astype(np.float32)
    return means


def batch_logits(model: PreTrainedModel, tokens: Tokens, texts: Collection[str]) -> torch.Tensor:
    """Logits (n, classes) of a batch in training, of a long text the mean of its windows'; on a CPU in parts of like
    length, which changes no text's logits."""
    windows, owners = tokens.windows(texts)
    order = np.argsort([len(row) for row in windows], kind="stable")
    size = TRAINED_AT_ONCE if model.device.type == "cpu" else len(order)
    parts = [
        model(**tokens.padded([windows[row] for row in order[start : start + size]], model.device)).logits
        for start in range(0, len(order), size)
    ]
    logits = torch.cat(parts)
    sums = logits.new_zeros((len(texts), logits.shape[1]))
    sums = sums.index_add(0, torch.from_numpy(owners[order]).to(model.device), logits)
    return sums / torch.from_numpy(np.bincount(owners)).to(sums)[:, None]


def fit_text_classifier(
    model: PreTrainedModel, tokens: Tokens, train: TextArrays, validation: TextArrays, settings: FitSettings
) -> FitResult:
    """Train `model` in place on cross-entropy; see `fit_classifier`."""
    targets = known_targets(train, settings, model.device)

    def loss_of(rows: np.ndarray, weight: torch.Tensor | None) -> torch.Tensor:
        return classification_loss(batch_logits(model, tokens, train.texts[rows]), targets[rows], weight)

    def predicted() -> np.ndarray:
        return text_outputs(model, tokens, validation.texts, lambda logits: logits)

    return fit_classifier(model, train, validation, loss_of, predicted, settings)


SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
VOCABULARY = 4000


class Tokens:
    """A tokenizer that keeps what it has read, and cuts long texts into windows.

    Args:
        tokenizer: of the model to train; it is told `max_length`, so that a saved classifier cuts there too.
        max_length: tokens of a window at most, special ones included.
        most_windows: of a text, at equal distances over it; what is longer than all of them together is cut there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, most_windows: int = 1):
        self.tokenizer, self.max_length, self.most_windows = tokenizer, max_length, most_windows
        tokenizer.model_max_length = max_length
        self.known: dict[str, list[torch.Tensor]] = {}
        self.long: set[str] = set()

    def windows(self, texts: Collection[str]) -> tuple[list[torch.Tensor], np.ndarray]:
        """The token numbers of all windows, int64 (length,), text after text, and for each the number of its text."""
        self.read(texts)
        windows = [window for text in texts for window in self.known[text]]
        return windows, np.repeat(np.arange(len(texts)), [len(self.known[text]) for text in texts])

    def read(self, texts: Collection[str]) -> None:
        """Cut those of the texts that are new."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        whole = self.tokenizer(new, truncation=False, verbose=False)["input_ids"] if new else []
        for text, numbers in zip(new, whole, strict=True):
            own = [numbers] if len(numbers) <= self.max_length else self.cut(text, numbers)
            self.known[text] = [torch.tensor(window) for window in own]

    def cut(self, text: str, whole: list[int]) -> list[list[int]]:
        """The windows of a text of the tokens `whole`, each between the special tokens that stand around all of it."""
        inner = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        before = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
        after = len(whole) - before - len(inner)
        size = self.max_length - before - after
        count = min(self.most_windows, -(-len(inner) // size))
        if len(inner) > self.most_windows * size:
            self.long.add(text)
        starts = np.linspace(0, min(len(inner), count * size) - size, count).round().astype(int)
        ending = whole[len(whole) - after :]
        return [[*whole[:before], *inner[start : start + size], *ending] for start in starts]

    def count_cut(self, texts: Collection[str]) -> int:
        """How many of the texts are longer than their windows together."""
        self.read(texts)
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


def load_tokens(source: str, max_length: int, most_windows: int) -> Tokens:
    """The tokenizer of a transformers model that is to be trained on windows of at most `max_length` tokens.

    Raises:
        ValueError: it is not there, cannot pad, or the model takes fewer tokens.
    """
    tokenizer, most = load_tokenizer("--model", source, f"give small-bert, or {WANTED}")
    if max_length > most:
        raise ValueError(f"--max_length {max_length} is more than --model {source} takes; give at most {most}")
    return Tokens(tokenizer, max_length, most_windows)


def load_tokenizer(flag: str, source: str, hint: str) -> tuple[PreTrainedTokenizerBase, int]:
    """The tokenizer of a transformers model, and how many tokens the model takes."""
    with explained_where_unloadable(flag, source, hint):
        tokenizer = AutoTokenizer.from_pretrained(source)
        config = AutoConfig.from_pretrained(source)
    positions = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    if "roberta" in config.model_type:  # which counts its positions from the padding token's number on
        positions -= config.pad_token_id + 1
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(f"{flag} {source}: its tokenizer has no padding token; give a model that has one")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, min(tokenizer.model_max_length, positions)
