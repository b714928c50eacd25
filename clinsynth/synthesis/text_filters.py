"""Which texts are drawn anew: wordless ones, near-duplicates of a kept one, near copies of real ones, other labels,
and what the checks of text_checks.py find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

from clinsynth.data.duplicates import NearDuplicates
from clinsynth.metrics.texts.words import words_of
from clinsynth.models.classifiers import class_names, class_numbers
from clinsynth.models.text_classifiers import load_text_classifier, text_outputs
from clinsynth.models.text_encoders import load_text_encoder, pack_texts
from clinsynth.models.weights import hash_weights
from clinsynth.models.writers import Messages
from clinsynth.synthesis.arguments import TextFilterArguments
from clinsynth.synthesis.text_checks import TextCheck, load_checks

NO_WORD = "no word"
NEAR_DUPLICATE, TRAIN_COPY = "near duplicate", "near copy of a train text"
NOT_CONFIRMED = "label not confirmed"
NOTHING: Messages = []


def load_filter(
    args: TextFilterArguments,
    asked: list[str],
    names: list[str],
    train: Sequence[str],
    labels: Sequence[int],
    device: str | torch.device,
) -> tuple[SeenTexts, dict[str, Any]]:
    """What tells which texts are drawn anew, and what generation.json says of it.

    Args:
        asked: the labels that texts are written for, of `names`.
        train, labels: the real train texts, and the number of each one's label in `names`.

    Raises:
        ValueError: the encoder or the classifier cannot be loaded, or does not know a label.
    """
    encoder, check = args.near_duplicate_encoder, None
    if args.verify_labels:
        check = LabelCheck(args.verify_labels, asked, device)
    embed = load_embed(encoder) if encoder else None
    known = train if args.reject_copies else []
    checks = load_checks(args, names, train, labels)
    return SeenTexts(args.near_duplicate, known, embed, args.near_duplicate_cosine, check, checks), {
        "near_duplicate": args.near_duplicate,
        "near_duplicate_encoder": encoder,
        "near_duplicate_cosine": args.near_duplicate_cosine if encoder else None,
        "reject_copies": args.reject_copies,
        "verify_labels_sha256": hash_weights(check.model) if check is not None else None,
        **{name: value for one in checks for name, value in one.facts.items()},
    }


class SeenTexts:
    """The texts kept so far, beside real ones.

    Args:
        threshold: least likeness of a near-duplicate, 0 for no filter.
        train: real texts whose near copies are rejected.
        embed: embeddings by which texts may be near-duplicates, too.
        cosine: their least cosine similarity.
        read_label: a classifier's label of a text, which must be the one asked for.
        checks: of each new text, beside its label and what was asked.
    """

    def __init__(
        self,
        threshold: float,
        train: Sequence[str] = (),
        embed: Embed | None = None,
        cosine: float = 1.0,
        read_label: Callable[[str], str] | None = None,
        checks: Sequence[TextCheck] = (),
    ):
        self.makers: list[Callable[[], Any]] = [partial(NearDuplicates, threshold)] if threshold else []
        if embed is not None:
            self.makers.append(partial(SimilarTexts, embed, cosine))
        self.read_label, self.checks = read_label, checks
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

    def reason(self, text: str, label: str | None = None, messages: Messages = NOTHING) -> str | None:
        """Why `text` is rejected, None where it is not; with `label`, also by the classifier and the checks, which are
        told what was asked."""
        if not words_of(text):
            return NO_WORD
        if any(text in known for known in self.real):
            return TRAIN_COPY
        if any(text in known for known in self.kept):
            return NEAR_DUPLICATE
        if label is None:
            return None
        if self.read_label is not None and self.read_label(text) != label:
            return NOT_CONFIRMED
        return next((why for check in self.checks if (why := check(text, label, messages))), None)


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
    try:
        encoder = load_text_encoder(source)
    except ValueError as error:
        raise ValueError(str(error).replace("--encoder", "--near_duplicate_encoder")) from error

    @lru_cache(maxsize=2)  # a text that is looked up is often added next
    def embed(text: str) -> np.ndarray:
        return encoder(pack_texts([text]))[0].astype(np.float32)

    return embed


class LabelCheck:
    """A classifier's label of a text.

    Args:
        source: folder or Hub id of a transformers text classifier, as `clinsynth train text-classifier` saves it; it
            should have seen real train texts only.
        names: the labels that texts are written for.
        device: where to run it.

    Attributes:
        model: the classifier.

    Raises:
        ValueError: there is no such classifier, or it does not know one of the names; says which it knows.
    """

    def __init__(self, source: str, names: Sequence[str], device: str | torch.device = "cpu"):
        self.model, self.tokens = load_text_classifier("--verify_labels", source, device)
        class_numbers("--verify_labels", self.model, names)
        self.names = class_names(self.model)

    def __call__(self, text: str) -> str:
        """The likeliest label of `text`, which is cut at what the classifier can read."""
        (logits,) = text_outputs(self.model, self.tokens, [text], lambda found: found)
        return self.names[int(logits.argmax())]
