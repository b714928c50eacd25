"""Items that can be measured: which quantity an item of a checklist is about, and which numbers it allows.

This file is copied into every checkpoint of a measuring judge: it imports nothing from clinsynth.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

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
