"""Texts that are drawn anew by what they say: another label than asked for, or a kept text in other words."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_server import ChatServer
from test_generate_text import Row, ask_of, read_rows, report
from test_generate_text import arguments as chain_arguments
from test_generate_text import plan_of as severity_plan
from text_models import save_small_task
from text_posts import LABELS, save_tiny_encoder, write_post, write_posts
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from clinsynth.data.tasks import load_task
from clinsynth.models.language_models import load_writer
from clinsynth.models.writers import attempt_seed
from clinsynth.pipelines.structured_medical_text.text_rows import RowRequest, attempt_rows, derive_seed
from clinsynth.scripts.generate_text import GenerateTextArguments
from clinsynth.scripts.generate_text import main as generate
from clinsynth.synthesis.text_filters import (
    NEAR_DUPLICATE,
    NO_WORD,
    NOT_CONFIRMED,
    LabelCheck,
    SeenTexts,
    SimilarTexts,
    load_embed,
)
from clinsynth.synthesis.text_shards import settle_shards, write_text_shards


def save_classifier(folder: Path, names: list[str], steps: int = 0) -> Path:
    """A BERT of one layer that tells posts apart after 60 steps, and calls everything the first name after none."""
    posts = write_posts(120, 0, "r")
    save_tiny_encoder(folder, posts.texts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = BertConfig.from_pretrained(folder, id2label=dict(enumerate(names)), num_labels=len(names))
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.0 if steps else 9.0, *[0.0] * (len(names) - 1)]))
    inputs = tokenizer(posts.texts, padding=True, truncation=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(**inputs, labels=torch.tensor(posts.labels)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def test_a_text_without_a_word_is_drawn_anew() -> None:
    seen = SeenTexts(0.0)
    assert [seen.reason(text) for text in ("\U0001f389\U0001f381" * 20, "... !?", " - ")] == [NO_WORD] * 3
    assert seen.reason("\U0001f389 ok") is None and seen.reason("悲しい") is None


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("classifier"), LABELS, steps=60)


def write_half_wrong(requests: Any) -> Iterator[Row]:
    """Posts of which about half are of the other label."""
    for messages, seed in requests:
        asked = "severe" if '"severe"' in messages[1]["content"] else "mild"
        other = LABELS[1 - LABELS.index(asked)]
        yield Row({"text": write_post(other if seed % 2 else asked, np.random.default_rng(seed))})


def test_texts_of_another_label_are_drawn_anew_and_counted(classifier: Path, tmp_path: Path) -> None:
    check = LabelCheck(str(classifier), LABELS)
    real = write_posts(60, 7, "t")
    assert np.mean([check(text) == LABELS[label] for text, label in zip(real.texts, real.labels, strict=True)]) > 0.95
    names = list(load_task("severity-posts").labels)
    labels = [names.index("mild")] * 10 + [names.index("severe")] * 10
    plan = severity_plan(tmp_path)
    plan = type(plan)(**{**vars(plan), "labels": labels})
    seen, ask = SeenTexts(0.7, read_label=check), ask_of(chain_arguments(tmp_path))
    write_text_shards(plan, ask, write_half_wrong, seen)
    settle_shards(plan, ask, write_half_wrong, seen)
    plan.finish({})
    rows = read_rows(tmp_path)
    assert len(rows) == 20 and all(check(row["text"]) == names[row["label"]] for row in rows)
    assert 5 < report(tmp_path)["rejected"][NOT_CONFIRMED] < 60
    assert sum(row["attempts"] for row in rows) == 20 + sum(report(tmp_path)["rejected"].values())


def remote(server: ChatServer, folder: Path, **changes: Any) -> GenerateTextArguments:
    task = save_small_task(folder / "small.yaml")
    flags: dict[str, Any] = {"endpoint": server.url, "model": "m", "task": str(task), "per_class": 2}
    return GenerateTextArguments(**{"output_dir": str(folder / "out")} | flags | changes)


def test_the_command_verifies_and_an_unfit_classifier_is_named(tmp_path: Path) -> None:
    always = save_classifier(tmp_path / "always-mild", LABELS)
    with ChatServer().serve() as server:
        generate(remote(server, tmp_path, verify_labels=str(always)))
        made = report(tmp_path / "out")
        assert made["produced"] == {"mild": 2, "severe": 0} and made["given_up"] == 2
        assert made["rejected"] == {NOT_CONFIRMED: 20} and len(made["generator"]["verify_labels_sha256"]) == 64
        for text, message in (
            (save_classifier(tmp_path / "other", ["mild", "grave"]), "has the classes mild, grave, without 'severe'"),
            (save_tiny_encoder(tmp_path / "body", ["rain walks"]), "has no trained classifier on its network"),
            (tmp_path / "nothing", r"--verify_labels .* cannot be loaded .*train text-classifier` saved"),
        ):
            with pytest.raises(ValueError, match=message):
                generate(remote(server, tmp_path, verify_labels=str(text), output_dir=str(tmp_path / "none")))


def test_texts_alike_by_embedding_are_near_duplicates() -> None:
    rows = {"a": [1.0, 0.0], "b": [0.96, 0.28], "c": [0.0, 1.0]}
    known = SimilarTexts(lambda text: np.array(rows[text], dtype=np.float32), 0.95)
    assert "a" not in known
    known.add("a")
    assert "b" in known and "c" not in known
    for _ in range(200):
        known.add("c")
    assert "c" in known and "b" in known and known.count == 201


def test_the_command_takes_an_encoder(tmp_path: Path) -> None:
    encoder = save_tiny_encoder(tmp_path / "encoder", write_posts(30, 0, "r").texts)
    embed = load_embed(str(encoder))
    assert embed("the driver sings.").shape == (16,) and np.linalg.norm(embed("a")) == pytest.approx(1, abs=1e-5)
    flags: dict[str, Any] = {"near_duplicate": 0.0, "near_duplicate_encoder": str(encoder)}
    with ChatServer().serve() as server:
        generate(remote(server, tmp_path, near_duplicate_cosine=1e-6, **flags))
        strict = report(tmp_path / "out")
        generate(remote(server, tmp_path, near_duplicate_cosine=1.0, output_dir=str(tmp_path / "loose"), **flags))
    # untrained, it finds nearly all texts alike
    assert sum(strict["produced"].values()) < 4 and strict["rejected"][NEAR_DUPLICATE] >= 10
    assert sum(report(tmp_path / "loose")["produced"].values()) == 4
    with pytest.raises(ValueError, match="--near_duplicate_encoder nobody/nothing cannot be loaded"):
        load_embed("nobody/nothing")
    with pytest.raises(ValueError, match=r"--near_duplicate_cosine must be in \(0, 1\], got 0.0"):
        remote(server, tmp_path, near_duplicate_cosine=0.0)


def test_rows_of_an_engine_in_this_process_are_attempted_together() -> None:
    asked: list[list[int]] = []

    def attempt(rows: list[RowRequest], failed: list[int]) -> list[Any]:
        asked.append([attempt_seed(row.seed, count) for row, count in zip(rows, failed, strict=True)])
        return [
            (None, "not JSON") if row.messages[0]["content"] in stubborn else ({"text": "a"}, None) for row in rows
        ]

    stubborn = {"1"}
    requests = [RowRequest([{"role": "user", "content": str(number)}], number) for number in range(3)]
    results = list(attempt_rows(requests, attempt, batch_size=3, max_attempts=3))
    assert [result.data for result in results] == [{"text": "a"}, None, {"text": "a"}]
    assert [result.attempts for result in results] == [1, 3, 1] and results[1].rejections == ["not JSON"] * 3
    assert asked == [[0, 1, 2], [derive_seed(1, 1) % 2**31], [derive_seed(1, 2) % 2**31]]


def test_vllm_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)  # an import then fails
    args = chain_arguments(tmp_path, backend="vllm")
    with pytest.raises(ImportError, match=r"--backend vllm needs vLLM 0.12 or later .*pip install clinsynth\[vllm\]"):
        load_writer(args, load_task("severity-posts"), "cpu")
