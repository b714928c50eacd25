"""A synthetic set of texts on the loopback Hub: made, measured, through the gate or stopped by it, and loaded back."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fastapi", reason="needs FastAPI, which `pip install clinsynth[space]` brings")
pytest.importorskip("datasketch", reason="needs the packages of `pip install clinsynth[text]`")

from helpers import run_python, run_warm
from loopback_hub.client import run_client
from loopback_hub.hub import LoopbackHub, running_hub
from pushing import Client
from text_models import save_small_task, save_tiny_model
from text_posts import LABELS, save_tiny_encoder, write_posts

from clinsynth.hub.data_sets import PublishedShards
from clinsynth.synthesis.provenance import Provenance

NUMBER = "call 555 0142 7788 at night."
LIMITS = "--max_dcr_share 1"
"""To an untrained encoder the letters of an untrained model lie near one split or the other by chance."""
SHARDS = [f"data/train-0000{number}-of-00003.parquet" for number in range(3)]
COLUMNS = "id text label seed attempts synthetic generator revision".split()
MAKE = """
import sys
from pathlib import Path
from clinsynth.cli import main
from test_push_text import make_posts, plant
folder = sys.argv[1]
make_posts(Path(folder))
def run(command, flags):
    main([*command.split(), *(f"--{name}={value}" for name, value in flags.items())])
models = {"model": f"{folder}/model", "task": f"{folder}/task.yaml", "dataset": f"{folder}/posts.csv"}
run("generate text", models | {"k_shot": 1, "per_class": 12, "shard_size": 8, "output_dir": f"{folder}/posts"})
plant(folder)
real = {"real": f"{folder}/posts.csv", "encoder": f"{folder}/encoder", "bootstrap": 4, "cache_dir": f"{folder}/cache"}
for made in ("posts", "planted"):
    run("evaluate text", real | {"synthetic": f"{folder}/{made}", "output_dir": f"{folder}/{made}-evidence"})
"""
LOAD = """
import re
from datasets import load_dataset
from huggingface_hub import DatasetCard, hf_hub_download
whole = load_dataset("tester/posts", split="train")
found["rows"] = whole.to_list()
found["columns"] = whole.column_names
found["labels"] = whole.features["label"].names
found["streamed the same"] = list(load_dataset("tester/posts", split="train", streaming=True)) == found["rows"]
card = DatasetCard(Path(hf_hub_download("tester/posts", "README.md", repo_type="dataset")).read_text())
card.validate()
found["tags"] = card.data.tags
scope = {}
exec(re.search("```python\\n(.*?load_dataset.*?)```", card.text, re.DOTALL).group(1), scope)
found["snippet"] = len(scope["data"])
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Commands in a folder with the sets `posts` (24 texts in 3 shards) and `planted`, each with its evidence."""
    folder = tmp_path_factory.mktemp("posts")
    run_warm("-c", MAKE, folder)
    with running_hub(folder) as hub:
        client = Client(hub, folder)
        yield client
        client.close()


def make_posts(folder: Path) -> None:
    """`model`, `task.yaml`, `encoder` and `posts.csv`, one of whose train texts holds a telephone number."""
    splits = {name: write_posts(n, n, name) for name, n in (("train", 60), ("validation", 12), ("test", 51))}
    splits["train"].texts[4] += f" {NUMBER}"
    with (folder / "posts.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for name, side in splits.items():
            writer.writerows((text, LABELS[label], name) for text, label in zip(side.texts, side.labels, strict=True))
    save_tiny_model(folder / "model")
    save_small_task(folder / "task.yaml")
    save_tiny_encoder(folder / "encoder", splits["train"].texts)


def plant(folder: str) -> None:
    """`planted`: `posts`, but its first text is that of its own prompt's example, and its second holds the number."""
    from clinsynth.data.arguments import TextDataArguments
    from clinsynth.data.texts import load_text_dataset

    train = load_text_dataset(TextDataArguments(dataset=f"{folder}/posts.csv"), 0)["train"]
    texts = dict(zip(train["id"], train["text"], strict=True))
    shutil.copytree(f"{folder}/posts", f"{folder}/planted")
    path = f"{folder}/planted/{SHARDS[0]}"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["text"] = texts[rows[0]["example_ids"][0]]
    rows[1]["text"] = f"{rows[1]['text']} {NUMBER}"
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def read_rows(content: dict[str, bytes]) -> list[dict[str, object]]:
    return [row for path in SHARDS for row in pq.read_table(io.BytesIO(content[path])).to_pylist()]


def published(hub: LoopbackHub, name: str) -> dict[str, bytes]:
    repo = hub.repo("dataset", f"tester/{name}")
    return {path: repo.read(path) for path in repo.files()}


def test_texts_are_pushed_loaded_back_and_hold_no_real_text(client: Client) -> None:
    hub = client.hub
    said = client.done(f"push dataset posts --evidence posts-evidence --repo_id tester/posts {LIMITS}")
    assert said.count("gate: passed") >= 8 and "NOT PASSED" not in said
    assert "columns that are not published: example_ids" in said
    content = published(hub, "posts")
    assert set(content) == {
        ".gitattributes",
        "README.md",
        "croissant.json",
        "evidence.json",
        "generation.json",
        *SHARDS,
    }
    made = {path: (client.folder / "posts" / path).read_bytes() for path in SHARDS}
    own = [row["text"] for row in read_rows(made)]
    found = run_client(hub, LOAD, client.folder)
    assert found["columns"] == COLUMNS and found["labels"] == LABELS and found["streamed the same"]
    assert [row["text"] for row in found["rows"]] == own and found["snippet"] == len(own) == 24
    assert {(row["synthetic"], row["generator"]) for row in found["rows"]} == {(True, "model")}
    assert "synthetic" in found["tags"]
    everything = b"".join(content.values())
    with (client.folder / "posts.csv").open() as file:
        assert not any(row["text"][:40].encode() in everything for row in csv.DictReader(file))
    assert b"example_ids" not in b"".join(content[path] for path in SHARDS)
    assert str(client.folder).encode() not in everything


def test_looking_at_what_would_leave_needs_no_torch(client: Client) -> None:
    """Pushing starts in seconds: nothing of it brings torch, transformers or evaluate."""
    command = f"push dataset posts --evidence posts-evidence --repo_id tester/listed --dry_run {LIMITS}"
    code = (
        f"import os, sys; os.chdir({str(client.folder)!r}); from clinsynth.cli import main; main({command.split()}); "
        "print('heavy:', [name for name in ('torch', 'transformers', 'evaluate', 'sklearn') if name in sys.modules])"
    )
    said = run_python("-c", code).stdout
    assert "nothing was sent" in said and "heavy: []" in said


def test_a_planted_number_and_a_copied_example_stop_a_set(client: Client) -> None:
    command = f"push dataset planted --evidence planted-evidence --repo_id tester/planted {LIMITS}"
    both = client.refused(command)
    copy = "exact copies of the prompt's own examples: 4.17% of 24 texts"
    number = "telephone numbers of train texts: 4.17% of 24 texts"
    assert "the gate refuses planted" in both and copy in both and number in both
    without_copy = client.refused(f"{command} --max_exact_copies 1 --max_plagiarism_share 1")
    assert number in without_copy and "exact copies" not in without_copy
    without_number = client.refused(f"{command} --max_entity_leakage 1")
    assert copy in without_number and "telephone" not in without_number
    assert "is about other shards" in client.refused(
        "push dataset planted --evidence posts-evidence --repo_id tester/planted"
    )
    assert ("dataset", "tester/planted") not in client.hub.store.repositories
    assert NUMBER not in both and json.dumps(NUMBER) not in both


def test_signs_that_turn_the_reading_are_taken_out_and_counted(tmp_path: Path) -> None:
    """Of texts in whatever column, and within lists: they stay as they are but for these signs."""
    turned, told = "take \u202e50 mg\u202c daily", PublishedShards(tmp_path, Provenance("me/writer", "0" * 64), {})
    fields = {"text": {"type": "string"}, "notes": {"type": "array"}}
    (tmp_path / "task.json").write_text(json.dumps({"schema": {"properties": fields}}))
    rows = {"text": [turned, None], "label": [0, 1], "seed": [1, 2], "notes": [["\u2066a", "b"], None]}
    columns = told.rewrite(pa.table(rows)).to_pydict()
    assert columns["text"] == ["take 50 mg daily", None] and columns["notes"] == [["a", "b"], None]
    assert told.turned == 3 and columns["synthetic"] == [True, True]
