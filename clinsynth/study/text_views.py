"""The three sets of an evaluation of texts, as its measures take them: embeddings, words, texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clinsynth.metrics.records import MIN_ROWS, Features
from clinsynth.metrics.texts.model_based import TokenView, draw_rows
from clinsynth.metrics.texts.records import Sides
from clinsynth.metrics.texts.text_perplexity import MOST_TEXTS
from clinsynth.metrics.texts.text_words import TextSet, as_rows, word_rows
from clinsynth.models.text_encoders import TextEncoder, TextModel, embed_all, embed_texts


@dataclass(frozen=True)
class Views:
    """Features of "synthetic", "train" and "test" as the measures take them: embeddings, lists of words, texts."""

    embeddings: dict[str, Features]
    words: dict[str, Features]
    texts: dict[str, Features]

    def tokens(self, name: str, encoder: TextEncoder) -> TokenView:
        """The set `name` as BERTScore takes it."""
        return TokenView(self.texts[name], encoder, name)

    def sides(self, name: str, label_names: list[str]) -> Sides:
        """One view of the synthetic texts beside train, the test split held out."""
        view: dict[str, Features] = getattr(self, name)
        return Sides(view["synthetic"], view["train"], view["test"], label_names)


def check_sets(sets: dict[str, TextSet]) -> None:
    """Raise a `ValueError` that names the set in which nothing can be measured."""
    for name, side in sets.items():
        if len(side) < MIN_ROWS:
            raise ValueError(f"the {name} set must hold {MIN_ROWS} texts or more, got {len(side)}; add texts")
        empty = next((row for row, words in enumerate(word_rows(side.texts)) if not words), None)
        if empty is not None:
            raise ValueError(f"text {side.ids[empty]} of the {name} set (row {empty}) holds no word; leave it out")


def view(sets: dict[str, TextSet], encoder: TextEncoder, folder: Path) -> Views:
    """All views of the three sets; embeddings are kept in `folder`."""
    views = Views({}, {}, {})
    rows = embed_all(encoder, sets, folder)
    for name, side in sets.items():
        views.embeddings[name] = Features(rows[name], side.labels)
        views.words[name] = Features(word_rows(side.texts), side.labels)
        views.texts[name] = Features(as_rows(side.texts), side.labels)
    return views


def view_losses(sets: dict[str, TextSet], model: TextModel, folder: Path, seed: int) -> dict[str, Features]:
    """The losses (n, 1) of at most 200 texts of each set, kept in `folder`."""
    losses = {}
    for name, side in sets.items():
        rows = draw_rows(len(side), MOST_TEXTS, seed)
        drawn = [side.texts[row] for row in rows]
        losses[name] = Features(embed_texts(model, drawn, folder, f"losses, {name}"), side.labels[rows])
    return losses


def describe_sets(sets: dict[str, TextSet], label_names: list[str], encoder: TextEncoder) -> dict[str, Any]:
    """Texts a class and set, mean words a text, and the share of texts that the encoder cuts."""
    counts = {
        name: dict(zip(label_names, np.bincount(side.labels, minlength=len(label_names)).tolist(), strict=True))
        for name, side in sets.items()
    }
    words = {name: float(np.mean([len(words) for words in word_rows(side.texts)])) for name, side in sets.items()}
    cut = {name: float((encoder.count_tokens(side.texts) > encoder.most_tokens).mean()) for name, side in sets.items()}
    return {"label_names": label_names, "counts": counts, "words_a_text": words, "cut_by_encoder": cut}
