"""Attacks on a tuned language model: one that knows its texts by heart gives them away, an untrained one nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from text_models import WORDS, save_small_task, save_tiny_model

from clinsynth import cli
from clinsynth.data.tasks import load_task
from clinsynth.data.texts import TextArrays, as_objects
from clinsynth.models.language_models import load_causal_model
from clinsynth.study.text_attacks import TunedModel, attack_texts
from clinsynth.trainers.text_lora.examples import Encoder

LABELS = ["mild", "severe"]


def texts(count: int, seed: int) -> TextArrays:
    rng = np.random.default_rng(seed)
    rows = [" ".join(rng.choice(WORDS, 5))[:30] for _ in range(count)]
    return TextArrays(as_objects(rows), np.arange(count) % 2, LABELS)


def learn(tuned: TunedModel, data: TextArrays, steps: int) -> None:
    """Train on the texts behind their prompts, all at once."""
    optimizer = torch.optim.AdamW(tuned.model.parameters(), lr=1e-2)
    rows = [
        (tuned.encoder.prompt(LABELS[label], tuned.seed), tuned.encoder.completion(str(text)))
        for text, label in zip(data.texts, data.labels, strict=True)
    ]
    longest = max(len(prompt) + len(rest) for prompt, rest in rows)
    pad = [longest - len(prompt) - len(rest) for prompt, rest in rows]
    ids = torch.tensor([[*prompt, *rest, *[0] * more] for (prompt, rest), more in zip(rows, pad, strict=True)])
    labels = torch.tensor(
        [[*[-100] * len(prompt), *rest, *[-100] * more] for (prompt, rest), more in zip(rows, pad, strict=True)]
    )
    for _ in range(steps):
        tuned.model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def tuned(tmp_path: Path) -> TunedModel:
    model, tokenizer = load_causal_model(str(save_tiny_model(tmp_path / "model")))
    return TunedModel(model, Encoder(tokenizer, load_task(str(save_small_task(tmp_path / "task.yaml")))), 0)


def test_texts_learnt_by_heart_are_found_and_said(tuned: TunedModel) -> None:
    members, others = texts(40, 0), texts(40, 1)
    settings = {"prefix": 4, "length": 3, "seed": 0, "max_rows": 500}
    before = attack_texts(tuned, members, others, **settings)
    assert 0.2 < before["membership"]["value"] < 0.8 and before["extraction"]["count"] == 0
    learn(tuned, members, 120)
    after = attack_texts(tuned, members, others, **settings)
    assert after["membership"]["value"] > 0.9 and after["membership"]["interval"][0] > 0.5
    assert after["extraction"]["value"] > 0.5 > after["extraction"]["floor"]["value"] + 0.2
    assert abs(after["membership"]["control"]["value"] - 0.5) < 0.3
    assert not any(text in json.dumps(after) for text in members.texts)


def test_few_rows_are_not_measured(tuned: TunedModel) -> None:
    record = attack_texts(tuned, texts(10, 0), texts(10, 1), prefix=2, length=2, seed=0, max_rows=9)
    assert record["membership"]["value"] is None and "needs 16 rows a side" in record["extraction"]["note"]
    assert tuned.says("rain", "mild", 3, 50) is None


def test_the_command_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["audit", "text-model", "--model=m", "--task=t"])
    assert "--dataset is missing; name the real texts" in capsys.readouterr().err
