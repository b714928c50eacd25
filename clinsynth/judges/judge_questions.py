"""How a model that sees and writes is asked about a checklist, and how its answer is read.

It is asked once a picture, for one JSON object: of every item a short reason, then 1 or 0. What breaks the schema is
counted and never guessed: such a picture gets no score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

MOST_REASON = 120
"""Characters of a reason."""

Answered = tuple[dict[str, Any] | None, str | None]
"""The object of an answer and None, or None and why there is none."""


class AskedJudge:
    """A judge of kind vlm behind the call of `ChecklistJudgePipeline`; its subclasses know whom to ask.

    Args:
        checklist: name, version, modality and conditions, as a dict.
        facts: what identifies the model, for `describe_judge`.
    """

    kind = "vlm"

    def __init__(self, checklist: dict[str, Any], facts: dict[str, Any]):
        self.checklist, self.facts = checklist, facts

    def ask(self, condition: str, pictures: list[Any]) -> Iterable[Answered]:
        """What the model answers on each of the pictures."""
        raise NotImplementedError

    def __call__(self, inputs: dict[str, Any] | list[dict[str, Any]], batch_size: int = 64) -> Any:
        """Judge pictures; as of `ChecklistJudgePipeline`, and with `failure` in an answer that has no scores.

        Raises:
            ValueError: an unknown condition, or a model that cannot be asked.
        """
        from clinsynth.pipelines.checklist_judge.pipeline_checklist_judge import check_conditions

        rows = [inputs] if isinstance(inputs, dict) else inputs
        check_conditions([row["condition"] for row in rows], self.checklist)
        places: dict[str, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            places[row["condition"]].append(place)
        answers: list[Any] = [None] * len(rows)
        for condition, mine in places.items():
            asked = self.ask(condition, [rows[place]["image"].convert("RGB") for place in mine])
            for place, (data, failure) in zip(mine, asked, strict=True):
                answers[place] = unscored(condition, str(failure)) if data is None else scored(condition, data)
        return answers[0] if isinstance(inputs, dict) else answers


def scored(condition: str, data: dict[str, Any]) -> dict[str, Any]:
    """The answer to an object of the schema."""
    scores = {item: int(part["met"]) for item, part in data.items()}
    reasons = {item: part["reason"] for item, part in data.items()}
    return {"condition": condition, "scores": scores, "share": sum(scores.values()) / len(scores), "reasons": reasons}


def unscored(condition: str, failure: str) -> dict[str, Any]:
    """The answer where there is none, and why."""
    return {"condition": condition, "scores": {}, "share": None, "reasons": {}, "failure": failure}


def answer_schema(checklist: dict[str, Any], condition: str) -> dict[str, Any]:
    """The JSON schema of an answer: of each item `reason`, which is to be thought of first, and `met`, 0 or 1."""
    part = closed_object(
        {
            "reason": {"type": "string", "minLength": 1, "maxLength": MOST_REASON},
            "met": {"type": "integer", "enum": [0, 1]},
        }
    )
    return closed_object({item["id"]: part for item in checklist["conditions"][condition]})


def closed_object(properties: dict[str, Any]) -> dict[str, Any]:
    """An object of just these properties."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def question_text(checklist: dict[str, Any], condition: str) -> str:
    """What the model is asked beside the picture."""
    items = [f"- {item['id']}: {item['question']} {item['criterion']}" for item in checklist["conditions"][condition]]
    return (
        f"The picture ({checklist['modality']}) is meant to show: {condition}. Judge it by this checklist, by what "
        "can be seen and not by what it is meant to show.\n"
        + "\n".join(items)
        + f"\nAnswer with one JSON object and nothing else. For each item give reason (what you see, at most "
        f"{MOST_REASON} characters) and met: 1 for yes; 0 for no, or where it cannot be made out.\n"
        'Form: {"item": {"reason": "…", "met": 1}}'
    )
