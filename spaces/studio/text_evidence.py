"""Two labelled sets of texts, written down as `clinsynth evaluate text` takes them, and what its evidence says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import yaml
from set_checks import check_sets
from sets import LabelledSet

MIN_REAL = 80
MAX_CHARACTERS = 20_000
MAX_ALL_CHARACTERS = 2_000_000
BOOTSTRAP = 50
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
ENCODER_VARIABLE = "STUDIO_TEXT_ENCODER"


def prepare_texts(folder: Path, real: LabelledSet, synthetic: LabelledSet, seed: int) -> None:
    """Write both sets and the configuration of the evaluation into `folder`.

    Raises:
        ValueError: one class, too few or too long texts, or unknown classes.
    """
    names = check_sets(real, synthetic, "texts", MIN_REAL)
    check_lengths(real)
    check_lengths(synthetic)
    rows = [{"text": text, "label": label} for text, label in zip(real.contents, real.labels, strict=True)]
    (folder / "real.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_shard(folder / "synthetic", synthetic, names)
    settings = {
        "real": "real.jsonl",
        "synthetic": "synthetic",
        "output_dir": "evidence",
        "encoder": encoder(),
        "bootstrap": BOOTSTRAP,
        "seed": seed,
    }
    (folder / "evaluate.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")


def encoder() -> str:
    """The encoder of the embeddings: a folder or Hub id in STUDIO_TEXT_ENCODER, else all-MiniLM-L6-v2."""
    named = os.environ.get(ENCODER_VARIABLE) or ENCODER
    return str(Path(named).resolve()) if Path(named).exists() else named


def check_lengths(chosen: LabelledSet) -> None:
    lengths = [len(text) for text in chosen.contents]
    if max(lengths) > MAX_CHARACTERS:
        row = lengths.index(max(lengths)) + 1
        raise ValueError(
            f"{chosen.name}: the text of row {row} has {max(lengths)} characters, more than {MAX_CHARACTERS}; cut it "
            "into parts, or leave it out"
        )
    if sum(lengths) > MAX_ALL_CHARACTERS:
        raise ValueError(
            f"{chosen.name} has {sum(lengths)} characters in all, more than {MAX_ALL_CHARACTERS}; draw a smaller part "
            "at random"
        )


def write_shard(folder: Path, chosen: LabelledSet, names: list[str]) -> None:
    """A folder as `clinsynth generate text` leaves it, with one shard."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(text=Value("string"), label=ClassLabel(names=names))
    (folder / "data").mkdir(parents=True)
    columns = {"text": chosen.contents, "label": [names.index(label) for label in chosen.labels]}
    Dataset.from_dict(columns, features=features).to_parquet(folder / "data" / "train-00000-of-00001.parquet")


def summarise_texts(evidence: dict[str, Any]) -> dict[str, Any]:
    """The findings of the report, and the overall numbers of its tables, under the tables' titles."""
    from clinsynth.scripts.report_texts import TABLES, build_table, tiles

    tables = [build_table(evidence, *entry) for entry in TABLES]
    rows = [
        {"table": table["title"], **{name: value for name, value in row.items() if name != "marks"}}
        for table in tables
        for row in table["rows"]
    ]
    return {
        "findings": list(tiles(evidence["findings"])),
        "measurements": rows,
        "extractor": evidence["encoder"]["name"],
    }
