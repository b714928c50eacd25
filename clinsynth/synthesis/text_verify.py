"""Does a classifier of real texts read out of a text the label that it was written for?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clinsynth.data.labels import first_of

MOST_TOKENS = 512


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

    def __init__(self, source: str, names: Sequence[str], device: Any = "cpu"):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(source)
            model, loading = AutoModelForSequenceClassification.from_pretrained(source, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"--verify_labels {source} cannot be loaded as a text classifier ({type(error).__name__}); give a "
                "folder that clinsynth train text-classifier saved, or another with config.json, tokenizer and weights"
            ) from error
        if loading["missing_keys"]:
            raise ValueError(f"--verify_labels {source} has no trained classifier on its network; train it first")
        self.model: Any = model.to(device).eval()
        self.id2label: dict[int, str] = model.config.id2label
        unknown = [name for name in names if name not in self.id2label.values()]
        if unknown:
            raise ValueError(
                f"--verify_labels {source} knows the labels {first_of(self.id2label.values())}, but not "
                f"{unknown[0]!r}, which is to be generated; give a classifier trained on the same labels"
            )
        room = getattr(model.config, "max_position_embeddings", MOST_TOKENS)
        self.most_tokens = min(self.tokenizer.model_max_length, room, MOST_TOKENS)

    def __call__(self, text: str) -> str:
        """The likeliest label of `text`, which is cut at what the classifier can read."""
        import torch

        inputs = self.tokenizer(text, truncation=True, max_length=self.most_tokens, return_tensors="pt")
        with torch.no_grad():
            scores = self.model(**inputs.to(self.model.device)).logits[0]
        return self.id2label[int(scores.argmax())]
