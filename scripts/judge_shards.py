"""Scores on disk: Parquet shards that are complete or absent, and what is computed from them."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from clinsynth.run_folder import explained_where_full
from clinsynth.scripts.judges import pass_rate, passes, share_of_items

ITEM = pa.struct([("item", pa.string()), ("score", pa.int8()), ("reason", pa.string())])
SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("condition", pa.string()),
        ("share", pa.float64()),
        ("items", pa.list_(ITEM)),
    ]
)


def write_scores(judge: Any, rows: Any, output_dir: Path, shard_size: int, batch_size: int) -> list[Path]:
    """Judge `rows` (columns image and label) as their labels, shard by shard; finished shards are kept."""
    (output_dir / "data").mkdir(exist_ok=True)
    count = -(-len(rows) // shard_size)
    paths = [output_dir / "data" / f"train-{shard:05d}-of-{count:05d}.parquet" for shard in range(count)]
    names = rows.features["label"].names
    with tqdm(total=len(rows), desc="judge", unit="image") as progress:
        for shard, path in enumerate(paths):
            first, last = shard * shard_size, min((shard + 1) * shard_size, len(rows))
            if not path.exists():
                write_shard(path, judge_rows(judge, rows, names, range(first, last), batch_size))
            progress.update(last - first)
    return paths


def judge_rows(judge: Any, rows: Any, names: list[str], numbers: range, batch_size: int) -> list[dict[str, Any]]:
    """The records of the rows at `numbers`."""
    records = []
    for start in range(numbers.start, numbers.stop, batch_size):
        part = range(start, min(start + batch_size, numbers.stop))
        asked = [{"image": rows[i]["image"], "condition": names[rows[i]["label"]]} for i in part]
        for number, answer in zip(part, judge(asked, batch_size=batch_size), strict=True):
            items = [
                {"item": item, "score": score, "reason": answer["reasons"][item]}
                for item, score in answer["scores"].items()
            ]
            records.append({"row": number, "condition": answer["condition"], "share": answer["share"], "items": items})
    return records


def write_shard(path: Path, records: list[dict[str, Any]]) -> None:
    """Write a shard aside, then put it in its place."""
    aside = path.with_name(f".{path.name}.tmp")
    with explained_where_full(path):
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), aside)
    os.replace(aside, path)


def read_answers(paths: list[Path]) -> list[dict[str, Any]]:
    """The answers of `write_scores`, in the order of the judged rows: condition, scores (item to 0 or 1) and share."""
    records = [record for path in paths for record in pq.read_table(path).to_pylist()]
    return [
        {
            "condition": record["condition"],
            "scores": {entry["item"]: entry["score"] for entry in record["items"]},
            "share": record["share"],
        }
        for record in records
    ]


def summarize(paths: list[Path], refused: frozenset[str]) -> dict[str, Any]:
    """Pass rates: overall and by condition, of pictures (all items met that are not refused) and of every item."""
    by_condition: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for answer in read_answers(paths):
        by_condition[answer["condition"]].append(answer)
    everything = [answer for answers in by_condition.values() for answer in answers]
    return {
        "refused": sorted(refused),
        "overall": rates(everything, refused),
        "conditions": {name: rates(answers, refused) for name, answers in sorted(by_condition.items())},
    }


def rates(answers: list[dict[str, Any]], refused: frozenset[str]) -> dict[str, Any]:
    """The record of some answers."""
    items: dict[str, list[bool]] = defaultdict(list)
    for answer in answers:
        for item, score in answer["scores"].items():
            items[item].append(bool(score))
    shares = [share_of_items(answer, refused) for answer in answers]
    return {
        "passed": pass_rate([passes(answer, refused) for answer in answers]),
        "mean_share": sum(shares) / len(shares),
        "items": {item: pass_rate(scores) for item, scores in items.items()},
    }
