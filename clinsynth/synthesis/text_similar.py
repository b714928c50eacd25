"""Texts that say the same in other words: near-duplicates by the cosine similarity of sentence embeddings.

At 0.9 with all-MiniLM-L6-v2, of 60 texts of 15 to 80 words from MTS-Dialog and 60 from CounselChat it finds 77 % after
one word in ten is replaced, 75 % without their last quarter and 23 % after one word in five is replaced; no two of the
different real texts are near-duplicates (at 0.95 it finds 43, 38 and 3 %; at 0.85 two real ones are).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Embed = Callable[[str], np.ndarray]
"""From a text to its embedding (d,) of unit length."""


class SimilarTexts:
    """A growing set of texts that tells whether another is close to one of them.

    Args:
        embed: see above.
        threshold: least cosine similarity of a near-duplicate, in (0, 1].
    """

    def __init__(self, embed: Embed, threshold: float):
        self.embed, self.threshold, self.count = embed, threshold, 0
        self.rows: np.ndarray = np.zeros((0, 0), dtype=np.float32)

    def __contains__(self, text: str) -> bool:
        return self.count > 0 and bool((self.rows[: self.count] @ self.embed(text)).max() >= self.threshold)

    def add(self, text: str) -> None:
        """Remember `text`."""
        own = self.embed(text)
        if self.count == len(self.rows):
            more: np.ndarray = np.zeros((max(64, self.count), len(own)), dtype=np.float32)
            self.rows = np.concatenate([self.rows.reshape(-1, len(own)), more])
        self.rows[self.count] = own
        self.count += 1


def load_embed(source: str) -> Embed:
    """The embeddings of the encoder `source`, as `clinsynth evaluate text --encoder` takes it.

    Raises:
        ValueError: it cannot be loaded.
    """
    from clinsynth.models.text_encoders import load_text_encoder, pack_texts

    try:
        encoder = load_text_encoder(source)
    except ValueError as error:
        raise ValueError(str(error).replace("--encoder", "--near_duplicate_encoder")) from error

    @lru_cache(maxsize=2)  # a text that is looked up is often added next
    def embed(text: str) -> np.ndarray:
        return encoder(pack_texts([text]))[0].astype(np.float32)

    return embed
