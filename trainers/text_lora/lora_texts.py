"""The real texts that a generator is fine-tuned on: those that its task's schema allows, and canaries among them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from clinsynth.metrics.texts.canaries import Canaries, make_canaries
from clinsynth.pipelines.structured_medical_text.schemas import check_text

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.pipelines.structured_medical_text.prompts import Task

logger = logging.getLogger("clinsynth")


@dataclass(frozen=True)
class Text:
    """A real text of a class."""

    label: str
    content: str


def fitting_texts(split: Dataset, task: Task, name: str) -> tuple[list[Text], Counter[str]]:
    """The texts that are valid under the task's schema, and how many are not, by reason.

    One that is not could never be written in generation. Those left out are logged by number and reason.

    Raises:
        ValueError: nothing is left of the split, or of a class of the train split.
    """
    names = split.features["label"].int2str(split["label"][:])
    texts, reasons = [], Counter[str]()
    for label, content in zip(names, split["text"], strict=True):
        reason = refusal(content, task)
        if reason is None:
            texts.append(Text(label, content))
        else:
            reasons[reason] += 1
    if reasons:
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        logger.warning("%d of %d %s texts are not valid under the task's schema: %s; they are left out",
                       reasons.total(), len(names), name, told)  # fmt: skip
    lost = sorted(set(names) - {text.label for text in texts}) if name == "train" or not texts else []
    if lost:
        raise ValueError(
            f"no {name} text of label {lost[0]!r} is valid under the schema of task {task.name} "
            f"({', '.join(sorted(reasons))}); widen minLength and maxLength in a copy of the task's file"
        )
    return texts, reasons


def refusal(content: str, task: Task) -> str | None:
    """Why `{"text": content}` is not valid, None where it is."""
    return check_text(json.dumps({"text": content}), task.schema)[1]


def plant(texts: list[Text], count: int, seed: int, task: Task) -> tuple[list[Text], Canaries | None]:
    """Append a canary each to `count` texts drawn at random, among those that stay valid; the list is for evaluation.

    Raises:
        ValueError: there are fewer such texts.
    """
    if not count:
        return texts, None
    canaries = make_canaries(planted=count, seed=seed)
    longest = max(canaries.planted, key=len)
    room = [row for row, text in enumerate(texts) if refusal(f"{text.content} {longest}", task) is None]
    if count > len(room):
        raise ValueError(f"--canaries {count}: only {len(room)} train texts have room for one; give at most that many")
    rows = np.random.default_rng([seed, 7]).choice(room, count, replace=False).tolist()
    planted = list(texts)
    for row, canary in zip(rows, canaries.planted, strict=True):
        planted[row] = replace(texts[row], content=f"{texts[row].content} {canary}")
    return planted, canaries
