"""Scores on disk: Parquet shards that are complete or absent, and what is computed from them."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from clinsynth.judges.protocol import Answer, Judge, Question, is_met, pass_rate, passes, share_of_items
from clinsynth.run_folder import written_aside

if TYPE_CHECKING:
    from datasets import Dataset

ITEM = pa.struct(
    [("item", pa.string()), ("score", pa.float32()), ("reason", pa.string()), ("disagreement", pa.float32())]
)
SHOWN_ROWS = 20
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("condition", pa.string()),
        ("share", pa.float64()),
        ("items", pa.list_(ITEM)),
        ("failure", pa.string()),
    ]
)


def write_scores(judge: Judge, rows: Dataset, output_dir: Path, shard_size: int, batch_size: int) -> list[Path]:
    """Judge each of `rows` (columns image and label) under the condition that its label names, shard by shard.

    Finished shards are kept: that they are this judge's, the caller makes sure.
    """
    (output_dir / "data").mkdir(exist_ok=True)
    count = -(-len(rows) // shard_size)
    paths = [output_dir / "data" / f"train-{shard:05d}-of-{count:05d}.parquet" for shard in range(count)]
    names = rows.features["label"].names
    with tqdm(total=len(rows), desc="judge", unit="image") as progress:
        for shard, path in enumerate(paths):
            first, last = shard * shard_size, min((shard + 1) * shard_size, len(rows))
            if not path.exists():
                records = judge_rows(judge, rows, names, range(first, last), batch_size)
                with written_aside(path) as aside:
                    pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), aside)
            progress.update(last - first)
    return paths


def judge_rows(judge: Judge, rows: Dataset, names: list[str], numbers: range, batch_size: int) -> list[dict[str, Any]]:
    """The records of the rows at `numbers`."""
    records = []
    for start in range(numbers.start, numbers.stop, batch_size):
        part = range(start, min(start + batch_size, numbers.stop))
        asked = [Question(image=rows[i]["image"], condition=names[rows[i]["label"]], row=i) for i in part]
        answers = judge(asked, batch_size=batch_size)
        records += [{"row": number, **to_record(answer)} for number, answer in zip(part, answers, strict=True)]
    return records


def to_record(answer: Answer) -> dict[str, Any]:
    """An answer as columns of `SCHEMA`."""
    apart = answer.get("disagreement", {})
    items = [
        {"item": item, "score": score, "reason": answer["reasons"][item], "disagreement": apart.get(item)}
        for item, score in answer["scores"].items()
    ]
    return {
        "condition": answer["condition"],
        "share": answer["share"],
        "items": items,
        "failure": answer.get("failure"),
    }


def read_answers(paths: list[Path]) -> list[Answer]:
    """The answers of `write_scores`, in the order of the judged rows."""
    return [from_record(record) for path in paths for record in pq.read_table(path).to_pylist()]


def from_record(record: dict[str, Any]) -> Answer:
    """The inverse of `to_record`."""
    items = {entry["item"]: entry for entry in record["items"]}
    return {
        "condition": record["condition"],
        "scores": {item: entry["score"] for item, entry in items.items()},
        "share": record["share"],
        "reasons": {item: entry.get("reason", "") for item, entry in items.items()},
        "disagreement": {item: entry.get("disagreement") for item, entry in items.items()},
        "failure": record.get("failure"),
    }


def score_summary(paths: list[Path], refused: frozenset[str]) -> dict[str, Any]:
    """Pass rates: overall and by condition, of images (all items met that are not refused) and of every item.

    Images without scores count in no rate; `unscored` says how many they are, why, and which come first.

    Raises:
        ValueError: no image has scores.
    """
    answers = read_answers(paths)
    by_condition: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        if not answer.get("failure"):
            by_condition[answer["condition"]].append(answer)
    unscored = count_unscored(answers)
    if not by_condition:
        raise ValueError(
            f"the judge gave scores to none of {len(answers)} images ({reasons_text(unscored)}); see the column "
            f"failure of {paths[0].parent}, give another judge or correct this one, and another --output_dir"
        )
    everything = [answer for answers in by_condition.values() for answer in answers]
    return {
        "refused": sorted(refused),
        "unscored": unscored,
        "overall": rates(everything, refused),
        "conditions": {name: rates(answers, refused) for name, answers in sorted(by_condition.items())},
    }


def count_unscored(answers: list[Answer]) -> dict[str, Any]:
    """How many images have no scores, reason to count, and the rows of the first."""
    rows = [row for row, answer in enumerate(answers) if answer.get("failure")]
    reasons = Counter(str(answers[row].get("failure")) for row in rows)
    return {"n": len(rows), "reasons": dict(reasons.most_common()), "first_rows": rows[:SHOWN_ROWS]}


def reasons_text(unscored: dict[str, Any]) -> str:
    """`12 not JSON, 3 minLength at $.red.reason`."""
    return ", ".join(f"{count} {reason}" for reason, count in unscored["reasons"].items())


def rates(answers: list[Answer], refused: frozenset[str]) -> dict[str, Any]:
    """The record of some answers, at least one."""
    items: dict[str, list[bool]] = defaultdict(list)
    apart: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for item, score in answer["scores"].items():
            items[item].append(is_met(score))
        for item, value in answer.get("disagreement", {}).items():
            if value is not None:
                apart[item].append(value)
    shares = [share_of_items(answer, refused) for answer in answers]
    record = {
        "passed": pass_rate([passes(answer, refused) for answer in answers]),
        "mean_share": sum(shares) / len(shares),
        "items": {item: pass_rate(scores) for item, scores in items.items()},
    }
    if apart:
        record["disagreement"] = {item: sum(values) / len(values) for item, values in apart.items()}
    return record
