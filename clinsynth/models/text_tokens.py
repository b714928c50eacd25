"""From texts to token numbers, each text once: tokenizers of models, and a small one made of train texts."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

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
