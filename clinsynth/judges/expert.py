"""A judge that looks answers up: scores of experts, exported by the Space's Review tab or written into a table.

The table is a .parquet or .csv file with one row an item, image and rater:

    sample_id   the image's, as `clinsynth.judges.checklists.sample_id` gives it; or `row`, its number in --images,
                from 0
    item_id     of the checklist
    score       0 or 1
    rater       may be left out where there is one
    condition, checklist, version   may be left out; where they are there, they must be those that are judged by

Answers of several raters are averaged, and how far they disagree is kept.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyarrow import ArrowException

from clinsynth.data.tables import read_rows
from clinsynth.judges.checklists import sample_id
from clinsynth.judges.protocol import Answer, Judge, Question, answer_of, unscored
from clinsynth.pipelines.checklist_judge.pipeline_checklist_judge import check_conditions

UNSCORED = "not scored by an expert"
Key = tuple[str, str]
"""`sample_id` or `row`, and its value."""


class ExpertJudge(Judge):
    """The scores of experts.

    Args:
        path: of the table.
        checklist: name, version and conditions, as a dict.

    Raises:
        ValueError: the table cannot be read, or is of another checklist; names the row.
    """

    kind = "expert"

    def __init__(self, path: Path, checklist: dict[str, Any]):
        super().__init__(checklist, {"model": path.name, "weights_sha256": None})
        self.given: dict[Key, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
        self.conditions: dict[Key, str] = {}
        raters = {self.take(f"{path}, row {number}", row) for number, row in enumerate(read_table(path), start=1)}
        if not raters:
            raise ValueError(f"{path} has no scores; export a review in which something was scored")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.facts |= {"scores_sha256": digest, "raters": len(raters)}  # how many; their names are not kept

    def take(self, where: str, row: dict[str, Any]) -> str:
        """Keep one score; its rater."""
        name = next((name for name in ("sample_id", "row") if row.get(name) not in (None, "")), None)
        if name is None or row.get("item_id") in (None, "") or row.get("score") in (None, ""):
            raise ValueError(f"{where} must have sample_id (or row), item_id and score; it has {', '.join(row)}")
        self.check_checklist(where, row)
        item, score, rater = str(row["item_id"]), str(row["score"]), str(row.get("rater") or "")
        if score not in ("0", "1"):
            raise ValueError(f"{where}: score must be 0 or 1, got {score!r}; an average is taken here, over raters")
        key = (name, str(row[name]))
        condition = self.check_condition(where, key, row, item)
        answers = self.given[key][item]
        if rater in answers:
            raise ValueError(
                f"{where}: {name} {row[name]}, item {item} was scored before by the same rater; keep one of the two, "
                "or name the raters in a column rater"
            )
        answers[rater] = int(score)
        if condition:
            self.conditions[key] = condition
        return rater

    def check_checklist(self, where: str, row: dict[str, Any]) -> None:
        """Raise a `ValueError` for a score by another checklist, or another version of it."""
        for column, key in (("checklist", "name"), ("version", "version")):
            if row.get(column) not in (None, "") and str(row[column]) != str(self.checklist[key]):
                raise ValueError(
                    f"{where}: {column} is {row[column]}, but --checklist {self.checklist['name']} has {key} "
                    f"{self.checklist[key]}; judge by the checklist that the experts had before them"
                )

    def check_condition(self, where: str, key: Key, row: dict[str, Any], item: str) -> str | None:
        """The condition that a row is about, None where it does not say."""
        condition = row.get("condition") or None
        if condition is not None and condition not in self.checklist["conditions"]:
            raise ValueError(f"{where}: condition {condition!r} is not in checklist {self.checklist['name']}")
        if condition and self.conditions.get(key, condition) != condition:
            raise ValueError(f"{where}: {' '.join(key)} has two conditions; judge each image by one")
        asked = [condition] if condition else list(self.checklist["conditions"])
        if not any(item == known["id"] for name in asked for known in self.checklist["conditions"][name]):
            raise ValueError(f"{where}: {condition or self.checklist['name']} has no item {item!r}; check item_id")
        return condition

    def __call__(self, questions: Sequence[Question], batch_size: int = 64) -> list[Answer]:
        """Look up what experts said of images, by their pixels or by their row numbers."""
        check_conditions([question["condition"] for question in questions], self.checklist)
        return [self.answer(question) for question in questions]

    def answer(self, question: Question) -> Answer:
        """What experts said of one image as its condition."""
        condition = question["condition"]
        keys = [("sample_id", sample_id(question["image"])), ("row", str(question.get("row")))]
        key = next((key for key in keys if key in self.given), None)
        if key is None:
            return unscored(condition, UNSCORED)
        if self.conditions.get(key, condition) != condition:
            return unscored(condition, f"{UNSCORED} as this condition")
        items = [item["id"] for item in self.checklist["conditions"][condition]]
        votes = {item: list(self.given[key][item].values()) for item in items}
        missing = [item for item, given in votes.items() if not given]
        if missing:
            return unscored(condition, f"{UNSCORED}: item {missing[0]}")
        scores = {item: sum(given) / len(given) for item, given in votes.items()}
        reasons = {item: f"yes from {sum(given)} of {len(given)}" for item, given in votes.items()}
        apart = {item: disagreement(given) for item, given in votes.items()}
        return {**answer_of(condition, scores, reasons), "disagreement": apart}


def disagreement(votes: list[int]) -> float | None:
    """The share of pairs of raters that differ, None of fewer than two."""
    count, yes = len(votes), sum(votes)
    return yes * (count - yes) / (count * (count - 1) / 2) if count > 1 else None


def read_table(path: Path) -> Iterable[dict[str, Any]]:
    """Rows of a .parquet or .csv file.

    Raises:
        ValueError: there is no such file, or it is of another kind or damaged.
    """
    if path.suffix not in (".parquet", ".csv") or not path.is_file():
        raise ValueError(
            f"--judge_model {path} is no .parquet or .csv file that is there; give scores.parquet or scores.csv, "
            "which the Space's Review tab exports, or a table of the same columns"
        )
    if path.suffix == ".csv":
        return read_rows(path)
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be read as Parquet ({error}); export it anew") from error
    return rows
