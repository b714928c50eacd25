"""Cards of text generators and synthetic texts: the same parts, from the files that the text commands leave."""

import csv
import json
import re
from pathlib import Path

import pytest
import yaml
from helpers import run_warm
from huggingface_hub import DatasetCard, ModelCard
from loopback_hub.cards import check_card
from text_models import save_small_task, save_tiny_model
from text_posts import LABELS, save_tiny_encoder, write_posts

from clinsynth.hub_cards.dataset_card import dataset_card
from clinsynth.hub_cards.model_card import model_card
from clinsynth.hub_cards.sets import sample_grid
from clinsynth.hub_cards.sources import Terms

pytest.importorskip("peft")
pytest.importorskip("datasketch")

COMMANDS = """
import sys
from clinsynth.cli import main
folder = sys.argv[1]
data = f"--task {folder}/small.yaml --dataset {folder}/patients.csv"
for words in (
    f"train text-lora --model {folder}/base {data} --train_steps 2 --batch_size 2 --output_dir {folder}/lora",
    f"generate text --model {folder}/lora {data} --k_shot 1 --per_class 10 --near_duplicate 0 "
    f"--output_dir {folder}/set",
    f"evaluate text --real {folder}/patients.csv --synthetic {folder}/set --encoder {folder}/encoder --bootstrap 4 "
    f"--output_dir {folder}/evidence",
):
    sys.argv = ["clinsynth", *words.split()]
    main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned model (lora), its texts (set) and their evidence, from made-up posts of 60 characters."""
    folder = tmp_path_factory.mktemp("texts")
    sides = {"train": write_posts(30, 1, "a"), "validation": write_posts(12, 2, "b"), "test": write_posts(30, 3, "c")}
    with open(folder / "patients.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "text", "label"])
        for split, side in sides.items():
            table.writerows([split, t[:60], LABELS[n]] for t, n in zip(side.texts, side.labels, strict=True))
    save_tiny_encoder(folder / "encoder", sides["train"].texts)
    save_tiny_model(folder / "base")
    task = save_small_task(folder / "small.yaml")
    task.write_text(task.read_text().replace("maxLength: 30", "maxLength: 60"))
    run_warm("-c", COMMANDS, folder)
    return folder


def test_text_cards_hold_their_parts_and_no_text(runs: Path) -> None:
    terms, evidence = Terms("Posts of one forum", data_license="cc-by-nc-4.0"), runs / "evidence"
    model = model_card(runs / "lora", evidence=evidence, terms=terms)
    dataset = dataset_card(runs / "set", evidence, terms=terms)
    assert check_card(model, "model") == ([], []) and check_card(dataset, "dataset") == ([], [])
    data = ModelCard(model).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "text-generation", "cc-by-nc-4.0")
    assert "base_model" not in yaml.safe_load(model.split("---\n")[1])  # a folder of this machine
    assert {"mmd_squared", "frechet"} <= {result.metric_type for result in data.eval_results}
    assert "nats a token" in model and "| **real texts** | train 30, validation 12 |" in model
    assert DatasetCard(dataset).data.task_categories == ["text-classification"]
    for card in (model, dataset):
        assert (
            "| Copies anybody? |" in card
            and "Not suitable for" in card
            and "Names, dates and numbers" in card
            and "samples.png" not in card
        )
        assert str(runs.parent) not in card and "--dataset patients.csv" in card
    shown = model + dataset
    with open(runs / "patients.csv", newline="") as file:
        assert not any(row["text"][:25] in shown for row in csv.DictReader(file))
    assert json.loads((runs / "set" / "generation.json").read_text())["generator"]["examples_sha256"] not in shown
    assert sample_grid(runs / "set", runs / "evidence") is None and sample_grid(runs / "lora") is None


def test_the_snippet_of_a_text_model_runs(runs: Path, tmp_path: Path) -> None:
    card = model_card(runs / "lora", repo_id="me/thing")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert '"me/thing"' in code
    found = run_warm("-c", code.replace("me/thing", str(runs / "lora")), HF_HOME=str(tmp_path))
    assert found.stdout.startswith("{'text':")
