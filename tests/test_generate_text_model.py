"""Generation of texts by a real language model: the command, kills, processes and other weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import REPOSITORY, kill_when
from test_generate_text import read_rows, report
from text_models import save_small_task, save_tiny_model
from warm_python import run_in_two

from clinsynth.scripts.generate_text import GenerateTextArguments, main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_task(tmp_path_factory.mktemp("task") / "small.yaml")


def words(model: Path, task: Path, output_dir: Path, **changes: Any) -> list[str]:
    flags = {"model": model, "task": task, "output_dir": output_dir, "per_class": 8, "shard_size": 4} | changes
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]


def arguments(model: Path, task: Path, output_dir: Path, **changes: Any) -> GenerateTextArguments:
    settings: dict[str, Any] = {"per_class": 6, "shard_size": 4}
    return GenerateTextArguments(model=str(model), task=str(task), output_dir=str(output_dir), **settings | changes)


def test_every_row_is_valid_and_the_folder_says_how_it_was_made(model: Path, task: Path, tmp_path: Path) -> None:
    main(arguments(model, task, tmp_path / "out"))
    rows = read_rows(tmp_path / "out")
    assert [row["label"] for row in rows] == [0] * 6 + [1] * 6
    assert all(12 <= len(row["text"]) <= 30 for row in rows) and len({row["seed"] for row in rows}) == 12
    made = report(tmp_path / "out")
    assert made["complete"] and made["produced"] == {"mild": 6, "severe": 6} and made["given_up"] == 0
    assert made["generator"]["network"] == "LlamaForCausalLM" and len(made["generator"]["weights_sha256"]) == 64
    assert json.loads((tmp_path / "out" / "task.json").read_text())["labels"]["severe"] == "a lot"


def test_texts_do_not_depend_on_the_batch_size(model: Path, task: Path, tmp_path: Path) -> None:
    main(arguments(model, task, tmp_path / "a", batch_size=8))
    main(arguments(model, task, tmp_path / "b", batch_size=1))
    assert read_rows(tmp_path / "a") == read_rows(tmp_path / "b")


def test_a_killed_run_loses_and_doubles_no_row(model: Path, task: Path, tmp_path: Path) -> None:
    killed = words(model, task, tmp_path / "killed", per_class=30)
    kill_when((tmp_path / "killed" / "data" / "train-00002-of-00015.parquet").exists, "generate", "text", *killed)
    assert not report(tmp_path / "killed")["complete"]
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "data").glob("train-*")}
    main(arguments(model, task, tmp_path / "killed", per_class=30))
    main(arguments(model, task, tmp_path / "whole", per_class=30))
    assert read_rows(tmp_path / "killed") == read_rows(tmp_path / "whole")
    assert len(finished) >= 3 and all(path.stat().st_mtime_ns == at for path, at in finished.items())


def test_two_processes_write_the_same_data_set(model: Path, task: Path, tmp_path: Path) -> None:
    main(arguments(model, task, tmp_path / "one", per_class=8))
    run_in_two(REPOSITORY / "scripts" / "generate_text.py", *words(model, task, tmp_path / "two"))
    assert read_rows(tmp_path / "one") == read_rows(tmp_path / "two")
    made = report(tmp_path / "two")
    assert made["complete"] and made["processes"] == 2


def test_other_weights_settings_and_examples_do_not_add_to_a_data_set(model: Path, task: Path, tmp_path: Path) -> None:
    rows = "".join(f"rain walks {n} over {n * n} lamps,{label}\n" for label in ("mild", "severe") for n in range(12))
    (tmp_path / "posts.csv").write_text("text,label\n" + rows)
    flags: dict[str, Any] = {"dataset": str(tmp_path / "posts.csv"), "k_shot": 2, "per_class": 1}
    main(arguments(model, task, tmp_path / "out", **flags))
    assert all(len(set(row["example_ids"])) == 2 for row in read_rows(tmp_path / "out"))
    with pytest.raises(ValueError, match="was begun with --k_shot 2, not 1"):
        main(arguments(model, task, tmp_path / "out", **flags | {"k_shot": 1}))
    (tmp_path / "posts.csv").write_text("text,label\n" + rows.replace("rain", "snow"))
    with pytest.raises(ValueError, match="was begun with examples_sha256"):
        main(arguments(model, task, tmp_path / "out", **flags))
    (tmp_path / "out" / "config.yaml").unlink()
    (tmp_path / "posts.csv").write_text("text,label\n" + rows)
    other = save_tiny_model(tmp_path / "other", seed=1)
    with pytest.raises(ValueError, match=r"was begun with (model|weights_sha256)"):
        main(arguments(other, task, tmp_path / "out", **flags))


def test_a_model_that_is_not_there_is_named(task: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--model nobody/nothing cannot be loaded as a causal language model"):
        main(arguments(Path("nobody/nothing"), task, tmp_path / "out"))
