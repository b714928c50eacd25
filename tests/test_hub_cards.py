"""Cards of real runs at tiny size: golden texts, the Hub's rules, snippets that run, and nothing private in them."""

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import run_warm
from huggingface_hub import DatasetCard, ModelCard
from loopback_hub.cards import check_card
from PIL import Image

from clinsynth.hub.data_sets import published_generation
from clinsynth.hub_cards.dataset_card import dataset_card
from clinsynth.hub_cards.model_card import model_card
from clinsynth.hub_cards.sets import PICTURE, sample_grid
from clinsynth.hub_cards.sources import Terms
from clinsynth.trainers.diffusion.privacy import PrivacyPlan, write_privacy

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = """
import sys
from clinsynth.cli import main
folder, data = sys.argv[1:]
for words in (
    f"train ddpm --dataset {data} --label_names clear,spotted --width 8 --train_steps 2 --train_batch_size 4 "
    f"--validation_steps 2 --output_dir {folder}/retina",
    f"generate images --model {folder}/retina --per_class 12 --num_inference_steps 2 --output_dir {folder}/set",
    f"evaluate images --real {data} --label_names clear,spotted --synthetic {folder}/set --bootstrap 4 "
    f"--classifier none --output_dir {folder}/evidence",
):
    sys.argv = ["clinsynth", *words.split()]
    main(sys.argv[1:])
"""
CLINIC = Terms("Eyes of one clinic", data_license="cc-by-nc-4.0")
PRIVATE = "falk-clinic"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint (retina), a synthetic set (set) and its evidence, from pictures in a folder with a telling name."""
    folder = tmp_path_factory.mktemp("runs") / PRIVATE
    folder.mkdir()
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 24), ("val", 12), ("test", 22)):
        labels = np.repeat([0, 1], count)
        noise = rng.integers(0, 90, size=(len(labels), 28, 28))
        arrays |= {f"{split}_images": (noise + 90 * labels[:, None, None]).astype(np.uint8)}
        arrays |= {f"{split}_labels": labels[:, None]}
    np.savez(folder / "patients.npz", **arrays)
    run_warm("-c", COMMANDS, folder, folder / "patients.npz")
    return folder


def cards_of(runs: Path, terms: Terms | None = None) -> tuple[str, str]:
    """The cards of checkpoint and set with their evidence."""
    return (
        model_card(runs / "retina", evidence=runs / "evidence", terms=terms),
        dataset_card(runs / "set", runs / "evidence" / "evidence.json", terms=terms),
    )


def normalised(card: str) -> str:
    """The card without what differs between machines and releases: versions, hashes, times, measured numbers."""
    card = re.sub(r"\b[0-9a-f]{40,64}\b(\+changes)?", "HASH", card)
    card = re.sub(r"(\*\*(?:machine|software)\*\* \|).*", r"\1 … |", card)
    card = re.sub(r"\| \*\*commit of clinsynth.*\n", "", card)
    card = re.sub(r"(clinsynth |version = \{)\d+\.\d+\.\d+", r"\1VERSION", card)
    card = re.sub(r"(num_bytes|download_size|dataset_size): \d+", r"\1: N", card)
    card = re.sub(r"(\*\*download\*\* \|) .* MB", r"\1 N MB", card)
    measured = r"(?s)(model-index:.*?\n---\n|## What was measured.*?## How it was)"
    return re.sub(measured, lambda found: re.sub(r"−?-?\d[\d.,]*(e-\d+)?", "N", found.group(1)), card)


def test_cards_read_as_they_did(runs: Path, tmp_path: Path) -> None:
    """After a change that is meant, copy the files that this test names over the golden ones."""
    names = ("model_card.md", "dataset_card.md")
    for name, card in zip(names, cards_of(runs, CLINIC), strict=True):
        (tmp_path / name).write_text(normalised(card))
    for name in names:
        assert (tmp_path / name).read_text() == (GOLDEN / name).read_text(), f"compare {tmp_path / name} with {GOLDEN}"


def test_cards_keep_the_rules_of_the_hub_and_survive_its_classes(runs: Path) -> None:
    model, dataset = cards_of(runs, CLINIC)
    assert check_card(model, "model") == ([], []) and check_card(dataset, "dataset") == ([], [])
    for text, loader in ((model, ModelCard), (dataset, DatasetCard)):
        card = loader(text)
        assert card.data.to_dict() == yaml.safe_load(text.split("---\n")[1])
        assert str(card) == text and loader(str(card)).data.to_dict() == card.data.to_dict()
    data = ModelCard(model).data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "unconditional-image-generation")
    found = {result.metric_type: result for result in data.eval_results}
    evidence = json.loads((runs / "evidence" / "evidence.json").read_text())
    (kid,) = [
        r for r in evidence["measurements"] if (r["metric"], r["label"], r["reference"]) == ("kid", "overall", "test")
    ]
    assert found["kid"].metric_value == pytest.approx(kid["value"], rel=1e-3)
    assert found["kid"].metric_args["interval_95"] == pytest.approx(kid["interval"], rel=1e-3)
    assert found["kid"].metric_args["floor_other_real"] == pytest.approx(kid["floor_held_out"], rel=1e-3)
    assert found["kid"].dataset_name == "Eyes of one clinic"
    info = yaml.safe_load(dataset.split("---\n")[1])
    assert info["annotations_creators"] == ["machine-generated"] and info["size_categories"] == ["n<1K"]
    assert info["dataset_info"]["features"][1]["dtype"]["class_label"]["names"] == {"0": "clear", "1": "spotted"}
    assert "source_datasets" not in info and "datasets" not in data.to_dict()


def snippet_of(card: str, place: Path) -> str:
    """The Python of a card, loading from `place` in the stead of the repository."""
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "me/thing" in code
    return code.replace("me/thing", str(place))


def test_the_snippets_run(runs: Path, tmp_path: Path) -> None:
    card = model_card(runs / "retina", repo_id="me/thing")
    code = snippet_of(card, runs / "retina").replace('"synthetic.png"', f'"{tmp_path}/synthetic.png"')
    published = tmp_path / "set"
    shutil.copytree(runs / "set" / "data", published / "data")
    card = dataset_card(runs / "set", repo_id="me/thing")
    (published / "README.md").write_text(card)
    loaded = run_warm("-c", f"{code}\n{snippet_of(card, published)}", HF_HOME=str(tmp_path / "hub"))
    assert Image.open(tmp_path / "synthetic.png").size == (28, 28)
    assert loaded.stdout.startswith("clear <PIL.")


def test_the_picture_is_of_synthetic_samples_alone(runs: Path, tmp_path: Path) -> None:
    assert not Image.open(io.BytesIO(sample_grid(runs / "retina") or b"")).info
    shown = Image.open(io.BytesIO(sample_grid(runs / "set", runs / "evidence") or b""))
    assert shown.size == (8 * 30 * 3, 2 * 30 * 3) and not shown.info
    assert f"({PICTURE})" in dataset_card(runs / "set")
    copied = shutil.copytree(runs / "evidence", tmp_path / "copied")
    content = json.loads((copied / "evidence.json").read_text())
    content["privacy"]["verdict"] = "copies found"
    (copied / "evidence.json").write_text(json.dumps(content))
    assert sample_grid(runs / "set", copied) is None
    card = dataset_card(runs / "set", copied)
    assert PICTURE not in card and "Yes: copies or details of real images were found" in card


def test_what_is_not_known_is_left_out(runs: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(runs / "retina", bare)
    for name in ("config.yaml", "environment.json", "metrics.jsonl"):
        (bare / name).unlink()
    shutil.rmtree(bare / "samples")
    card = model_card(bare)
    for word in ("unknown", "None", "TODO", "[More", "How to repeat", "seed**", "## Licence", "![", "license:"):
        assert word not in card, word
    assert "without evidence" in card and "## Privacy" not in card and check_card(card, "model") == ([], [])
    assert "real images trained on" not in model_card(runs / "retina")
    assert "real images trained on" in model_card(runs / "retina", evidence=runs / "evidence")
    assert "**time**" not in card
    (bare / "step.json").write_text(json.dumps({"seconds": 1524.9, "cpu_seconds": 1083.0, "resumed": False}))
    assert "| **time** | 25 minutes, 18 minutes of processor time |" in model_card(bare)


def test_a_private_run_states_its_guarantee(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("opacus", reason="needs the extra privacy")
    private = shutil.copytree(runs / "retina", tmp_path / "private")
    spent = write_privacy(private, PrivacyPlan(8.0, 1e-3, 1.0, 0.5, 0.1, 10), 10)
    card = model_card(private)
    assert f"ε = {spent:.3g} at δ = 0.001, by DP-SGD" in card and "one training image with its label" in card
    assert "differential-privacy" in ModelCard(card).data.tags and "was not trained with" not in card


def plant(folder: Path, **secrets: Any) -> None:
    """Give the run in `folder` private settings, in its config and its command."""
    config = yaml.safe_load((folder / "config.yaml").read_text()) | secrets
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    words = [word for name, value in secrets.items() for word in (f"--{name}", str(value))]
    for path in (folder / "environment.json", folder / "generation.json"):
        if path.exists():
            content = json.loads(path.read_text())
            content.get("environment", content)["command"] += [*words, "--log=/srv/falk-clinic/ward 7/log.db"]
            path.write_text(json.dumps(content))


def test_nothing_private_stands_in_a_card(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecretsecretsecret12")
    copy = shutil.copytree(runs, tmp_path / PRIVATE)
    for name in ("retina", "set"):
        plant(
            copy / name,
            label_column="falk_patient_id",
            endpoint="http://user:pass@10.0.0.7:8000/v1",
            hub_model_id="falk/eyes",
            extra_file="~/falk-clinic/list.csv",
        )
    evidence = copy / "evidence" / "evidence.json"
    content = json.loads(evidence.read_text())
    name = content["extractor"]["name"]
    content = json.loads(json.dumps(content).replace(name, "/home/falk/nets/vgg (transformers)"))
    evidence.write_text(json.dumps(content))
    for card in cards_of(copy):
        assert "falk" not in card and str(tmp_path) not in card and "10.0.0.7" not in card and "ward 7" not in card
        assert "hf_secret" not in card and "vgg (transformers)" in card and "--label_column …" in card
        assert "--dataset patients.npz" in card
    for words, reason in (
        ("see hf_secretsecretsecretsecretsecret12", "HF_TOKEN"),
        ("key sk-abcdefghijklmnopqrstuv", "access token"),
        ("as in /home/falk/notes/plan.txt", "path of this machine"),
    ):
        with pytest.raises(ValueError, match=reason):
            dataset_card(copy / "set", accepted_risk=words)


def test_evidence_must_be_about_what_the_card_is_about(runs: Path, tmp_path: Path) -> None:
    other = shutil.copytree(runs / "set", tmp_path / "set")
    generation = json.loads((other / "generation.json").read_text())
    generation["generator"]["seed"] = 7
    (other / "generation.json").write_text(json.dumps(generation))
    with pytest.raises(ValueError, match="evaluate this set"):
        dataset_card(other, runs / "evidence")
    trained = shutil.copytree(runs / "retina", tmp_path / "retina")
    weights = next((trained / "unet").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="other weights"):
        model_card(trained, evidence=runs / "evidence")
    with pytest.raises(ValueError, match="holds no evidence"):
        model_card(runs / "retina", evidence=runs / "set")
    with pytest.raises(ValueError, match="no finished checkpoint"):
        model_card(runs / "set")
    with pytest.raises(ValueError, match="no synthetic data set"):
        dataset_card(runs / "retina")


def test_a_damaged_shard_is_named(runs: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(runs / "set", tmp_path / "set")
    shard = min(copy.glob("data/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    for read in (sample_grid, dataset_card):
        with pytest.raises(ValueError, match=f"{shard.name} cannot be read .*; copy it anew"):
            read(copy)


def test_pictures_changed_from_real_ones_are_not_called_invented(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "set", tmp_path / "set")
    path = tmp_path / "set" / "generation.json"
    generation = json.loads(path.read_text())
    generation["generator"]["image_to_image"] = {"from_images": "eyes.npz", "strength": {"clear": 0.6}}
    path.write_text(json.dumps(generation))
    card = dataset_card(tmp_path / "set", terms=CLINIC)
    assert "24 images changed from real ones, of 2 classes" in card and "24 invented" not in card
    assert "Each image began as one of a patient" in card


def test_a_folder_that_is_called_like_the_generators_run_is_passed_over(runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "set", tmp_path / "near" / "set")
    generation = json.loads((folder / "generation.json").read_text())
    model = generation["generator"]["model"] = "runs/retina"
    (folder / "generation.json").write_text(json.dumps(generation))
    alone = dataset_card(folder, terms=CLINIC)
    assert (
        "huggingface.co/runs" not in alone
        and published_generation(generation, folder)["generator"]["model"] == "retina"
    )
    (folder.parent / model).mkdir(parents=True)
    (folder.parent / model / "config.yaml").write_text("train_steps: 31337\n")
    assert dataset_card(folder, terms=CLINIC) == alone
    shutil.copytree(runs / "retina", tmp_path / model)
    beside = dataset_card(folder, terms=CLINIC)
    assert beside != alone and "31337" not in beside


def test_a_risk_and_a_licence_override_are_printed(runs: Path) -> None:
    card = dataset_card(runs / "set", runs / "evidence", terms=CLINIC, accepted_risk="two near copies are of phantoms")
    assert "two near copies are of phantoms" in card and DatasetCard(card).data.license == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match="non-commercial, and the card would say mit"):
        dataset_card(runs / "set", terms=replace(CLINIC, license="mit"))
    owned = replace(CLINIC, license="mit", license_override="the clinic owns the data")
    card = dataset_card(runs / "set", terms=owned)
    assert DatasetCard(card).data.license == "mit" and "the clinic owns the data" in card
