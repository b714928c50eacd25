"""What a judge is: who answers the items of a checklist for images, and what follows from the answers.

A new kind of judge is a subclass of `Judge` with a `__call__`; `clinsynth.judges.judges` has its name in JUDGES, what
it needs as a model in NEEDED, and its loading in `load_judge`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CLASS_ITEM = "condition"
"""The one item of a judge that only says whether the image is of its class."""
MET = 0.5
"""An item is met where more of the raters than this say yes; other judges say 0 or 1."""


class Question(TypedDict):
    """An image, the condition that it should show, and its row number where it is known."""

    image: Image
    condition: str
    row: NotRequired[int]


class Answer(TypedDict):
    """What a judge says of one image.

    `scores`: item id to 0 or 1, or to the mean of raters. `share`: of items met, in [0, 1]; of a classifier the
    condition's probability. `reasons`: item id to a few words. `disagreement`: item id to the share of pairs of raters
    that differ. `failure`: why there are no scores; then `share` is None and the others are empty.
    """

    condition: str
    scores: dict[str, float]
    share: float | None
    reasons: dict[str, str]
    disagreement: NotRequired[dict[str, float | None]]
    failure: NotRequired[str | None]


class Judge(ABC):
    """Answers the items of a checklist.

    Attributes:
        kind: its name on the command line.
        checklist: name, version, modality and conditions, as a dict.
        facts: what identifies it beside the scores: model, weights_sha256, …
        refused: ids of the items that it is not trusted with, which count for nothing.
    """

    kind: str

    def __init__(self, checklist: dict[str, Any], facts: dict[str, Any]):
        self.checklist, self.facts = checklist, facts
        self.refused: frozenset[str] = frozenset()

    @abstractmethod
    def __call__(self, questions: Sequence[Question], batch_size: int = 64) -> list[Answer]:
        """An answer a question; they do not depend on how many are judged together.

        Raises:
            ValueError: an unknown condition, or a model that cannot be asked.
        """

    def items(self) -> dict[str, set[str]]:
        """The ids of the items that it scores, by condition."""
        return {name: {item["id"] for item in items} for name, items in self.checklist["conditions"].items()}

    def identity(self) -> dict[str, Any]:
        """What stands beside its scores: kind, facts, checklist and its version."""
        of_checklist = {"checklist": self.checklist["name"], "checklist_version": self.checklist["version"]}
        return {"judge": self.kind, **self.facts, **of_checklist}

    def judge_arrays(self, images: np.ndarray, conditions: Sequence[str]) -> list[Answer]:
        """An answer for each of the images, uint8 (n, channels, side, side)."""
        from clinsynth.images import to_picture

        return self([{"image": to_picture(i), "condition": c} for i, c in zip(images, conditions, strict=True)])

    def score_arrays(self, images: np.ndarray, conditions: Sequence[str]) -> tuple[np.ndarray, list[bool]]:
        """Shares of trusted items met (n,) and whether each image passes; of those alone that got scores.

        Raises:
            ValueError: fewer than two got scores.
        """
        import numpy as np

        answers = [answer for answer in self.judge_arrays(images, conditions) if not answer.get("failure")]
        if len(answers) < 2:
            raise ValueError(
                f"the judge {self.kind} gave scores to {len(answers)} of {len(images)} images; correct it, or name "
                "another one, and start the same command again"
            )
        shares = [share_of_items(answer, self.refused) for answer in answers]
        return np.array(shares), [passes(answer, self.refused) for answer in answers]


def answer_of(condition: str, scores: Mapping[str, float], reasons: dict[str, str]) -> Answer:
    """An answer whose share is the mean score."""
    share = sum(scores.values()) / len(scores)
    return {"condition": condition, "scores": dict(scores), "share": share, "reasons": reasons}


def unscored(condition: str, failure: str) -> Answer:
    """The answer where there is none, and why."""
    return {"condition": condition, "scores": {}, "share": None, "reasons": {}, "failure": failure}


def is_met(score: float) -> bool:
    """Whether a score, 0 or 1 or the mean of raters, says yes."""
    return score > MET


def share_of_items(answer: Answer, refused: frozenset[str]) -> float:
    """The share in [0, 1] of the items met that are not refused; a classifier's is the condition's probability.

    It is the mean score where several raters were averaged, and not a number (nan) where the judge gave no scores.
    """
    if answer.get("failure") or answer["share"] is None:
        return math.nan
    if CLASS_ITEM in answer["scores"]:
        return answer["share"]
    kept = [score for item, score in answer["scores"].items() if item not in refused]
    return sum(kept) / len(kept)


def passes(answer: Answer, refused: frozenset[str]) -> bool:
    """Whether all items that are not refused are met; never where the judge gave no scores."""
    scores = answer["scores"].items()
    return not answer.get("failure") and all(is_met(score) for item, score in scores if item not in refused)


def wilson_interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % Wilson score interval (Wilson 1927) of `count` in `total`, at least 1."""
    from scipy.stats import binomtest

    low, high = binomtest(count, total).proportion_ci(0.95, "wilson")
    return float(low), float(high)


def pass_rate(passed: Sequence[bool]) -> dict[str, Any]:
    """Share, interval and n, as they stand in reports."""
    count, total = sum(passed), len(passed)
    return {"value": count / total, "interval": wilson_interval(count, total), "n": total}
