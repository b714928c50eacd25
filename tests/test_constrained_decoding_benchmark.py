"""The decoding benchmark runs at tiny size and tells what it measured."""

import json
from pathlib import Path

import pytest
from helpers import REPOSITORY, run_warm
from text_models import save_tiny_model


def test_every_section_but_the_peers_runs(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    small = ["--batch_size", "2", "--steps", "4", "--model_steps", "3", "--repeats", "1", "--samples", "20"]
    command = ["-m", "benchmarks.constrained_decoding", "--model", model, "--output_dir", tmp_path / "out", *small]
    printed = run_warm(*command, "--sections", "parts,length,memory,model,yield").stdout
    record = json.loads((tmp_path / "out" / "constrained_decoding.json").read_text())
    compared = [(row["what"], row["a"], row["b"]) for row in record["comparisons"]]
    assert compared[:3] == [
        ("prompt's length", "1000 tokens", "1 token"),
        ("prompt's length", "8000 tokens", "1 token"),
        ("text's length", "behind 2000 tokens", "behind 20 tokens"),
    ]
    assert len(compared) == 11 and compared[3] == (
        "a token of 3, GeneratedSamples, batch 1",
        "first batch",
        "unconstrained",
    )
    assert all(len(row["cpu"]["a"]) == 1 and row["cpu"]["a"][0] > 0 for row in record["comparisons"])
    lines = "\n".join(record["lines"])
    assert "after 2 texts" in lines and "after 20 texts" in lines and "8 of 8 drawn" in lines
    assert "constrained over plain: more than" in lines and lines in printed


def test_wrong_arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY)
    from benchmarks.constrained_decoding import DecodingArguments

    with pytest.raises(ValueError, match=r"--sections must be of parts, peers, .*, got 'speed'"):
        DecodingArguments(model="m", output_dir="o", sections="parts,speed")
    with pytest.raises(ValueError, match="--model_steps must be 1 or more, got 0"):
        DecodingArguments(model="m", output_dir="o", model_steps=0)
