"""A study: steps in order, cached by their inputs, resumed after a kill, and a report of what they measured."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPOSITORY, clinsynth, kill_in_each_step, kill_study, one_thread, run_study, write_npz
from report_pages import check_structure

from clinsynth.arguments import parse
from clinsynth.reports.study import advantage, render_study, samples_of
from clinsynth.scripts.study import describe_plan, recipe_first
from clinsynth.study.arguments import StudyArguments
from clinsynth.study.plan import plan_study
from clinsynth.study.power import check_power

RECIPE: dict[str, Any] = {
    "underpowered": True,
    "generators": {
        "ddpm": {
            "trainer": "ddpm",
            "train": {"width": 8, "train_steps": 3, "train_batch_size": 4, "validation_steps": 0},
        },
        "gan": {
            "trainer": "gan",
            "train": {"width": 8, "train_steps": 3, "train_batch_size": 4, "validation_steps": 0},
        },
    },
    "generate": {"per_class": 4, "num_inference_steps": 2},
    "draws": 2,
    "evaluate": {"bootstrap": 4},
    "classifiers": {
        "small": {
            "arms": "real,real_strong,composite",
            "seeds": 2,
            "epochs": 1,
            "batch_size": 8,
            "learning_rates": 0.01,
        }
    },
}


def write_recipe(folder: Path, **changes: Any) -> Path:
    """The recipe above with `changes`, beside its data set."""
    data = folder / "data.npz"
    if not data.exists():
        write_npz(data, per_class=12)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "dataset": str(data), "label_names": "a,b,c", **changes}))
    return path


def plan(folder: Path, **changes: Any) -> dict[str, str]:
    """Name and key of each step of the recipe."""
    words = recipe_first([str(write_recipe(folder, **changes)), "--output_dir", str(folder / "study")])
    return {step.name: step.key for step in plan_study(parse(StudyArguments, words)).steps}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in after if after[name] != before.get(name)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has run to its end."""
    folder = tmp_path_factory.mktemp("study")
    run_study(write_recipe(folder), "--output_dir", folder / "study")
    return folder


def test_report_holds_every_arm_generator_and_command(finished: Path) -> None:
    report = json.loads((finished / "study" / "report.json").read_text())
    assert set(report["generators"]) == {"ddpm", "gan"}
    arms = {record["arm"] for record in report["classifiers"]["small"]["arms"]}
    assert arms == {"real", "real_strong", "composite-ddpm", "composite-gan"}
    compared = {r["arm"] for r in report["classifiers"]["small"]["comparisons"] if r["metric"] == "macro_f1"}
    assert compared == arms - {report["classifiers"]["small"]["control"]}
    assert [command["name"] for command in report["commands"]][:3] == ["train ddpm", "generate ddpm", "evaluate ddpm"]
    for entry in report["generators"].values():
        assert {"privacy", "collapse", "measurements"} <= set(entry["evidence"])
        assert entry["privacy"]["runs"] == 2 and entry["privacy"]["run"] in ("seed 0", "seed 1")
    # The real pictures' features are extracted once for all evaluations: train, test and four synthetic sets.
    assert len(list((finished / "study" / "evaluate-cache" / "features").iterdir())) == 6
    assert len(list((finished / "study" / "evaluate-cache" / "extractor").iterdir())) == 1
    page = (finished / "study" / "report.html").read_text()
    assert "CPU minutes of training" in page and "nearer to train than to held-out" in page
    assert "composite-gan" in page and "No clinician" in page
    reader = check_structure(page)
    assert {"report.json", "classify-small/results.json"} <= set(reader.addresses)
    assert page.count('<ul class="tiles">') == page.count("<b>Next:</b>") == 2


def test_a_generator_that_saw_more_than_the_classifier_is_named() -> None:
    results: dict[str, Any] = {
        "control": "real_strong",
        "arms": [{"arm": "real_strong"}, {"arm": "composite-ddpm"}],
        "runs": [
            {"arm": "real_strong", "train_rows": 20, "synthetic_rows": 0},
            {"arm": "composite-ddpm", "train_rows": 70, "synthetic_rows": 50},
        ],
    }
    generators = {
        name: {"evidence": {"data": {"counts": {"train": {"a": 900, "b": 180}}}}} for name in ("ddpm", "gan")
    }
    sentence = advantage(results, generators)
    assert "(ddpm 1,080) than the 20" in sentence  # the GAN's pictures are in no arm
    assert samples_of(results, "composite-ddpm") == "20 real, 50 made"
    results["runs"][0] |= {"arm": "duplicate_real", "train_rows": 70, "synthetic_rows": 50}
    results["control"] = "duplicate_real"
    assert advantage(results, generators) == sentence and samples_of(results, "duplicate_real") == "20 real, 50 again"
    generators["ddpm"]["evidence"]["data"]["counts"]["train"] = {"a": 10, "b": 10}
    assert advantage(results, generators) == ""


def test_a_study_that_can_show_little_goes_on_only_when_told(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, underpowered=False)
    args = parse(StudyArguments, recipe_first([str(recipe), "--output_dir", str(tmp_path / "study")]))
    with pytest.raises(ValueError, match=r"\d+ test rows and 2 seeds can show a gain of about .* --underpowered true"):
        check_power(args)
    assert "can show a gain of about" in check_power(replace(args, underpowered=True))
    assert check_power(replace(args, dataset="phantom-fundus")) == ""


def test_second_run_does_nothing(finished: Path) -> None:
    marks = {path: path.stat().st_mtime_ns for path in (finished / "study").rglob("step.json")}
    output = clinsynth("study", finished / "recipe.yaml", "--output_dir", finished / "study").stdout
    assert "nothing has changed" in output and output.count("done before") == 12
    assert marks == {path: path.stat().st_mtime_ns for path in (finished / "study").rglob("step.json")}


def test_a_dry_run_tells_what_earlier_runs_took(tmp_path: Path) -> None:
    plan_ = plan_study(parse(StudyArguments, recipe_first([str(write_recipe(tmp_path)), "--output_dir", "study"])))
    for step, key, seconds in ((plan_.steps[0], plan_.steps[0].key, 240), (plan_.steps[1], "another", 30)):
        folder = tmp_path / step.output_dir.name
        folder.mkdir()
        (folder / "step.json").write_text(json.dumps({"name": step.name, "key": key, "seconds": seconds}))
    steps = [dataclasses.replace(step, output_dir=tmp_path / step.output_dir.name) for step in plan_.steps]
    lines = describe_plan(dataclasses.replace(plan_, steps=steps), tmp_path).splitlines()
    assert lines[0].startswith("done (4 min): clinsynth train ddpm ")
    assert lines[1].startswith("to do (30 s the last time): clinsynth generate images ")
    assert [line for line in lines if "30 s the last time" in line] == [lines[1], lines[3]], (
        "a second draw takes as long"
    )
    rest = len(steps) - 3
    assert lines[-1] == f"to do: about 60 s for 2 steps by the last time, and {rest} that were not run before"


def test_generators_of_a_classifier_and_data_flags_of_a_generator(tmp_path: Path) -> None:
    generators = json.loads(json.dumps(RECIPE["generators"]))
    generators["gan"]["train"]["channels"] = 1
    small = RECIPE["classifiers"]["small"]
    classifiers = {
        "colour": {**small, "generators": ["ddpm"]},
        "grey": {**small, "generators": ["gan"], "channels": 1},
    }
    recipe = write_recipe(tmp_path, generators=generators, classifiers=classifiers, draws=2)
    args = parse(StudyArguments, recipe_first([str(recipe), "--output_dir", str(tmp_path / "study")]))
    study = plan_study(args)
    assert [step.flags["synthetic"].partition("=")[0] for step in study.classified.values()] == ["ddpm", "gan"]
    assert [step.flags.get("channels") for step in study.trained.values()] == [None, 1]
    assert [step.flags["seed"] for step in study.generated["gan"]] == [0, 1]
    names = [step.name for step in study.steps]
    assert names[:6] == [
        "train ddpm",
        "generate ddpm",
        "evaluate ddpm",
        "generate ddpm draw 2",
        "evaluate ddpm draw 2",
        "audit ddpm",
    ]
    wider = {**classifiers, "grey": {**classifiers["grey"], "generators": ["ddpm", "gan"]}}
    keys = plan(tmp_path, generators=generators, classifiers=classifiers, draws=2)
    assert changed(keys, plan(tmp_path, generators=generators, classifiers=wider, draws=2)) == {"classify grey"}


def test_trainings_of_one_generator_stand_in_brackets_and_a_checkpoint_is_taken_as_it_is(tmp_path: Path) -> None:
    again = {"trainer": "checkpoint", "generate": {"model": "elsewhere", "seed": 7}}
    classifiers = {"small": {**RECIPE["classifiers"]["small"], "generators": [["ddpm", "again"]]}}
    recipe = write_recipe(
        tmp_path, generators={**RECIPE["generators"], "again": again}, classifiers=classifiers, draws=1
    )
    study = plan_study(parse(StudyArguments, recipe_first([str(recipe), "--output_dir", str(tmp_path / "study")])))
    first, second = (study.generated[name][0] for name in ("ddpm", "again"))
    assert study.classified["small"].flags["synthetic"] == f"ddpm={first.output_dir},ddpm={second.output_dir}"
    assert {first.key, second.key} < set(study.classified["small"].inputs)
    assert "again" not in study.trained and (second.flags["model"], second.flags["seed"]) == ("elsewhere", 7)


def test_a_membership_attack_without_a_floor_is_told_without_one(finished: Path) -> None:
    report = json.loads((finished / "study" / "report.json").read_text())
    report["generators"]["ddpm"]["membership"] |= {"value": 0.5, "interval": [0.4, 0.6], "floor": None}
    assert "0.5 is ideal)." in " ".join(render_study(report, []).split())


def test_what_is_gained_by_how_many_is_drawn(finished: Path) -> None:
    report = json.loads((finished / "study" / "report.json").read_text())
    assert "How many are worth it?" not in render_study(report, [])
    points = [{"ratio": ratio, "difference": 0.01 * ratio, "interval": [0.0, 0.02 * ratio]} for ratio in (1, 2)]
    dose = {"kind": "composite", "source": "ddpm", "real": 36, "points": points, "sentence": "two are better than one"}
    report["classifiers"]["small"]["dose"] = [dose]
    found = render_study(report, [])
    assert "How many are worth it?" in found and "36 real</text>" in found and "two are better than one" in found


def test_more_seeds_train_only_the_missing_classifiers(finished: Path) -> None:
    arms = finished / "study" / "classify-small" / "arms"
    before = {path: path.stat().st_mtime_ns for path in arms.glob("*/result.json")}
    classifiers = {"small": {**RECIPE["classifiers"]["small"], "seeds": 3}}
    run_study(write_recipe(finished, classifiers=classifiers), "--output_dir", finished / "study")
    after = {path: path.stat().st_mtime_ns for path in arms.glob("*/result.json")}
    assert before.items() <= after.items() and len(after) == len(before) + 4


def test_changed_line_changes_only_what_depends_on_it(tmp_path: Path) -> None:
    before = plan(tmp_path)
    generators = json.loads(json.dumps(RECIPE["generators"]))
    generators["gan"]["train"]["train_steps"] = 4
    assert changed(before, plan(tmp_path, generators=generators)) == {
        "train gan",
        "generate gan",
        "evaluate gan",
        "generate gan draw 2",
        "evaluate gan draw 2",
        "classify small",
    }
    assert changed(before, plan(tmp_path, evaluate={"bootstrap": 5})) == {
        name for name in before if name.startswith("evaluate")
    }
    assert changed(before, plan(tmp_path, title="another")) == set()
    os.utime(tmp_path / "data.npz", (0, 0))  # as a copy or a new checkout has it
    assert changed(before, plan(tmp_path)) == set()
    write_npz(tmp_path / "data.npz", per_class=13)
    assert changed(before, plan(tmp_path)) == set(before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"generators": {"a": {"trainer": "vae"}}},
            "needs trainer: one of ddpm, gan, preference, redraw, checkpoint, got 'vae'",
        ),
        ({"generators": {"a": {"trainer": "ddpm", "trian": {}}}}, "unknown key 'trian'"),
        (
            {"generators": {"a": {"trainer": "ddpm", "train": {"width": 9}}}},
            "'train a': --width must be a multiple of 8",
        ),
        ({"generators": {"a": {"trainer": "ddpm", "train": {"widht": 8}}}}, "widht"),
        ({"generators": {}, "classifiers": {}}, "neither generators nor classifiers"),
        ({"classifiers": {"small": {"arms": "real,synthetik"}}}, "synthetik"),
        ({"classifiers": {"small": {"generators": ["vae"]}}}, "names the generator 'vae'.*it has ddpm, gan"),
        ({"draws": 0}, "draws must be at least 1, got 0"),
        ({"generators": {"../a": {"trainer": "ddpm"}}}, "generators: the name '../a' must be at most 40 letters"),
        ({"classifiers": {"/tmp/a": {}}}, "classifiers: the name '/tmp/a' must be at most 40 letters"),
        ({"judges": {"a/../b": {}}}, "judges: the name 'a/../b' must be at most 40 letters"),
    ],
)
def test_recipe_errors_name_step_value_and_mend(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        plan(tmp_path, **changes)


def test_a_study_killed_in_each_of_its_steps_ends_as_one_that_was_not(finished: Path, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, generators={"ddpm": RECIPE["generators"]["ddpm"]}, draws=1)
    shutil.copy2(finished / "data.npz", tmp_path / "data.npz")
    study = tmp_path / "study"
    kill_in_each_step(recipe, study)
    reports = [json.loads((folder / "study" / "report.json").read_text()) for folder in (tmp_path, finished)]
    killed, whole = (report["generators"]["ddpm"]["evidence"]["measurements"] for report in reports)
    assert killed == whole


def test_killed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    generators = {"ddpm": {"trainer": "ddpm", "train": {**RECIPE["generators"]["ddpm"]["train"], "train_steps": 100}}}
    generators["ddpm"]["train"] |= {"checkpointing_steps": 5}
    recipe = write_recipe(tmp_path, generators=generators, classifiers={}, draws=1)
    words = [sys.executable, "-m", "clinsynth", "study", str(recipe), "--output_dir", str(tmp_path / "study")]
    with subprocess.Popen(words, env=one_thread(), stdout=subprocess.DEVNULL) as study:
        while not list(tmp_path.glob("study/train-ddpm-*/checkpoint-*")):
            assert study.poll() is None
            time.sleep(0.1)
        kill_study(study.pid)
    assert not list(tmp_path.glob("study/train-ddpm-*/step.json"))
    output = run_study(*words[4:])
    assert "resuming at step" in output
    mark = json.loads(next(tmp_path.glob("study/train-ddpm-*/step.json")).read_text())
    assert mark["resumed"] and (tmp_path / "study" / "report.html").exists()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_recipes_are_studies_whose_flags_exist(path: Path) -> None:
    dataset = "phantom-posts" if "task" in yaml.safe_load(path.read_text()) else "phantom-fundus"
    words = [str(path), "--dataset", dataset, "--output_dir", "runs/never"]
    assert plan_study(parse(StudyArguments, recipe_first(words))).steps


def test_a_flag_changes_one_setting_of_one_entry_and_keeps_the_others(tmp_path: Path, capsys):
    recipe = write_recipe(tmp_path)
    twin = "  twin: {trainer: ddpm, generate: &shared {num_inference_steps: 2}}\n"
    other = "  other: {trainer: ddpm, generate: *shared}\n"
    recipe.write_text(recipe.read_text().replace("generators:\n", f"generators:\n{twin}{other}"))
    flags = ["--classifiers.small.epochs", "7", "--generators.twin.generate.num_inference_steps=3"]
    flags += ["--generators.other.train.width", "8", "--classifiers.small.learning_rates", "1e-3,3e-3"]
    flags += ["--classifiers.small.flips", "--seed", "4"]  # without a value: true
    args = parse(StudyArguments, recipe_first([str(recipe), *flags]))
    expected = {**RECIPE["classifiers"]["small"], "epochs": 7, "learning_rates": "1e-3,3e-3", "flips": True}
    assert args.seed == 4
    assert args.classifiers == {"small": expected}
    assert args.generators["twin"] == {"trainer": "ddpm", "generate": {"num_inference_steps": 3}}
    assert args.generators["other"] == {
        "trainer": "ddpm",
        "generate": {"num_inference_steps": 2},
        "train": {"width": 8},
    }
    for flag in ("--classifiers.smal.epochs", "--classifyers.small.epochs"):
        with pytest.raises(SystemExit):
            parse(StudyArguments, recipe_first([str(recipe), flag, "7"]))
    printed = capsys.readouterr().err
    assert "classifiers has no entry smal; there is small" in printed and "classifyers has no entry small" in printed
