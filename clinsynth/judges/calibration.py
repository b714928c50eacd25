"""How far a judge can be trusted: its agreement, item by item, with images whose truth is known.

The truth is that of phantoms: lesion counts and grade. Each phantom is judged as its own grade and as another one
drawn at random, so that every item is met by some and not met by others; every fifth has no disc.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score

from clinsynth.data.phantom_fundus import GRADES, LESION_RANGES, LESIONS, NAME, draw_eye, sample_eye
from clinsynth.judges.protocol import CLASS_ITEM, Answer, Judge, Question
from clinsynth.pipelines.checklist_judge.measuring_model import parse_item
from clinsynth.run_folder import atomic_write, read_json

NO_DISC_EVERY = 5


def truth_is_known(judge: Judge) -> bool:
    """Whether there are images whose answers are known: phantoms, of which no expert has seen any."""
    return judge.checklist["name"] == NAME and judge.kind != "expert"


def calibrate_once(
    path: Path, judge: Judge, side: int, channels: int, per_grade: int, least_kappa: float, seed: int
) -> dict[str, Any]:
    """`calibrate`, kept as the file `path`; the judge is not trusted with the refused items from here on."""
    if not path.exists():
        found = calibrate(judge, side, channels, per_grade, least_kappa, seed)
        atomic_write(path, json.dumps(found, indent=1) + "\n")
    known = read_json(path)
    judge.refused = frozenset(known["refused"])
    return known


def draw_known(side: int, channels: int, per_grade: int, seed: int) -> list[dict[str, Any]]:
    """Phantoms of every grade: image, label (a grade's name) and counts, among them that of the discs."""
    rows = []
    for grade, name in enumerate(GRADES):
        for index in range(per_grade):
            generator = np.random.default_rng([seed, 77, grade, index])
            ranges = LESION_RANGES[grade]
            counts = {lesion: int(generator.integers(*ranges[lesion], endpoint=True)) for lesion in LESIONS}
            eye, discs = sample_eye(generator), int(index % NO_DISC_EVERY > 0)
            if not discs:
                eye = replace(eye, disc_radius=-1.0)  # a radius below 0 covers no pixel
            image = draw_eye(eye, counts, side, generator).convert("L" if channels == 1 else "RGB")
            rows.append({"image": image, "label": name, "counts": {**counts, "discs": discs}})
    return rows


def calibrate(judge: Judge, side: int, channels: int, per_grade: int, least_kappa: float, seed: int) -> dict[str, Any]:
    """Agreement of a judge of the checklist phantom-fundus with phantoms of a size and mode.

    Returns:
        `items`: item id to `kappa` (Cohen 1960; None where truth and judge are the same constant), `n`, `truth` and
        `judged` (share met), `bias` (judged minus truth), `by_condition` (condition to the share of right answers) and
        `usable`; `unscored`: how many questions got no scores; `refused`: the ids with a kappa below `least_kappa` and
        those that were never scored, which training must not use.

    Raises:
        ValueError: no question got scores.
    """
    rows = draw_known(side, channels, per_grade, seed)
    draw = np.random.default_rng([seed, 78])
    asked = [(row, condition) for row in rows for condition in (row["label"], another(row["label"], judge, draw))]
    answers = judge([Question(image=row["image"], condition=condition) for row, condition in asked])
    unscored = check_answered(judge, answers)
    seen: dict[str, list[tuple[str, int, float]]] = defaultdict(list)
    for (row, condition), answer in zip(asked, answers, strict=True):
        for item, score in answer["scores"].items():
            seen[item].append((row["label"], truth_of(item, condition, row), score))
    items = {item: agreement(pairs, least_kappa) for item, pairs in sorted(seen.items())}
    unseen = set().union(*judge.items().values()) - items.keys()
    return {
        "against": "drawn images of phantom-fundus",
        "resolution": side,
        "channels": channels,
        "pictures": len(rows),
        "least_kappa": least_kappa,
        "seed": seed,
        "unscored": unscored,
        "items": items,
        "refused": sorted({item for item, record in items.items() if not record["usable"]} | unseen),
    }


def check_answered(judge: Judge, answers: list[Answer]) -> int:
    """How many answers have no scores; a `ValueError` where none has any."""
    failures = [answer["failure"] for answer in answers if answer.get("failure")]
    if len(failures) == len(answers):
        raise ValueError(
            f"the judge {judge.kind} gave scores to none of {len(answers)} phantoms that it was compared with "
            f"({failures[0]}); correct it, or name another one"
        )
    return len(failures)


def another(condition: str, judge: Judge, draw: np.random.Generator) -> str:
    """A condition other than `condition`."""
    others = [name for name in judge.checklist["conditions"] if name != condition]
    return others[int(draw.integers(len(others)))]


def truth_of(item: str, condition: str, row: dict[str, Any]) -> int:
    """Whether a phantom meets an item of a condition."""
    if item == CLASS_ITEM:
        return int(row["label"] == condition)
    return int(parse_item(item).met_by(row["counts"]))


def agreement(pairs: list[tuple[str, int, float]], least_kappa: float) -> dict[str, Any]:
    """The record of one item from (grade of the phantom, truth, score)."""
    truth, judged = np.array([pair[1] for pair in pairs]), np.array([pair[2] for pair in pairs])
    same = len({*truth.tolist(), *judged.tolist()}) == 1
    kappa = None if same else float(cohen_kappa_score(truth, judged))
    by_condition: dict[str, list[bool]] = defaultdict(list)
    for condition, true, score in pairs:
        by_condition[condition].append(true == score)
    return {
        "kappa": kappa,
        "n": len(pairs),
        "truth": float(truth.mean()),
        "judged": float(judged.mean()),
        "bias": float(judged.mean() - truth.mean()),
        "by_condition": {condition: float(np.mean(right)) for condition, right in sorted(by_condition.items())},
        "usable": kappa is not None and kappa >= least_kappa,
    }


def check_usable(judge: Judge, refused: Collection[str], least_kappa: float) -> None:
    """Raise a `ValueError` where a condition has no item left."""
    for condition, items in judge.items().items():
        if items <= set(refused):
            raise ValueError(
                f"the judge agrees with the truth at a kappa of {least_kappa} or more on no item of {condition}; take "
                "larger images, another judge or a lower --least_kappa"
            )


def kappa_table(calibration: dict[str, Any]) -> str:
    """Items, kappa and bias as lines to print."""
    lines = [f"{'item':28}{'kappa':>8}{'bias':>8}"]
    for item, record in calibration["items"].items():
        kappa = "  -" if record["kappa"] is None else f"{record['kappa']:.2f}"
        lines.append(f"{item:28}{kappa:>8}{record['bias']:>+8.2f}{'' if record['usable'] else '  refused'}")
    return "\n".join(lines)
