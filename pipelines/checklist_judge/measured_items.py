"""Items that can be measured: which count an item of a checklist is about, and which numbers it allows.

This file is copied into every checkpoint of a measuring judge: it imports nothing from clinsynth.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .lesion_measures import QUANTITIES, count_lesions

Measure = Callable[[np.ndarray], dict[str, int]]
ITEM = re.compile(r"(?P<quantity>[a-z_]+?)_(?:(?P<none>none)|(?P<low>\d+)_to_(?P<high>\d+))")
ONE_DISC = "one_disc"


@dataclass(frozen=True)
class CountRange:
    """An item that is met when the count of `quantity` lies in low .. high."""

    quantity: str
    low: int
    high: int

    def met_by(self, counts: dict[str, int]) -> bool:
        return self.low <= counts[self.quantity] <= self.high


def measure_of(checklist: dict[str, Any]) -> Measure:
    """The function that counts what a checklist is about.

    Raises:
        ValueError: nothing is measured for this checklist.
    """
    if checklist["name"] != "phantom-fundus":
        raise ValueError(
            f"checklist {checklist['name']} has no measurements, only phantom-fundus has; take another judge"
        )
    return count_lesions


def measured_items(checklist: dict[str, Any]) -> dict[str, CountRange]:
    """Item id to what is measured for it, of every condition of a checklist of phantom-fundus.

    An id ends in the numbers that it allows: `haemorrhages_1_to_4`, `exudates_none`; there is one `one_disc`.

    Raises:
        ValueError: an item of another name.
    """
    return {item["id"]: parse_item(item["id"]) for items in checklist["conditions"].values() for item in items}


def parse_item(name: str) -> CountRange:
    """`haemorrhages_1_to_4` as its quantity and range."""
    if name == ONE_DISC:
        return CountRange("discs", 1, 1)
    found = ITEM.fullmatch(name)
    if not found or found["quantity"] not in QUANTITIES:
        raise ValueError(
            f"item {name} cannot be measured; call it by what it counts and how many: {', '.join(QUANTITIES)}, and "
            "_none or _1_to_4"
        )
    low, high = (0, 0) if found["none"] else (int(found["low"]), int(found["high"]))
    return CountRange(found["quantity"], low, high)
