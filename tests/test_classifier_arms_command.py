"""The command that trains classifiers in arms: the sets it is given, a kill, several processes."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from helpers import clinsynth, kill_when
from warm_python import run_in_two

from clinsynth.data.images import ImageArrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.models.image_classifiers import build_small_resnet, save_image_classifier
from clinsynth.trainers.classifiers.rows import load_synthetic, parse_sets
from tests.arm_studies import NAMES, TRAINER, only, write_synthetic, written

DATA = ["--dataset=phantom-fundus?train=60&validation=10&test=20", "--resolution=28", "--min_class_size=1"]


def test_several_sets_are_named(tmp_path: Path):
    assert parse_sets("ddpm=runs/a,gan=runs/b") == {"ddpm": ["runs/a"], "gan": ["runs/b"]}
    assert parse_sets("ddpm=runs/a,ddpm=runs/b") == {"ddpm": ["runs/a", "runs/b"]}
    assert parse_sets("someone/set") == {"": ["someone/set"]}
    (tmp_path / "lr=1").mkdir()
    assert parse_sets(str(tmp_path / "lr=1")) == {"": [str(tmp_path / "lr=1")]}
    with pytest.raises(ValueError, match="gives a=x twice"):
        parse_sets("a=x,a=x")


def test_synthetic_folders_are_read_at_the_real_size(tmp_path: Path):
    write_synthetic(tmp_path / "set", NAMES, 6)
    like = ImageArrays(np.zeros((1, 3, 32, 32), np.uint8), np.zeros(1, np.int64), NAMES)
    found = load_synthetic(str(tmp_path / "set"), like)
    assert found.images.shape == (6, 3, 32, 32) and found.label_names == NAMES
    assert "28 pixels a side, the real ones that the classifier sees 32" in found.notes[0]
    with pytest.raises(ValueError, match=r"--synthetic .*nowhere cannot be read"):
        load_synthetic(str(tmp_path / "nowhere"), like)


def test_a_folder_is_read_as_it_is_now_whatever_datasets_has_kept_of_one_of_its_name(tmp_path: Path):
    like = ImageArrays(np.zeros((1, 1, 28, 28), np.uint8), np.zeros(1, np.int64), NAMES)
    rows = {"a/synthetic": 3, "b/synthetic": 6}
    for name, count in rows.items():
        write_synthetic(tmp_path / name, NAMES, count)
        (tmp_path / name / "README.md").write_text(
            "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.parquet\n---\n"
        )
    assert {name: len(load_synthetic(str(tmp_path / name), like).labels) for name in rows} == rows
    (tmp_path / "a/synthetic/data/train-00000-of-00001.parquet").unlink()
    (tmp_path / "a/synthetic/data").rmdir()
    write_synthetic(tmp_path / "a/synthetic", NAMES, 9)
    assert len(load_synthetic(str(tmp_path / "a/synthetic"), like).labels) == 9


def test_a_killed_command_goes_on_to_the_same_result(tmp_path: Path):
    write_synthetic(tmp_path / "set", GRADES, 10)
    flags = [*DATA, "--seeds=2", "--epochs=2", f"--synthetic={tmp_path / 'set'}", "--arms=real,composite"]
    flags.append("--control=real")
    command = ["train", "image-classifier", *flags, f"--output_dir={tmp_path / 'killed'}"]
    kill_when(lambda: written(tmp_path / "killed"), *command)
    kept = written(tmp_path / "killed")
    printed = []
    for name in ("killed", "straight"):
        printed.append(clinsynth("train", "image-classifier", *flags, f"--output_dir={tmp_path / name}").stdout)
    assert printed[0] == printed[1] and "composite - real, macro_f1" in printed[0]
    assert kept and kept.items() <= written(tmp_path / "killed").items()
    for arm in ("real", "composite"):
        model = Path(f"best-{arm}", "model.safetensors")
        assert (tmp_path / "killed" / model).read_bytes() == (tmp_path / "straight" / model).read_bytes()


@pytest.mark.parametrize("body", ["of the control", "pretrained"])
def test_two_processes_share_the_trainings_and_change_nothing(body: str, tmp_path: Path):
    flags, arms = (
        [*DATA, "--seeds=2", "--epochs=1", "--arms=real_features", "--control=real"],
        ("real", "real_features"),
    )
    if body == "pretrained":
        save_image_classifier(build_small_resnet(len(GRADES), channels=3), list(GRADES), tmp_path / "body")
        write_synthetic(tmp_path / "set", GRADES, 10)
        flags = [*DATA, "--seeds=2", "--epochs=2", "--arms=composite_features", f"--synthetic={tmp_path / 'set'}"]
        flags += ["--control=real_features", "--features_from=model", f"--model={tmp_path / 'body'}"]
        arms = ("real_features", "composite_features")
    printed = run_in_two(TRAINER, *flags, f"--output_dir={tmp_path / 'two'}")
    assert printed.count(f"{arms[0]:10} macro_f1") == 1
    clinsynth("train", "image-classifier", *flags, f"--output_dir={tmp_path / 'one'}")
    for arm, seed in itertools.product(arms, (0, 1)):
        one, two = (only(tmp_path / name, arm, seed) / "model/model.safetensors" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
