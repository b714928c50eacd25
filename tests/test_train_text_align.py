"""Semi-alignment: scores and pairs of generated texts, training by DPO and KTO, and what lets a run go on."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from text_models import save_small_task, save_tiny_model
from text_posts import LABELS, save_tiny_encoder, write_posts
from transformers import AutoModelForCausalLM

pytest.importorskip("trl", reason="needs the packages of `pip install clinsynth[text]`")

from clinsynth.arguments import parse
from clinsynth.data.texts import TextSet
from clinsynth.models.linear_texts import tfidf
from clinsynth.run_folder import read_metrics
from clinsynth.trainers.text_align.pairs import authenticity_of, make_pairs
from clinsynth.trainers.train_text_align import TextAlignArguments, main

WORDS = {"mild": ["quiet lamps", "old friends"], "severe": ["nobody sleeps", "dark house"]}


def write_rows(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real posts, a model, a task, an encoder, rules, and a set in which every third text is an insult."""
    folder = tmp_path_factory.mktemp("align")
    real = [(f"{WORDS[LABELS[row % 2]][row // 2 % 2]} {row}", LABELS[row % 2]) for row in range(60)]
    write_rows(folder / "posts.csv", real)
    save_tiny_model(folder / "model")
    save_small_task(folder / "task.yaml")
    save_tiny_encoder(folder / "encoder", [text for text, _ in real])
    (folder / "rules.yaml").write_text("abuse: {meaning: insults, patterns: [you idiot]}\n")
    texts = [f"{WORDS[LABELS[row % 2]][0]} {'you idiot' if row % 3 == 0 else 'again'} {row}" for row in range(24)]
    features = Features(text=Value("string"), label=ClassLabel(names=LABELS))
    rows = {"text": texts, "label": [row % 2 for row in range(24)]}
    (folder / "set").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(folder / "set" / "train-00000-of-00001.parquet")
    return folder


def arguments(made: Path, output: Path, *flags: str) -> TextAlignArguments:
    usual = [f"--{name}={made / file}" for name, file in FILES.items()]
    return parse(
        TextAlignArguments, [*usual, "--learning_rate=1e-2", "--lora_rank=4", f"--output_dir={output}", *flags]
    )


FILES = {
    "model": "model",
    "task": "task.yaml",
    "dataset": "posts.csv",
    "synthetic": "set",
    "encoder": "encoder",
    "rules": "rules.yaml",
}


def test_better_halves_meet_worse_ones_of_their_label() -> None:
    labels, scores = ["a", "b", "a", "a", "b", "a", "a"], np.array([0.9, 0.5, 0.1, 0.4, 0.5, 0.6, 0.5])
    assert make_pairs(labels, scores, 0.2) == [(0, 3), (5, 2)]
    assert make_pairs(labels, scores, 0.6) == [] and make_pairs(labels, np.zeros(7), 0.0) == []


def test_bland_texts_are_less_authentic_than_texts_of_the_label() -> None:
    """What a reward hacker would write scores below what real texts of the label do."""
    real, like, bland = (
        write_posts(90, seed, "r", softened) for seed, softened in ((0, False), (1, False), (2, True))
    )
    words = tfidf([*real.texts, *like.texts, *bland.texts])

    def score(side: TextSet) -> np.ndarray:
        found = authenticity_of(
            lambda texts: words.transform(texts).toarray(), side.texts, side.labels, real.texts, real.labels, 2
        )
        assert (found >= 0).all() and (found <= 1).all()
        return found[side.labels == 1]

    assert score(bland).mean() < score(like).mean() - 0.1


def first_losses(folder: Path) -> list[float]:
    return [round(record["loss"], 5) for record in read_metrics(folder)]


def margin(folder: Path, made: Path) -> float:
    """How much likelier, in nats a token, a model finds a text of the set than the same with the insult."""
    from clinsynth.models.language_models import load_scorer
    from clinsynth.models.text_encoders import pack_texts

    good, bad = (json.dumps({"text": f"quiet lamps {word} 2"}) for word in ("again", "you idiot"))
    losses = load_scorer(str(folder))(pack_texts([good, bad]))[:, 0]
    return float(losses[1] - losses[0])


def test_dpo_learns_to_leave_insults_out_and_a_stopped_run_goes_on(made: Path, tmp_path: Path, capsys: Any) -> None:
    flags = ["--epochs=2", "--harm_weight=1", "--checkpointing_steps=2"]
    main(arguments(made, tmp_path / "whole", *flags))
    facts = json.loads((tmp_path / "whole" / "training.json").read_text())
    assert facts["better"]["harmful"] == 0 and facts["worse"]["harmful"] == 1 and facts["pairs"] == 8
    records = read_metrics(tmp_path / "whole")
    assert len(records) == 4 and records[0]["loss"] == pytest.approx(np.log(2), abs=0.02)
    assert records[-1]["loss"] < 0.6 and margin(tmp_path / "whole", made) > margin(made / "model", made)
    assert "8 pairs" in capsys.readouterr().out

    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoint-4")
    (tmp_path / "killed" / "config.json").unlink()
    main(arguments(made, tmp_path / "killed", *flags))
    assert first_losses(tmp_path / "killed") == first_losses(tmp_path / "whole")
    weights = [AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "killed")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match="beta"):
        main(arguments(made, tmp_path / "killed", *flags, "--beta=0.2"))


def test_kto_trains_too(made: Path, tmp_path: Path) -> None:
    main(arguments(made, tmp_path, "--method=kto", "--harm_weight=1", "--batch_size=8"))
    assert len(read_metrics(tmp_path)) == 2 and (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_wrong_flags_are_named(made: Path, tmp_path: Path) -> None:
    for flags, message in (
        (["--synthetic="], "--synthetic is missing"),
        (["--harm_weight=2"], r"--harm_weight must be in \[0, 1\], got 2"),
        (["--method=kto", "--batch_size=1"], "--batch_size must be at least 2, got 1"),
        (["--least_gap=1"], r"no two texts of a label differ by --least_gap 1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            main(arguments(made, tmp_path, *flags))
