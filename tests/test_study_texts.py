"""A study of texts: its steps and flags, a kill in each of them, and its report."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import kill_in_each_step, run_study
from report_pages import check_structure
from text_models import WORDS, save_small_task, save_tiny_model
from text_posts import save_tiny_encoder

from clinsynth.arguments import parse
from clinsynth.scripts.study import recipe_first
from clinsynth.study.arguments import StudyArguments
from clinsynth.study.plan import Plan, plan_study

TEXT_RECIPE: dict[str, Any] = {
    "task": "severity-posts",
    "dataset": "phantom-posts?train=40&validation=8&test=20",
    "model": "tiny",
    "generators": {
        "prompted": {"trainer": "prompt", "generate": {"k_shot": 2}},
        "tuned": {"trainer": "text-lora", "train": {"epochs": 1}},
    },
    "generate": {"per_class": 3},
    "evaluate": {"bootstrap": 4, "encoder": "minilm"},
    "classifiers": {"small": {"generators": ["tuned"], "seeds": 2}},
}


def text_plan(folder: Path, **changes: Any) -> Plan:
    path = folder / "texts.yaml"
    path.write_text(yaml.safe_dump({**TEXT_RECIPE, **changes}))
    return plan_study(parse(StudyArguments, recipe_first([str(path), "--output_dir", str(folder / "study")])))


def test_a_task_makes_it_a_study_of_texts(tmp_path: Path) -> None:
    plan = text_plan(tmp_path)
    assert [step.name for step in plan.steps] == [
        "generate prompted",
        "evaluate prompted",
        "train tuned",
        "generate tuned",
        "evaluate tuned",
        "classify small",
    ]
    prompted, tuned = (plan.generated[name][0].flags for name in ("prompted", "tuned"))
    assert (prompted["model"], prompted["k_shot"]) == ("tiny", 2)
    assert tuned["model"] == str(plan.trained["tuned"].output_dir) and "k_shot" not in tuned
    assert plan.trained["tuned"].flags["model"] == "tiny" and not plan.audited
    assert all(step.flags["task"] == "severity-posts" for step in plan.steps if step.command[0] == "generate")
    assert plan.classified["small"].flags["synthetic"] == f"tuned={tuned_folder(plan)}"


def tuned_folder(plan: Plan) -> Path:
    return plan.generated["tuned"][0].output_dir


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 32}, "--resolution 32 is for studies of images, and --task severity-posts makes this one"),
        ({"task": None}, "--model tiny is for studies of texts; name their --task"),
        ({"dataset": "phantom-fundus"}, "--dataset is missing; name the real texts"),
        ({"generators": {"a": {"trainer": "ddpm"}}}, "needs trainer: one of prompt, text-lora, got 'ddpm'"),
        (
            {"generators": {"a": {"trainer": "prompt", "train": {"epochs": 1}}}},
            "prompt trains nothing; leave train out",
        ),
    ],
)
def test_flags_of_the_other_kind_of_study_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_plan(tmp_path, **changes)


def write_small_study(folder: Path) -> Path:
    """A recipe of a few seconds with a tiny language model, encoder and task beside it: prompting and fine-tuning."""
    rows = [
        (f"{WORDS[row % 3]} {'lamps' if row % 2 else 'house'} {WORDS[6 + row % 5]} {row}", ("mild", "severe")[row % 2])
        for row in range(120)
    ]
    with (folder / "posts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    recipe = {
        "task": str(save_small_task(folder / "small.yaml")),
        "underpowered": True,
        "dataset": str(folder / "posts.csv"),
        "model": str(save_tiny_model(folder / "model")),
        "generators": {
            "prompted": {"trainer": "prompt", "generate": {"k_shot": 2}},
            "tuned": {"trainer": "text-lora", "train": {"train_steps": 4, "checkpointing_steps": 1}},
        },
        "generate": {"per_class": 8, "near_duplicate": 1.0},
        "evaluate": {"bootstrap": 4, "encoder": str(save_tiny_encoder(folder / "encoder", [row[0] for row in rows]))},
        "classifiers": {
            "small": {
                "model": "small-bert",
                "arms": "real,real_weighted,composite",
                "seeds": 2,
                "epochs": 1,
                "learning_rates": 0.01,
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_study_killed_in_each_kind_of_step_ends_as_one_that_was_not(tmp_path: Path) -> None:
    recipe = write_small_study(tmp_path)
    study = tmp_path / "killed"
    kill_in_each_step(recipe, study, first=2)  # the first two are of the same kinds as two later ones
    run_study(recipe, "--output_dir", tmp_path / "whole")
    killed, whole = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("killed", "whole"))
    for name in ("prompted", "tuned"):
        measured = [report["generators"][name]["evidence"]["measurements"] for report in (killed, whole)]
        assert measured[0] == measured[1]
    assert killed["classifiers"]["small"]["arms"] == whole["classifiers"]["small"]["arms"]
    page = (study / "report.html").read_text()
    assert all(word in page for word in ("prompted", "tuned", "composite"))
    assert check_structure(page).images == 0
