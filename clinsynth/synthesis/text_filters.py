"""Which texts are drawn anew: wordless ones, near-duplicates of a kept one, near copies of real ones, other labels."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from clinsynth.data.text_duplicates import NearDuplicates
from clinsynth.metrics.texts.text_words import words_of
from clinsynth.synthesis.text_similar import Embed, SimilarTexts

NO_WORD = "no word"
NEAR_DUPLICATE, TRAIN_COPY = "near duplicate", "near copy of a train text"
NOT_CONFIRMED = "label not confirmed"


class SeenTexts:
    """The texts kept so far, beside real ones.

    Args:
        threshold: least likeness of a near-duplicate, 0 for no filter.
        train: real texts whose near copies are rejected.
        embed: embeddings by which texts may be near-duplicates, too.
        cosine: their least cosine similarity.
        read_label: a classifier's label of a text, which must be the one asked for.
    """

    def __init__(
        self,
        threshold: float,
        train: Sequence[str] = (),
        embed: Embed | None = None,
        cosine: float = 1.0,
        read_label: Callable[[str], str] | None = None,
    ):
        self.makers: list[Callable[[], Any]] = [partial(NearDuplicates, threshold)] if threshold else []
        if embed is not None:
            self.makers.append(partial(SimilarTexts, embed, cosine))
        self.read_label = read_label
        self.clear()
        self.real = [make() for make in self.makers if train]
        for known in self.real:
            for text in train:
                known.add(text)

    def clear(self) -> None:
        """Forget the kept texts, but not the real ones."""
        self.kept = [make() for make in self.makers]

    def add(self, text: str) -> None:
        """Keep `text`."""
        for known in self.kept:
            known.add(text)

    def reason(self, text: str, label: str | None = None) -> str | None:
        """Why `text` is rejected, None where it is not; with `label`, also whether a classifier confirms it."""
        if not words_of(text):
            return NO_WORD
        if any(text in known for known in self.real):
            return TRAIN_COPY
        if any(text in known for known in self.kept):
            return NEAR_DUPLICATE
        unconfirmed = label is not None and self.read_label is not None and self.read_label(text) != label
        return NOT_CONFIRMED if unconfirmed else None
