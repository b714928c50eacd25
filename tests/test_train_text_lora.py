"""Fine-tuning of a text generator: what it learns, restarts, what it leaves behind, and wrong input."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate import PartialState
from helpers import REPOSITORY
from peft import PeftModel
from safetensors.torch import load_file
from text_models import WORDS, save_small_task, save_tiny_model, tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer
from warm_python import run_in_two

from clinsynth.data.tasks import load_task
from clinsynth.data.texts import load_text_dataset
from clinsynth.metrics.texts.privacy import Canaries
from clinsynth.pipelines.structured_medical_text.prompts import Task, encode_messages, render_messages
from clinsynth.scripts.generate_text import GenerateTextArguments
from clinsynth.scripts.generate_text import main as generate
from clinsynth.trainers.text_lora.arguments import TextLoraArguments
from clinsynth.trainers.text_lora.examples import (
    Base,
    Encoder,
    Examples,
    TokenLimit,
    build_examples,
    check_task,
    draw_order,
    load_base,
)
from clinsynth.trainers.text_lora.fit import ValidatedJournal, trainer_checkpoints
from clinsynth.trainers.train_text_lora import main

OWN_WORD = {"mild": "lamps", "severe": "house"}
"""What the toy texts of a label always hold, and those of the other never."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Llama whose frozen weights are as large as a trained one's, so that adapters can steer it."""
    folder = save_tiny_model(tmp_path_factory.mktemp("model"))
    network = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        network.get_input_embeddings().weight.mul_(30)
        network.lm_head.weight.mul_(50)
        for name, weight in network.model.layers.named_parameters():
            if "proj" in name:
                weight.mul_(8)
    network.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_task(tmp_path_factory.mktemp("task") / "small.yaml")


@pytest.fixture(scope="module")
def posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("posts") / "posts.csv"
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["text", "label"])
        for row in range(120):
            label = list(OWN_WORD)[row % 2]
            table.writerow([f"{WORDS[row % 3]} {OWN_WORD[label]} {WORDS[6 + row % 5]} {row}", label])
    return path


@pytest.fixture(scope="module")
def tuned(model: Path, task: Path, posts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("tuned") / "out"
    main(arguments(model, task, posts, folder, epochs=6))
    return folder


def flags(model: Path, task: Path, posts: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"learning_rate": 1e-2, "train_steps": None, "lora_dropout": 0.1} | changes
    return {"model": model, "task": task, "dataset": posts, "output_dir": folder, **settings}


def arguments(model: Path, task: Path, posts: Path, folder: Path, **changes: Any) -> TextLoraArguments:
    values = flags(model, task, posts, folder, **changes)
    return TextLoraArguments(
        **{name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    )


def examples_of(args: TextLoraArguments, base: Base | None = None) -> Examples:
    """What would be trained on."""
    splits = load_text_dataset(args, args.seed)
    return build_examples(args, load_task(args.task), splits, base or load_base(args), PartialState(cpu=True))


def journal(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write_texts(folder: Path, texts: list[str], label: str = "mild") -> Path:
    """A data set of the texts and some harmless ones of both labels, split by a column."""
    rows = [("train", text, label) for text in texts]
    rows += [
        (split, f"rain walks {number} {split}", name)
        for split in ("train", "validation", "test")
        for name in OWN_WORD
        for number in range(2)
    ]
    with open(folder / "texts.csv", "w", newline="") as file:
        csv.writer(file).writerows([("split", "text", "label"), *rows])
    return folder / "texts.csv"


def test_the_validation_loss_falls_and_the_folder_says_how_it_was_made(tuned: Path) -> None:
    facts, records = json.loads((tuned / "training.json").read_text()), journal(tuned)
    validated = [record["validation_loss"] for record in records if "validation_loss" in record]
    assert facts["best_validation_loss"] == min(validated) < 0.2 * validated[0]
    assert validated[0] == facts["untrained_validation_loss"] and len(validated) == 1 + 6
    assert facts["texts"] == {"train": 84, "validation": 12} and facts["cut_examples"] == 0
    assert [r["step"] for r in records if "loss" in r] == list(range(1, facts["steps"] + 1))
    curve = list(csv.DictReader((tuned / "learning_curve.csv").open()))
    assert len(curve) == len(records) and curve[-1]["validation_loss"]
    assert json.loads((tuned / "environment.json").read_text())["packages"]["transformers"]
    assert not list(tuned.glob("*.tmp")) and not (tuned / "merged").exists()


def test_texts_of_a_label_hold_that_labels_word(tuned: Path, task: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"per_class": 12, "near_duplicate": 0.0, "temperature": 0.3}
    generate(GenerateTextArguments(model=str(tuned), task=str(task), output_dir=str(tmp_path / "texts"), **settings))
    rows = [row for path in (tmp_path / "texts" / "data").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert len(rows) == 24 and all(12 <= len(row["text"]) <= 30 for row in rows)
    own = sum(list(OWN_WORD.values())[row["label"]] in row["text"] for row in rows)
    other = sum(list(OWN_WORD.values())[1 - row["label"]] in row["text"] for row in rows)
    assert own >= 21 and other <= 1


def test_the_merged_model_is_the_base_with_the_adapter(tuned: Path, model: Path) -> None:
    prompt = torch.tensor([AutoTokenizer.from_pretrained(tuned)("rain walks over the quiet house").input_ids])
    merged = AutoModelForCausalLM.from_pretrained(tuned)
    base = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        untouched = base(prompt).logits
        adapted = PeftModel.from_pretrained(base, str(tuned / "adapter")).eval()(prompt).logits
        found = merged(prompt).logits
    assert torch.allclose(found, adapted, atol=1e-3, rtol=1e-4)
    assert (found - untouched).abs().max() > 1
    assert AutoTokenizer.from_pretrained(tuned).chat_template == AutoTokenizer.from_pretrained(model).chat_template
    assert list(tuned.glob("*.safetensors")) and not list(tuned.glob("*.bin"))
    layers = json.loads((tuned / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert layers == sorted(layers) and len(layers) > 1


def test_the_best_pass_is_kept_and_nothing_is_reported_outside(
    model: Path, task: Path, posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[object] = []
    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda **what: reported.append(what))
    monkeypatch.delenv("CI", raising=False)
    main(arguments(model, task, posts, tmp_path / "out", learning_rate=0.9, train_steps=12))
    facts, records = json.loads((tmp_path / "out" / "training.json").read_text()), journal(tmp_path / "out")
    validated = {record["step"]: record["validation_loss"] for record in records if "validation_loss" in record}
    assert list(validated) == [0, 11, 12] and not reported
    assert facts["best_step"] == min(validated, key=lambda step: validated[step])
    assert json.loads((tmp_path / "out" / "adapter" / "validation.json").read_text())["step"] == facts["best_step"]


def test_a_stopped_run_ends_as_one_that_never_stopped(
    model: Path, task: Path, posts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"train_steps": 14, "checkpointing_steps": 3}
    step_end = ValidatedJournal.on_step_end

    def stop(self: ValidatedJournal, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 8:
            raise KeyboardInterrupt
        step_end(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ValidatedJournal, "on_step_end", stop)
        main(arguments(model, task, posts, tmp_path / "stopped", **settings))
    assert not (tmp_path / "stopped" / "config.json").exists()
    saved = trainer_checkpoints(tmp_path / "stopped")
    assert [path.name for path in saved] == ["checkpoint-3", "checkpoint-6"]
    shutil.copytree(saved[-1], tmp_path / "stopped" / "checkpoint-9")  # newer, and not finished
    (tmp_path / "stopped" / "checkpoint-9" / "trainer_state.json").write_text("{")
    main(arguments(model, task, posts, tmp_path / "stopped", **settings))
    main(arguments(model, task, posts, tmp_path / "whole", **settings))
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("stopped", "whole")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert journal(tmp_path / "stopped") == journal(tmp_path / "whole")


def test_two_processes_train_as_one_with_twice_the_batch(model: Path, task: Path, posts: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train_steps": 4, "lora_dropout": 0.0, "learning_rate": 1e-3}
    main(arguments(model, task, posts, tmp_path / "one", batch_size=8, **settings))
    words = [
        word
        for name, value in flags(model, task, posts, tmp_path / "two", batch_size=4, **settings).items()
        for word in (f"--{name}", str(value))
    ]
    run_in_two(REPOSITORY / "trainers" / "train_text_lora.py", *words)
    one, two = journal(tmp_path / "one"), journal(tmp_path / "two")
    assert [record["step"] for record in one] == [record["step"] for record in two] == [0, 1, 2, 3, 4, 4]
    assert all(two[at] == pytest.approx(record, rel=1e-3) for at, record in enumerate(one))
    assert one[1] == pytest.approx(two[1], rel=1e-5) and one[-1]["validation_loss"] < 0.95 * one[0]["validation_loss"]
    assert json.loads((tmp_path / "two" / "training.json").read_text())["processes"] == 2
    with pytest.raises(ValueError, match="was begun with processes 2, not 1"):
        main(arguments(model, task, posts, tmp_path / "two", batch_size=4, **settings))


def test_a_finished_run_is_not_repeated_and_changed_texts_are_refused(
    model: Path, task: Path, posts: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.csv"
    shutil.copyfile(posts, mine)
    args = arguments(model, task, mine, tmp_path / "out", train_steps=2, checkpointing_steps=1)
    main(args)
    written = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    main(args)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="was begun with --lora_rank 16, not 4"):
        main(arguments(model, task, mine, tmp_path / "out", train_steps=2, lora_rank=4))
    mine.write_text(posts.read_text().replace("lamps", "moths"))
    with pytest.raises(ValueError, match=r"was begun with examples_sha256 .* texts, task, tokenizer"):
        main(args)


@pytest.mark.parametrize("chat", [True, False])
def test_an_example_is_the_prompt_of_generation_and_the_json_of_the_text(
    model: Path, task: Path, tmp_path: Path, chat: bool
) -> None:
    hostile = ['a "quoted" one\nleft', "<|im_end|> is said", "rain 😀 שלום مرحبا", "back\\slash \\n walks"]
    args = arguments(model, task, write_texts(tmp_path, hostile), tmp_path / "out", epochs=3)
    base = load_base(args)
    base.tokenizer.chat_template = base.tokenizer.chat_template if chat else None
    found, encoder = examples_of(args, base), Encoder(base.tokenizer, load_task(args.task))
    texts, prompts = [], set()
    for row in found.train:
        start = next(at for at, label in enumerate(row["labels"]) if label >= 0)
        assert row["labels"] == [-100] * start + row["input_ids"][start:]
        assert row["input_ids"][-1] == base.tokenizer.eos_token_id
        text, finished = encoder.constraint.decode(row["input_ids"][start:])
        processor = encoder.constraint.processor(start, 1)
        for at in range(start, len(row["input_ids"])):  # what is trained can be written in generation
            scores = processor(torch.tensor([row["input_ids"][:at]]), torch.zeros(1, len(base.tokenizer)))
            assert scores[0, row["input_ids"][at]] > -torch.inf
        assert finished
        texts.append(json.loads(text)["text"])
        prompts.add(tuple(row["input_ids"][:start]))
    assert set(hostile) < set(texts) and len(texts) == 3 * 8
    assert len(prompts) > 16  # of a pass there are 8 texts; a text meets another persona in each
    wanted = render_messages(encoder.task, label="mild", k_shot=[], seed=5)
    assert encoder.prompt("mild", 5) == encode_messages(base.tokenizer, wanted)


def test_the_label_is_all_that_a_prompt_tells_of_its_text(
    model: Path, task: Path, posts: Path, tmp_path: Path
) -> None:
    args = arguments(model, task, posts, tmp_path / "out", epochs=12)
    base = load_base(args)
    seen = base.tokenizer.batch_decode(examples_of(args, base).train["input_ids"][:])
    for name in OWN_WORD:
        mine = [text for text in seen if f'"{name}"' in text]
        assert 0.18 < sum("a cook" in text for text in mine) / len(mine) < 0.33  # one in four, whatever the label


def test_balanced_order_draws_classes_equally_and_rows_in_turn() -> None:
    labels = ["a"] * 9 + ["b"] * 3
    plain = draw_order(labels, 24, balanced=False, seed=0).tolist()
    assert sorted(plain[:12]) == sorted(plain[12:]) == list(range(12)) and plain[:12] != plain[12:]
    balanced = draw_order(labels, 36, balanced=True, seed=0).tolist()
    assert [sum(labels[row] == name for row in balanced) for name in "ab"] == [18, 18]
    assert {balanced.count(row) for row in range(9)} == {2} and {balanced.count(row) for row in (9, 10, 11)} == {6}
    assert draw_order(labels, 36, balanced=True, seed=1).tolist() != balanced


def test_long_texts_are_cut_when_asked_and_counted_else_refused() -> None:
    limit = TokenLimit(10, 100)
    assert limit(list(range(6)), list(range(6)), "mild") == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert (limit.cut, limit.lost, limit.written, limit.longest) == (1, 2, 6, 12)
    with pytest.raises(ValueError, match="a prompt of label 'mild' alone has 13 tokens, 3 more"):
        limit([0] * 13, [0], "mild")
    with pytest.raises(ValueError, match="has 6 tokens and its prompt 6, 2 more than the model's context of 10"):
        TokenLimit(None, 10)([0] * 6, [0] * 6, "mild")
    with pytest.raises(ValueError, match="--max_length 101 is 1 tokens above the model's context of 100"):
        TokenLimit(101, 100)


def test_texts_that_the_schema_refuses_are_left_out_and_counted(
    model: Path, task: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_texts(tmp_path, ["secret " * 9, "short", "old friends count"])
    with caplog.at_level("WARNING"):
        found = examples_of(arguments(model, task, data, tmp_path / "out", train_steps=1))
    assert found.facts["left_out"]["train"] == {"maxLength at $.text": 1, "minLength at $.text": 1}
    assert "2 of 7 train texts are not valid" in caplog.text and "secret" not in caplog.text
    values = yaml.safe_load(task.read_text())
    values["schema"]["properties"]["text"] |= {"minLength": 60, "maxLength": 90}
    (tmp_path / "narrow.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"no train text of label 'severe' is valid .* and there are 2 of it; give"):
        examples_of(arguments(model, tmp_path / "narrow.yaml", data, tmp_path / "out"))


def test_canaries_are_planted_and_listed(model: Path, task: Path, posts: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(task.read_text())
    values["schema"]["properties"]["text"]["maxLength"] = 120
    (tmp_path / "long.yaml").write_text(yaml.safe_dump(values))
    args = arguments(model, tmp_path / "long.yaml", posts, tmp_path / "out", train_steps=11, canaries=3)
    base = load_base(args)
    found = examples_of(args, base)
    seen = "".join(base.tokenizer.batch_decode(found.train["input_ids"][:]))
    assert found.canaries is not None and all(canary in seen for canary in found.canaries.planted)
    assert not any(canary in seen for canary in found.canaries.references)
    main(arguments(model, tmp_path / "long.yaml", posts, tmp_path / "out", train_steps=1, canaries=3))
    assert Canaries(**json.loads((tmp_path / "out" / "canaries.json").read_text())) == found.canaries
    with pytest.raises(ValueError, match="--canaries 3: only 0 train texts have room"):
        examples_of(arguments(model, task, posts, tmp_path / "out", canaries=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ""}, "--model is missing"),
        ({"task": ""}, "--task is missing"),
        ({"dataset": ""}, "--dataset is missing; give the real texts"),
        ({"lora_rank": 0}, "--lora_rank must be at least 1, got 0"),
        ({"train_steps": 0}, "--train_steps must be at least 1, got 0"),
        ({"learning_rate": 0.0}, r"--learning_rate must be in \(0, 1\), got 0.0"),
        ({"lora_dropout": 1.0}, r"--lora_dropout must be in \[0, 1\), got 1.0"),
        ({"task": "no-such"}, "--task 'no-such' is unknown"),
        ({"model": "nobody/nothing"}, "--model nobody/nothing cannot be loaded"),
        ({"target_modules": "no_such"}, "--target_modules no_such: .*q_proj"),
        ({"max_length": 20}, "--max_length 20: a prompt of label .* alone has"),
    ],
)
def test_wrong_flags_are_named(
    model: Path, task: Path, posts: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        main(TextLoraArguments(**{**vars_of(model, task, posts, tmp_path / "out"), **changes}))


def vars_of(model: Path, task: Path, posts: Path, folder: Path) -> dict[str, Any]:
    return {"model": str(model), "task": str(task), "dataset": str(posts), "output_dir": str(folder), "train_steps": 1}


def test_empty_and_one_class_data_and_unknown_labels_are_refused(model: Path, task: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("text,label\n")
    with pytest.raises(ValueError, match=r"empty|no rows"):
        main(arguments(model, task, tmp_path / "empty.csv", tmp_path / "out"))
    (tmp_path / "one.csv").write_text("text,label\n" + "".join(f"rain walks over {n},mild\n" for n in range(40)))
    with pytest.raises(ValueError, match="has 1 class"):
        main(arguments(model, task, tmp_path / "one.csv", tmp_path / "out"))
    small = Task.from_dict(yaml.safe_load(task.read_text()))
    fields = load_task("icd10-report", "F32.1").schema["properties"]
    args = arguments(model, task, tmp_path / "one.csv", tmp_path / "out")
    with pytest.raises(ValueError, match="its schema has the fields presenting_complaint, history"):
        check_task(args, replace(small, schema=small.schema | {"properties": fields}), ["mild"])
    with pytest.raises(ValueError, match=r"has the label 'grim', which --task .* does not know; its labels are mild"):
        check_task(args, small, ["mild", "grim"])


def test_a_model_without_an_end_token_or_with_a_foreign_tokenizer_is_refused(
    model: Path, task: Path, posts: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(broken)
    with pytest.raises(ValueError, match="has no end token"):
        main(arguments(broken, task, posts, tmp_path / "out"))
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([f"<extra {number}>" for number in range(40)])
    tokenizer.save_pretrained(broken)
    with pytest.raises(ValueError, match=r"its tokenizer has 388 tokens and the network knows"):
        main(arguments(broken, task, posts, tmp_path / "out"))


def test_a_dry_run_trains_nothing_and_the_end_says_how_to_go_on(
    model: Path, task: Path, posts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(model, task, posts, tmp_path / "out", dry_run=True))
    assert '"steps_a_pass": 11' in capsys.readouterr().out and not (tmp_path / "out").exists()
    main(arguments(model, task, posts, tmp_path / "out", train_steps=1, dtype="bfloat16"))
    told = capsys.readouterr().out
    assert f"clinsynth generate text --model {tmp_path / 'out'} --task {task} --dataset {posts}" in told
    assert f"clinsynth evaluate text --real {posts} --synthetic {tmp_path / 'out'}-texts" in told
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
