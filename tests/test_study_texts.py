"""A study of texts: its steps and flags, a kill in each of them, and its report."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clinsynth.arguments import parse
from clinsynth.scripts.study import StudyArguments, recipe_first
from clinsynth.scripts.study_plan import Plan, plan_study

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
        ({"resolution": 32}, "--resolution 32 is for studies of pictures, and --task severity-posts makes this one"),
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
