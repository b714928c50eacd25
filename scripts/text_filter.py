"""Which texts are drawn anew: near-duplicates of a kept one, and near copies of real ones."""

from collections.abc import Sequence

from clinsynth.data.text_duplicates import NearDuplicates

NEAR_DUPLICATE, TRAIN_COPY = "near duplicate", "near copy of a train text"


class SeenTexts:
    """The texts kept so far, beside real ones.

    Args:
        threshold: least likeness of a near-duplicate, 0 for no filter.
        train: real texts whose near copies are rejected.
    """

    def __init__(self, threshold: float, train: Sequence[str] = ()):
        self.threshold = threshold
        self.clear()
        self.real = NearDuplicates(threshold) if train else None
        for text in train:
            self.real.add(text)  # type: ignore[union-attr]

    def clear(self) -> None:
        """Forget the kept texts, but not the real ones."""
        self.kept = NearDuplicates(self.threshold) if self.threshold else None

    def add(self, text: str) -> None:
        """Keep `text`."""
        if self.kept is not None:
            self.kept.add(text)

    def reason(self, text: str) -> str | None:
        """Why `text` is rejected, None where it is not."""
        if self.real is not None and text in self.real:
            return TRAIN_COPY
        return NEAR_DUPLICATE if self.kept is not None and text in self.kept else None
