"""The measuring judge: which quantity an item of a checklist is about, which numbers it allows, and what measures it.

The model learns nothing, but a folder of it loads as any other model does. This file is copied into every checkpoint
of a measuring judge: it imports nothing from clinsynth.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedModel

from .lesion_measures import QUANTITIES, count_lesions
from .skin_measures import SKIN_QUANTITIES, measure_skin

Measure = Callable[[np.ndarray], dict[str, int]]
ITEM = re.compile(r"(?P<quantity>[a-z_]+?)_(?:(?P<none>none)|(?P<low>\d+)_to_(?P<high>\d+))")
ONE_DISC = "one_disc"
MEASURES: dict[str, tuple[Measure, tuple[str, ...]]] = {
    "phantom-fundus": (count_lesions, QUANTITIES),
    "dermatoscopy-measured": (measure_skin, SKIN_QUANTITIES),
}
"""What is measured for the checklists of these names, and of those that begin so."""


@dataclass(frozen=True)
class CountRange:
    """An item that is met when the count of `quantity` lies in low .. high."""

    quantity: str
    low: int
    high: int

    def met_by(self, counts: dict[str, int]) -> bool:
        return self.low <= counts[self.quantity] <= self.high


def measure_of(checklist: dict[str, Any]) -> tuple[Measure, tuple[str, ...]]:
    """The function that measures what a checklist is about, and the names of its quantities.

    Raises:
        ValueError: nothing is measured for this checklist.
    """
    for name, measure in MEASURES.items():
        if checklist["name"] == name or checklist["name"].startswith(f"{name}-"):
            return measure
    raise ValueError(
        f"checklist {checklist['name']} has no measurements, only {', '.join(MEASURES)} have; its items take an eye: "
        "judge it by clip, vlm, classifier or expert"
    )


def measured_items(checklist: dict[str, Any]) -> dict[str, CountRange]:
    """Item id to what is measured for it, of every condition of a checklist.

    An id ends in the numbers that it allows: `haemorrhages_1_to_4`, `exudates_none`; there is one `one_disc`.

    Raises:
        ValueError: a checklist of another name, or an item of another.
    """
    _, quantities = measure_of(checklist)
    ids = (item["id"] for items in checklist["conditions"].values() for item in items)
    return {name: parse_item(name, quantities) for name in ids}


def parse_item(name: str, quantities: tuple[str, ...] = QUANTITIES) -> CountRange:
    """`haemorrhages_1_to_4` as its quantity and range."""
    if name == ONE_DISC:
        return CountRange("discs", 1, 1)
    found = ITEM.fullmatch(name)
    if not found or found["quantity"] not in quantities:
        raise ValueError(
            f"item {name} cannot be measured; call it by what it counts and how many: {', '.join(quantities)}, and "
            "_none or _1_to_4"
        )
    low, high = (0, 0) if found["none"] else (int(found["low"]), int(found["high"]))
    return CountRange(found["quantity"], low, high)


class MeasuringConfig(PretrainedConfig):
    """What is measured: `checklist_name`, the name of a checklist whose items are counts."""

    model_type = "checklist-measure"

    def __init__(self, checklist_name: str = "phantom-fundus", **kwargs: Any):
        super().__init__(**kwargs)
        self.checklist_name = checklist_name


class MeasuringModel(PreTrainedModel):
    """Measures uint8 images (side, side) or (side, side, 3)."""

    config_class = MeasuringConfig
    main_input_name = "images"

    def __init__(self, config: MeasuringConfig):
        super().__init__(config)
        self.measure, _ = measure_of({"name": config.checklist_name})
        # unused: transformers cannot tell the device of a model without a parameter
        self.place = torch.nn.Parameter(torch.zeros(1), requires_grad=False)
        self.post_init()

    def forward(self, images: list[np.ndarray]) -> list[dict[str, int]]:
        """The counts, or other quantities, of each image."""
        return [self.measure(image) for image in images]
