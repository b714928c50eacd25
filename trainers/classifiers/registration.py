"""What a study says it will look at, written down before it looks: preregistration.json of its folder.

A plan names arms, seeds, metrics, rule and data before anything is trained; under `chosen` it gets the control and the
corrections, from validation, before a test label is scored. Another plan in the same folder stands beside the first
one, and the results say that it was made after test had been read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinsynth.run_folder import atomic_write, read_json
from clinsynth.trainers.classifiers.statistics import JUDGED, RULE

FILE = "preregistration.json"


def register(folder: Path, plan: dict[str, Any]) -> None:
    """Put `plan` into the folder's file unless it is the last one there.

    Raises:
        ValueError: the file is damaged.
    """
    plans, plan = read_plans(folder), json.loads(json.dumps(plan))
    if not plans or {**plans[-1], "chosen": None} != {**plan, "chosen": None}:
        plans.append({**plan, "chosen": None})
        write_plans(folder, plans)


def register_choices(folder: Path, chosen: dict[str, Any]) -> None:
    """Add what validation chose to the last plan, unless it is there."""
    plans, chosen = read_plans(folder), json.loads(json.dumps(chosen))
    if plans[-1]["chosen"] != chosen:
        plans[-1]["chosen"] = chosen
        write_plans(folder, plans)


def plan_of(arms: Sequence[str], seeds: Sequence[int], settings: dict[str, Any]) -> dict[str, Any]:
    """A plan, JSON-able; `settings` are what else the comparison depends on."""
    return {"arms": list(arms), "seeds": list(seeds), "metrics": list(JUDGED), "rule": RULE, **settings}


def changed_note(folder: Path) -> str | None:
    """What a reader must know of earlier plans whose test scores were seen; None where there is none."""
    *before, last = read_plans(folder)
    seen = [plan for plan in before if plan["chosen"] is not None]
    if not seen:
        return None
    other = [name for name in last if name != "chosen" and seen[-1].get(name) != last[name]]
    times = f"{len(seen)} time{'s' * (len(seen) > 1)}"
    return (
        f"the plan was changed after test had been read, {times}; last in {', '.join(other)}: {FILE} has every plan, "
        "and p-values know nothing of the earlier ones"
    )


def read_plans(folder: Path) -> list[dict[str, Any]]:
    plans: list[dict[str, Any]] = read_json(folder / FILE).get("plans", [])
    return plans


def write_plans(folder: Path, plans: list[dict[str, Any]]) -> None:
    atomic_write(folder / FILE, json.dumps({"plans": plans}, indent=2) + "\n")
