"""ChecklistJudgePipeline: answers the yes/no items of an expert checklist for pictures.

    judge = pipeline("checklist-judge", model="folder or id", trust_remote_code=True)
    judge({"image": picture, "condition": "grade 2"})
    # {"condition": "grade 2", "scores": {"one_disc": 1, …}, "share": 0.8, "reasons": {"one_disc": "discs: 1", …}}

Judges behind the one call, by the kind of model:
- `MeasuringModel` counts what the items name;
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

from .measured_items import measured_items

TASK = "checklist-judge"
CHECKLIST_FILE = "checklist.json"
CLASS_ITEM = "condition"
MEASURING = "checklist-measure"
AUTO_CLASSES = ["AutoModelForImageClassification", "AutoModel"]  # tried in this order

Answer = dict[str, Any]


class ChecklistJudgePipeline(Pipeline):
    """A transformers pipeline from pictures and the conditions they should show to answers.

    Args:
        model: a `MeasuringModel`, or an image classifier with the checklist's conditions as its classes.
        checklist: name, version and conditions (condition to items, each with an id), as a dict; default: the model
            folder's checklist.json.
        image_processor: a classifier's.
        kwargs: transformers' own, such as `device`.

    Raises:
        ValueError: there is no checklist, or the model cannot judge by it.
    """

    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = None  # type: ignore[assignment]  # where there is one
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]

    def __init__(self, model: Any, checklist: dict[str, Any] | None = None, **kwargs: Any):
        kwargs.pop("task", None)
        super().__init__(model=model, task=TASK, **kwargs)
        self.checklist = checklist if checklist is not None else read_checklist(model)
        self.measures = model.config.model_type == MEASURING
        if self.measures:
            self.items = measured_items(self.checklist)
        else:
            self.classes = check_classes(model.config.id2label, self.checklist)

    @property
    def kind(self) -> str:
        """`"measure"` or `"classifier"`."""
        return "measure" if self.measures else "classifier"

    def __call__(self, inputs: dict[str, Any] | list[dict[str, Any]], batch_size: int = 64) -> Any:  # type: ignore[override]
        """Judge pictures.

        Args:
            inputs: `image` (PIL, grey or RGB) and `condition` (one of the checklist's), or a list of such.
            batch_size: pictures judged together; the answers do not depend on it.

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
        unknown = sorted(set(conditions) - set(self.checklist["conditions"]))
        if unknown:
            raise ValueError(
                f"condition {unknown[0]!r} is not in checklist {self.checklist['name']}; it has "
                f"{', '.join(self.checklist['conditions'])}"
            )
        pictures = [row["image"] for row in rows]
        if self.measures:
            return {"conditions": conditions, "pictures": [np.asarray(picture) for picture in pictures]}
        mode = "L" if getattr(self.model.config, "num_channels", 3) == 1 else "RGB"
        return {"conditions": conditions, "pixel_values": self.pixels(pictures, mode)}

    def pixels(self, pictures: list[Image.Image], mode: str) -> torch.Tensor:
        """A classifier's inputs, float (n, channels, side, side)."""
        arrays = [np.asarray(picture.convert(mode)) for picture in pictures]
        arrays = [array[:, :, None] if array.ndim == 2 else array for array in arrays]
        assert self.image_processor is not None
        return self.image_processor(arrays, return_tensors="pt", input_data_format="channels_last")["pixel_values"]

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        if self.measures:
            return {"conditions": inputs["conditions"], "counts": self.model(inputs["pictures"])}
        logits = self.model(inputs["pixel_values"]).logits
        return {"conditions": inputs["conditions"], "probabilities": logits.float().softmax(-1)}

    def postprocess(self, outputs: dict[str, Any]) -> list[Answer]:  # type: ignore[override]
        """An answer a picture."""
        if self.measures:
            return [self.measured(*pair) for pair in zip(outputs["conditions"], outputs["counts"], strict=True)]
        rows = outputs["probabilities"].tolist()
        return [self.classified(*pair) for pair in zip(outputs["conditions"], rows, strict=True)]

    def measured(self, condition: str, counts: dict[str, int]) -> Answer:
        """The items of `condition` by the counts of one picture."""
        items = [item["id"] for item in self.checklist["conditions"][condition]]
        scores = {item: int(self.items[item].met_by(counts)) for item in items}
        quantities = {item: self.items[item].quantity for item in items}
        reasons = {item: f"{quantity}: {counts[quantity]}" for item, quantity in quantities.items()}
        share = sum(scores.values()) / len(scores)
        return {"condition": condition, "scores": scores, "share": share, "reasons": reasons}

    def classified(self, condition: str, probabilities: list[float]) -> Answer:
        """Whether the class of one picture is `condition`."""
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
        if self.measures:
            type(self.model.config).register_for_auto_class()
            type(self.model).register_for_auto_class("AutoModel")
        name = f"{Path(__file__).stem}.{type(self).__name__}"
        self.model.config.custom_pipelines = {TASK: {"impl": name, "pt": AUTO_CLASSES}}
        super().save_pretrained(save_directory, **kwargs)
        custom_object_save(self, save_directory)
        (Path(save_directory) / CHECKLIST_FILE).write_text(json.dumps(self.checklist, indent=1) + "\n")


def read_checklist(model: Any) -> dict[str, Any]:
    """checklist.json of the folder or repository that `model` came from."""
    from transformers.utils import cached_file

    path = cached_file(model.name_or_path, CHECKLIST_FILE, _raise_exceptions_for_missing_entries=False)
    if path is None:
        raise ValueError(f"{model.name_or_path!r} comes without {CHECKLIST_FILE}; give checklist=, a checklist's dict")
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def check_classes(id2label: dict[int, str], checklist: dict[str, Any]) -> list[str]:
    """A classifier's classes in order, among which all of the checklist's conditions must be."""
    classes = [id2label[number] for number in sorted(id2label)]
    missing = [condition for condition in checklist["conditions"] if condition not in classes]
    if missing:
        raise ValueError(
            f"the classifier has the classes {', '.join(classes)}, without {missing[0]!r} of checklist "
            f"{checklist['name']}; give one that was trained on the checklist's conditions"
        )
    return classes
