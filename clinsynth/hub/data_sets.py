"""The card of a pushed data set: that of `hub_cards`, with the published columns, the gate and the provenance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from clinsynth.hub.gate import Reading

if TYPE_CHECKING:
    from clinsynth.hub.shards import PublishedShards
    from clinsynth.synthesis.shard_files import Columns

TABLE_HEAD = "| column | type | what it holds |"
SEVERAL = """# {title}

> ⚠️ **Synthetic {things}, made by programs. Not for diagnosis, treatment or any other decision about a patient, and no
> evidence about anybody.**

The same kind of set by {count} generators, each in a configuration of its own:

| configuration | rows | card |
|---|---|---|
{rows}

```python
from datasets import load_dataset

data = load_dataset({place!r}, {first!r}, split="train")  # streaming=True reads row by row
```

Each card says how its set was made, what was measured on it, what it must not be used for, and its licence.
"""


def finish_card(card: str, shards: PublishedShards, readings: list[Reading], accepted_risk: str) -> str:
    """The card with the columns and sizes of what is pushed, the gate's readings, and how to read the provenance."""
    from huggingface_hub import DatasetCard

    from clinsynth.private_words import refuse_private

    parsed: Any = DatasetCard(card)
    parsed.data.dataset_info = describe_info(shards)
    body = replace_columns(parsed.text.strip(), shards.columns)
    ends = [describe_gate(readings, accepted_risk), describe_provenance(shards)]
    return refuse_private("\n".join([f"---\n{parsed.data.to_yaml()}\n---\n", body, "", *ends]))


def describe_info(shards: PublishedShards) -> dict[str, Any]:
    """`dataset_info` of the card's YAML: by it the Hub shows, and `load_dataset` reads, the shards."""
    return {
        "features": shards.columns,
        "splits": [{"name": "train", "num_bytes": shards.num_bytes, "num_examples": shards.num_rows}],
        "download_size": shards.download_size,
        "dataset_size": shards.num_bytes,
    }


def replace_columns(body: str, columns: Columns) -> str:
    """The card's table of columns as they are published."""
    from clinsynth.hub_cards.sets import describe_columns

    before, _, rest = body.partition(TABLE_HEAD)
    table = [TABLE_HEAD, "|---|---|---|", *(f"| {' | '.join(row)} |" for row in describe_columns(columns))]
    return before + "\n".join(table) + "\n\n" + rest.partition("\n\n")[2]


def describe_gate(readings: Iterable[Reading], accepted_risk: str) -> str:
    """What was asked of the evidence before this was published, and whether it passed."""
    from clinsynth.hub_cards.render import cell

    rows = [
        f"| {cell(reading.name)} | {cell(reading.value)} | {cell(reading.limit)} | "
        f"{'passed' if reading.passed else '**not passed**'} |"
        for reading in readings
    ]
    risk = f"\nPublished all the same, by the publisher's reason: {cell(accepted_risk)}\n" if accepted_risk else ""
    head = "## Before it was published\n\n| reading | value | limit | |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + f"\n{risk}"


def describe_provenance(shards: PublishedShards) -> str:
    """How a single sample says where it comes from."""
    left_out = f" Left out at publishing: {', '.join(shards.left_out)}." if shards.left_out else ""
    chunk = " So does a text chunk in each picture's PNG file." if shards.of_pictures else ""
    return (
        "## Where a sample comes from\n\nThe columns `synthetic`, `generator`, `revision` and `seed` say it of every "
        f"row.{chunk} `clinsynth inspect FILE` reads a PNG or Parquet file of this set.{left_out}\n"
    )


def several_cards(cards: dict[str, str], rows: dict[str, int], repo_id: str, things: str) -> str:
    """The card of a repository with several configurations, each a folder of its own with its own card."""
    from huggingface_hub import DatasetCard, DatasetCardData

    from clinsynth.private_words import refuse_private

    own: dict[str, Any] = {name: DatasetCard(card).data for name, card in cards.items()}
    first = next(iter(own.values())).to_dict()
    first["license"] = joint_license([data.license for data in own.values()])
    first["pretty_name"] = repo_id.partition("/")[2]
    first["configs"] = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/data/*.parquet"}]} for name in own
    ]
    first["configs"][0]["default"] = True
    first["dataset_info"] = [{"config_name": name, **data.dataset_info} for name, data in own.items()]
    lines = "\n".join(f"| {name} | {rows[name]:,} | [{name}]({name}/README.md) |" for name in own)
    words = {"title": first["pretty_name"], "things": things, "count": len(own), "rows": lines, "place": repo_id}
    data = DatasetCardData(**{name: value for name, value in first.items() if value is not None})
    return refuse_private(f"---\n{data.to_yaml()}\n---\n\n{SEVERAL.format(first=next(iter(own)), **words)}")


def joint_license(licenses: list[str | None]) -> str | None:
    """The licence of all: the one that they share, else the first non-commercial one, else "other"."""
    from clinsynth.hub_cards.sources import is_non_commercial

    if len(set(licenses)) == 1:
        return licenses[0]
    return next((name for name in licenses if name and is_non_commercial(name)), "other")
