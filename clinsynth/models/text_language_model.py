"""A causal language model as a judge of texts: how surprising is each text to it, in nats a token?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.models.image_encoders import best_device, hash_weights
from clinsynth.models.text_encoders import TextModel, token_counter, unpack_texts

BATCH_TEXTS = 4  # a row of logits has as many numbers as the vocabulary, for each token
MOST_TOKENS = 256


def load_language_model(name_or_path: str) -> TextModel:
    """Load a causal language model by folder, Hub id or .gguf file; its one feature is a text's loss.

    Raises:
        ValueError: it is not there, is no such model, or its tokenizer has no token to begin a text with.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name_or_path)
    gguf = path.suffix == ".gguf"
    source, options = (str(path.parent), {"gguf_file": path.name}) if gguf else (name_or_path, {})
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(source, **options)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--language_model {name_or_path} cannot be loaded as a causal language model ({type(error).__name__}); "
            "give a local folder or a .gguf file, or a Hub id where the Hub can be reached, or leave the flag out"
        ) from error
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if start is None:
        raise ValueError(
            f"--language_model {name_or_path}: its tokenizer has no token to begin a text with; take another"
        )
    return build_scorer(path.name if path.exists() else name_or_path, model.to(best_device()).eval(), tokenizer, start)


def build_scorer(name: str, model: Any, tokenizer: Any, start: int) -> TextModel:
    """The judge around a network and its tokenizer; each text is put behind the token `start`.

    A text's first token counts only where it is the only one: what may begin a text is a matter of the model's chat
    format, and would weigh more in short texts.
    """
    import torch

    def losses(texts: Sequence[str]) -> np.ndarray:
        options = {"truncation": True, "max_length": MOST_TOKENS, "add_special_tokens": False}
        rows = [[start, *ids] for ids in tokenizer(list(texts), **options)["input_ids"]]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [start] * (longest - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=model.device)
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
        nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        there = mask[:, 1:].float()
        there[there.sum(1) > 1, 0] = 0
        means: np.ndarray = ((nats * there).sum(1) / there.sum(1)).double().cpu().numpy()
        return means

    return TextModel(
        name=f"{name} (causal language model)",
        dimension=1,
        fingerprint=f"{hash_weights(model)} {MOST_TOKENS} {start}",
        embed=lambda packed: losses(unpack_texts(packed))[:, None],
        note=f"texts are cut at {MOST_TOKENS} tokens",
        most_tokens=MOST_TOKENS,
        count_tokens=token_counter(tokenizer),
        batch_texts=BATCH_TEXTS,
    )
