"""A study whose generators start from others: judges first, further training, drawing anew with other flags."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from clinsynth.arguments import parse
from clinsynth.scripts.study import recipe_first
from clinsynth.study.arguments import StudyArguments
from clinsynth.study.plan import Plan, plan_study

RECIPE: dict[str, Any] = {
    "dataset": "phantom-fundus",
    "judges": {"watching": {"seeds": 1, "epochs": 2}},
    "generators": {
        "plain": {"trainer": "ddpm", "train": {"train_steps": 3}},
        "changed": {"trainer": "redraw", "of": "plain", "generate": {"from_images": "dataset", "strength": 0.5}},
        "magic": {
            "trainer": "preference",
            "of": "plain",
            "train": {"held_out": "classifier", "held_out_model": "judges/watching", "train_steps": 2},
        },
        "twice": {
            "trainer": "preference",
            "of": "magic",
            "train": {"held_out": "classifier", "held_out_model": "judges/watching"},
            "generate": {"keep_if_class": "judges/watching"},
        },
    },
    "generate": {"per_class": 4},
    "classifiers": {"small": {"arms": "real,composite", "seeds": 1}},
}

CHANGED = RECIPE["generators"]["changed"]


def study(folder: Path, **changes: Any) -> Plan:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False))
    return plan_study(parse(StudyArguments, recipe_first([str(path), "--output_dir", str(folder / "study")])))


def keys(plan: Plan) -> dict[str, str]:
    return {step.name: step.key for step in plan.steps}


def generators(**changes: Any) -> dict[str, Any]:
    return {**RECIPE["generators"], **changes}


def test_each_starts_from_the_one_it_names(tmp_path: Path) -> None:
    plan = study(tmp_path)
    names = [step.name for step in plan.steps]
    assert names[0] == "train judge watching" and names.count("train plain") == 1 and "train changed" not in names
    judge = str(plan.judges["watching"].output_dir / "best-real")
    plain, magic, twice = (plan.trained[name] for name in ("plain", "magic", "twice"))
    assert magic.command == ("train", "preference") and magic.flags["model"] == str(plain.output_dir)
    assert magic.flags["held_out_model"] == judge and twice.flags["model"] == str(magic.output_dir)
    drawn = {name: steps[0].flags for name, steps in plan.generated.items()}
    assert drawn["changed"]["model"] == drawn["plain"]["model"] == str(plain.output_dir)
    assert drawn["changed"]["from_images"] == "phantom-fundus" and "from_images" not in drawn["plain"]
    assert drawn["twice"]["keep_if_class"] == judge
    assert list(plan.audited) == ["plain", "magic", "twice"]
    assert all(f"{name}=" in plan.classified["small"].flags["synthetic"] for name in RECIPE["generators"])


def test_what_a_generator_starts_from_is_part_of_its_key(tmp_path: Path) -> None:
    before = keys(study(tmp_path))
    magic = RECIPE["generators"]["magic"]
    longer = generators(magic={**magic, "train": {**magic["train"], "train_steps": 5}})
    after = keys(study(tmp_path, generators=longer))
    assert {name.split()[1] for name in before if before[name] != after[name]} == {"magic", "twice", "small"}
    after = keys(study(tmp_path, judges={"watching": {"seeds": 1, "epochs": 3}}))
    differing = {name for name in before if before[name] != after[name]}
    assert {"train judge watching", "train magic", "generate twice"} <= differing
    assert not differing & {"train plain", "generate plain", "generate changed"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"generators": generators(magic={"trainer": "preference"})},
            "magic: .* needs of: .*plain, changed; got None",
        ),
        ({"generators": generators(changed={"trainer": "redraw", "of": "magic"})}, "changed: .*plain; got 'magic'"),
        ({"generators": {"a": {"trainer": "redraw", "of": "a"}}}, "and there is none; got 'a'"),
        ({"generators": {"a": {"trainer": "ddpm", "of": "b"}}}, "a: trainer ddpm starts from nothing"),
        ({"judges": {}}, "held_out_model: judges/watching names no judge of the recipe; judges: has none"),
        (
            {"generators": generators(changed={**RECIPE["generators"]["changed"], "train": {"seed": 1}})},
            "trains nothing",
        ),
    ],
)
def test_what_starts_from_nothing_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        study(tmp_path, **changed)
