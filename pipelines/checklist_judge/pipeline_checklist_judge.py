"""ChecklistJudgePipeline: answers the yes/no items of an expert checklist for images.

    judge = pipeline("checklist-judge", model="folder or id", trust_remote_code=True)
    judge({"image": image, "condition": "grade 2"})
    # {"condition": "grade 2", "scores": {"one_disc": 1, …}, "share": 0.8, "reasons": {"one_disc": "discs: 1", …}}

Judges behind the one call, by the kind of model:
- `MeasuringModel` counts what the items name;
- an image-text model (CLIP, SigLIP) says which is nearer to the image, an item's statement or its negation;
- an image classifier answers the one item `condition`: is this the class that it sees?

This file is copied, with those it imports, into every checkpoint, and imports nothing from clinsynth.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Pipeline
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import cached_file

from .measuring_model import measured_items

TASK = "checklist-judge"
CHECKLIST_FILE = "checklist.json"
CLASS_ITEM = "condition"
MEASURING = "checklist-measure"
AUTO_CLASSES = {
    "measure": ["AutoModel"],
    "clip": ["AutoModel"],  # as an image classifier it would be loaded without its text part
    "classifier": ["AutoModelForImageClassification"],
}
NEARER = 0.5

Answer = dict[str, Any]


class ChecklistJudgePipeline(Pipeline):
    """A transformers pipeline from images and the conditions they should show to answers.

    Args:
        model: a `MeasuringModel`, a model with `logits_per_image` such as `CLIPModel`, or an image classifier with the
            checklist's conditions as its classes.
        checklist: name, version and conditions (condition to items, each with an id), as a dict; default: the model
            folder's checklist.json.
        image_processor, tokenizer: the model's; a classifier has no tokenizer.
        kwargs: transformers' own, such as `device`.

    Attributes:
        kind: `"measure"`, `"clip"` or `"classifier"`.

    Raises:
        ValueError: there is no checklist, or the model cannot judge by it.
    """

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = None  # type: ignore[assignment]  # where there is one
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = None  # type: ignore[assignment]

    def __init__(self, model: Any, checklist: dict[str, Any] | None = None, **kwargs: Any):
        kwargs.pop("task", None)
        super().__init__(model=model, task=TASK, **kwargs)
        self.checklist = checklist if checklist is not None else read_checklist(model)
        self.kind = kind_of(model)
        if self.kind == "measure":
            self.items = measured_items(self.checklist)
        elif self.kind == "clip":
            self.context = context_of(self.tokenizer, model)
            check_lengths(self.tokenizer, self.context, self.checklist)
        else:
            self.classes = check_classes(model.config.id2label, self.checklist)

    def __call__(self, inputs: dict[str, Any] | list[dict[str, Any]], batch_size: int = 64) -> Any:  # type: ignore[override]
        """Judge images.

        Args:
            inputs: `image` (PIL, grey or RGB) and `condition` (one of the checklist's), or a list of such.
            batch_size: images judged together; the answers do not depend on it.

        Returns:
            For each input `condition`, `scores` (item id to 0 or 1), `share` in [0, 1] (of items met; of a classifier
            the condition's probability) and `reasons` (item id to a few words).

        Raises:
            ValueError: an unknown condition, or a batch size below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        rows = [inputs] if isinstance(inputs, dict) else inputs
        batches = [rows[first : first + batch_size] for first in range(0, len(rows), batch_size)]
        answers = [answer for batch in super().__call__(batches, batch_size=1) for answer in batch] if batches else []
        return answers[0] if isinstance(inputs, dict) else answers

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, {}, {}

    def preprocess(self, rows: list[dict[str, Any]]) -> dict[str, Any]:  # type: ignore[override]
        """What the model takes of a batch."""
        conditions = [row["condition"] for row in rows]
        check_conditions(conditions, self.checklist)
        images = [row["image"] for row in rows]
        if self.kind == "measure":
            return {"conditions": conditions, "images": [np.asarray(image) for image in images]}
        mode = "L" if getattr(self.model.config, "num_channels", 3) == 1 else "RGB"
        inputs = {"conditions": conditions, "pixels": self.pixels(images, mode)}
        return inputs if self.kind == "classifier" else {**inputs, **self.texts(conditions)}

    def pixels(self, images: list[Image.Image], mode: str) -> dict[str, torch.Tensor]:
        """What a network takes of images: `pixel_values`, mostly float (n, channels, side, side)."""
        arrays = [np.asarray(image.convert(mode)) for image in images]
        arrays = [array[:, :, None] if array.ndim == 2 else array for array in arrays]
        assert self.image_processor is not None
        return dict(self.image_processor(arrays, return_tensors="pt", input_data_format="channels_last"))

    def texts(self, conditions: list[str]) -> dict[str, Any]:
        """The statements of a batch, each once: `tokens` for the network, and `statements` themselves."""
        pairs = [pair for name in conditions for pair in statements_of(self.checklist, name).values()]
        statements = list(dict.fromkeys(text for pair in pairs for text in pair))
        assert self.tokenizer is not None
        # SigLIP has only seen texts that were padded to one length
        form: dict[str, Any] = {"padding": True}
        if "siglip" in self.model.config.model_type:
            form = {"padding": "max_length", "max_length": self.context}
        tokens = self.tokenizer(statements, return_tensors="pt", **form)
        return {"tokens": dict(tokens), "statements": statements}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        conditions = inputs["conditions"]
        if self.kind == "measure":
            return {"conditions": conditions, "counts": self.model(inputs["images"])}
        if self.kind == "clip":
            likeness = self.model(**inputs["pixels"], **inputs["tokens"]).logits_per_image
            return {"conditions": conditions, "statements": inputs["statements"], "likeness": likeness.float()}
        return {"conditions": conditions, "probabilities": self.model(**inputs["pixels"]).logits.float().softmax(-1)}

    def postprocess(self, outputs: dict[str, Any]) -> list[Answer]:  # type: ignore[override]
        """An answer an image."""
        conditions = outputs["conditions"]
        if self.kind == "measure":
            return [self.measured(*pair) for pair in zip(conditions, outputs["counts"], strict=True)]
        if self.kind == "clip":
            rows = [dict(zip(outputs["statements"], row, strict=True)) for row in outputs["likeness"]]
            return [self.compared(*pair) for pair in zip(conditions, rows, strict=True)]
        chances = outputs["probabilities"].tolist()
        return [self.classified(*pair) for pair in zip(conditions, chances, strict=True)]

    def measured(self, condition: str, counts: dict[str, int]) -> Answer:
        """The items of `condition` by the counts of one image."""
        items = {item["id"]: self.items[item["id"]] for item in self.checklist["conditions"][condition]}
        scores = {name: int(item.met_by(counts)) for name, item in items.items()}
        reasons = {name: f"{item.quantity}: {counts[item.quantity]}" for name, item in items.items()}
        return answer_of(condition, scores, reasons)

    def compared(self, condition: str, likeness: dict[str, torch.Tensor]) -> Answer:
        """The items of `condition` by the likeness of one image to statements: softmax over the two of an item."""
        chances = {
            item: float(torch.stack([likeness[text] for text in pair]).softmax(0)[0])
            for item, pair in statements_of(self.checklist, condition).items()
        }
        scores = {item: int(chance > NEARER) for item, chance in chances.items()}
        return answer_of(condition, scores, {k: f"statement against negation {c:.2f}" for k, c in chances.items()})

    def classified(self, condition: str, probabilities: list[float]) -> Answer:
        """Whether the class of one image is `condition`."""
        seen = int(np.argmax(probabilities))
        reason = f"{self.classes[seen]} {probabilities[seen]:.2f}"
        return {
            "condition": condition,
            "scores": {CLASS_ITEM: int(self.classes[seen] == condition)},
            "share": probabilities[self.classes.index(condition)],
            "reasons": {CLASS_ITEM: reason},
        }

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Save a folder that stock transformers loads: model, checklist.json and this code."""
        if self.kind == "measure":
            type(self.model.config).register_for_auto_class()
            type(self.model).register_for_auto_class("AutoModel")
        super().save_pretrained(save_directory, **kwargs)
        # transformers has written the classes of the task, of which the first would be tried on every kind of model
        name = f"{Path(__file__).stem}.{type(self).__name__}"
        self.model.config.custom_pipelines = {TASK: {"impl": name, "pt": AUTO_CLASSES[self.kind]}}
        self.model.config.save_pretrained(save_directory)
        custom_object_save(self, save_directory)
        (Path(save_directory) / CHECKLIST_FILE).write_text(json.dumps(self.checklist, indent=1) + "\n")


def answer_of(condition: str, scores: dict[str, int], reasons: dict[str, str]) -> Answer:
    """An answer whose share is that of the items met."""
    share = sum(scores.values()) / len(scores)
    return {"condition": condition, "scores": scores, "share": share, "reasons": reasons}


def kind_of(model: Any) -> str:
    """How a model judges."""
    if model.config.model_type == MEASURING:
        return "measure"
    return "clip" if hasattr(model, "get_text_features") else "classifier"


def check_conditions(conditions: list[str], checklist: dict[str, Any]) -> None:
    """Raise a `ValueError` for a condition that is not in the checklist."""
    unknown = sorted(set(conditions) - set(checklist["conditions"]))
    if unknown:
        raise ValueError(
            f"condition {unknown[0]!r} is not in checklist {checklist['name']}; it has "
            f"{', '.join(checklist['conditions'])}"
        )


def read_checklist(model: Any) -> dict[str, Any]:
    """checklist.json of the folder or repository that `model` came from."""
    source = model.name_or_path
    path = cached_file(source, CHECKLIST_FILE, _raise_exceptions_for_missing_entries=False) if source else None
    if path is None:
        raise ValueError(f"{source!r} comes without {CHECKLIST_FILE}; give checklist=, a checklist's dict")
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def check_classes(id2label: dict[int, str], checklist: dict[str, Any]) -> list[str]:
    """A classifier's classes in order, among which all of the checklist's conditions must be."""
    classes = [id2label[number] for number in sorted(id2label)]
    missing = [condition for condition in checklist["conditions"] if condition not in classes]
    if missing:
        more = f", … ({len(classes):,} in all)" if len(classes) > 40 else ""
        raise ValueError(
            f"the classifier has the classes {', '.join(classes[:40])}{more}, without {missing[0]!r} of checklist "
            f"{checklist['name']}; give one that was trained on the checklist's conditions"
        )
    return classes


def statements_of(checklist: dict[str, Any], condition: str) -> dict[str, tuple[str, str]]:
    """Item id to what is so where the item is met, and what is so where it is not.

    An item may have both, `statement` and `negation`. Without a negation it is "It is not so that" before the
    statement; without a statement the two are the modality and the question, answered by yes and by no.
    """
    return {item["id"]: pair_of(item, checklist["modality"]) for item in checklist["conditions"][condition]}


def pair_of(item: dict[str, Any], modality: str) -> tuple[str, str]:
    """`statements_of` for one item."""
    statement = item.get("statement")
    if statement:
        return statement, item.get("negation") or f"It is not so that: {statement}"
    return f"{modality}. {item['question']} Yes.", f"{modality}. {item['question']} No."


def context_of(tokenizer: Any, model: Any) -> int:
    """Tokens that the text part of an image-text model reads."""
    if tokenizer is None:
        raise ValueError("an image-text model needs its tokenizer, to read statements; give tokenizer=")
    return int(min(tokenizer.model_max_length, model.config.get_text_config().max_position_embeddings))


def check_lengths(tokenizer: Any, context: int, checklist: dict[str, Any]) -> None:
    """Raise a `ValueError` for a statement of which the model would not read the end."""
    for condition in checklist["conditions"]:
        for item, pair in statements_of(checklist, condition).items():
            longest = max(len(tokenizer(text).input_ids) for text in pair)
            if longest > context:
                raise ValueError(
                    f"condition {condition!r}, item {item} has a statement of {longest} tokens, but the model reads "
                    f"{context}; give the item a shorter statement and negation in the checklist"
                )
