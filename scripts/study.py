"""Run a whole study from one recipe: train, generate, measure, train classifiers in every arm and seed, report.

    clinsynth study recipes/phantom.yaml --output_dir runs/phantom-study
    python scripts/study.py recipes/retina.yaml --dataset retinamnist.npz --output_dir runs/retina-study
    clinsynth study recipes/notes.yaml --dataset mts_dialog --output_dir runs/notes-study

A recipe is a YAML file of this command's flags; flags on the command line win, single settings too, as in
--generators.ddpm.train.width 32. One that names a task is a study of texts. Every step is a command of clinsynth in
a folder of its own below --output_dir. Start the same command again to go on: finished steps are kept, and after a
change of the recipe only the steps that depend on the changed line are repeated.
"""

import ctypes
import json
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments
from clinsynth.study.plan import IMAGES, TEXTS, Kind

if TYPE_CHECKING:
    from clinsynth.study.plan import Plan, Step

PR_SET_PDEATHSIG = 1  # linux/prctl.h
GENERATOR_KEYS = {"trainer", "of", "train", "generate"}


@dataclass
class StudyArguments(ImageDataArguments):
    """Run a whole study from one recipe: generators, synthetic sets, evidence, classifiers in every arm, a report.

    Start the same command again to go on; a changed line of the recipe repeats only what depends on it. Example:

      clinsynth study recipes/phantom.yaml --output_dir runs/phantom-study

    One setting of the recipe is changed as in --generators.ddpm.train.width 32.
    """

    title: str = ""
    """heading of the report; default: the data set"""
    task: str | None = None
    """makes it a study of texts: severity-posts, icd10-report, note-sections, … or the path of a .yaml file"""
    codes: str | None = None
    """texts: labels of the task icd10-report, as F32.1,F41.1,…"""
    model: str | None = None
    """texts: the language model that is prompted and fine-tuned: folder, Hub id or .gguf file"""
    text_column: str = "text"
    """texts: column that holds the text"""
    drop_small_classes: bool = False
    """texts: leave classes below --min_class_size out instead of an error"""
    generators: dict[str, dict[str, Any]] = field(default_factory=dict)
    """name: {trainer: ddpm or gan (texts: prompt or text-lora), train: {flags of `clinsynth train …`}, generate:
    {flags of `generate …`}}; data flags in train, e.g. channels: 1, hold for all steps of the generator. {trainer:
    preference, of: NAME} trains the generator NAME, which stands above, further; {trainer: redraw, of: NAME} trains
    nothing, and draws from NAME with other flags. `from_images: dataset` is the study's own data set"""
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    """name: {flags of `clinsynth train image-classifier`}: classifiers of real images, trained first, that generators
    take as judges/NAME, e.g. {judge: classifier, judge_model: judges/NAME}"""
    generate: dict[str, Any] = field(default_factory=dict)
    """flags of `clinsynth generate images` (or `text`) for all generators, e.g. {balance_to: 486}"""
    draws: int = 1
    """synthetic sets of every generator, with the seeds --seed, --seed + 1, …: each is evaluated and the worst one's
    privacy reported; classifiers take the first"""
    evaluate: dict[str, Any] = field(default_factory=dict)
    """flags of `clinsynth evaluate images` (or `text`), e.g. {bootstrap: 200, extractor: default}"""
    audit: dict[str, Any] = field(default_factory=dict)
    """flags of `clinsynth audit membership`, e.g. {max_rows: 500}"""
    classifiers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """name: {flags of `clinsynth train image-classifier` (or `text-classifier`)}, e.g. small: {model: small-resnet,
    seeds: 5}; generators: [names] takes the synthetic sets of these generators alone"""
    seed: int = 0
    """of the choice of few-shot samples and, where their flags do not say otherwise, of all steps"""
    output_dir: str = "runs/study"
    """folder of the study: report.html, report.json, and a folder for each step"""
    dry_run: bool = False
    """print the commands that would run and which are already done, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_kind()
        for name, recipe in self.generators.items():
            unknown = sorted(set(recipe) - GENERATOR_KEYS)
            if unknown:
                raise ValueError(
                    f"generators: {name} has the unknown key {unknown[0]!r}; it takes trainer, of, train and generate"
                )
            trainers = self.kind.trainers
            if recipe.get("trainer") not in trainers:
                raise ValueError(
                    f"generators: {name} needs trainer: one of {', '.join(trainers)}, got {recipe.get('trainer')!r}"
                )
            if recipe.get("train") and trainers[recipe["trainer"]] is None:
                raise ValueError(f"generators: {name}: trainer {recipe['trainer']} trains nothing; leave train out")
            if not name.replace("_", "").isalnum():
                raise ValueError(f"generators: the name {name!r} must be letters, digits and _ alone")
            self.check_base(name, recipe)
        for name, flags in self.classifiers.items():
            unknown = sorted(set(flags.get("generators", ())) - set(self.generators))
            if unknown:
                raise ValueError(
                    f"classifiers: {name} names the generator {unknown[0]!r}, which the recipe does not have; it has "
                    f"{', '.join(self.generators) or 'none'}"
                )
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")
        if not self.generators and not self.classifiers:
            raise ValueError("the recipe names neither generators nor classifiers; see recipes/phantom.yaml")

    def check_base(self, name: str, recipe: dict[str, Any]) -> None:
        """Raise a `ValueError` where a generator starts from another one that there is not, or does so unasked."""
        names = list(self.generators)
        above = [other for other in names[: names.index(name)] if self.generators[other]["trainer"] != "gan"]
        if recipe["trainer"] not in self.kind.further:
            if "of" in recipe:
                raise ValueError(f"generators: {name}: trainer {recipe['trainer']} starts from nothing; leave of out")
        elif recipe.get("of") not in above:
            raise ValueError(
                f"generators: {name}: trainer {recipe['trainer']} needs of: a diffusion model that stands above it, "
                f"{', '.join(above) or 'and there is none'}; got {recipe.get('of')!r}"
            )

    @property
    def kind(self) -> Kind:
        """Of texts where a task is named, else of pictures."""
        return TEXTS if self.task else IMAGES

    def check_kind(self) -> None:
        """Raise a `ValueError` for a flag of the other kind of study."""
        if self.task and self.dataset == ImageDataArguments.dataset:
            raise ValueError("--dataset is missing; name the real texts, e.g. the folder of MTS-Dialog")
        other = IMAGES if self.task else TEXTS
        wrong = {*other.data_flags, *other.shared} - {*self.kind.data_flags, *self.kind.shared}
        defaults = {each.name: each.default for each in fields(self)}
        for name in sorted(wrong):
            if getattr(self, name) != defaults[name]:
                given = f"--{name} {getattr(self, name)} is for studies of"
                if self.task:
                    raise ValueError(f"{given} pictures, and --task {self.task} makes this one of texts; leave it out")
                raise ValueError(f"{given} texts; name their --task, e.g. note-sections, or leave it out")


def main(args: StudyArguments) -> None:
    """Run the steps that are not done, then write report.json and report.html."""
    from clinsynth.study.plan import plan_study

    plan = plan_study(args)
    if args.dry_run:
        print("\n".join(f"{'done' if step.finished else 'to do'}: {command_of(step)}" for step in plan.steps))
        return
    from clinsynth.run_folder import create_run_folder, write_run_config

    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    run_steps(plan)
    if report_is_current(output_dir, plan):
        print(f"nothing has changed; report: {output_dir / 'report.html'}")
        return
    from clinsynth.reports.study import write_study_report

    write_study_report(args, plan, output_dir)


def run_steps(plan: "Plan") -> None:
    """Run the unfinished steps one after the other, each in a process of its own.

    Raises:
        ValueError: a step failed; the finished ones are kept.
    """
    for number, step in enumerate(plan.steps, start=1):
        heading = f"[{number}/{len(plan.steps)}] {step.name}"
        if step.finished:
            print(f"{heading}: done before", flush=True)
            continue
        print(f"{heading}: {command_of(step)}", flush=True)
        run_step(step)


def run_step(step: "Step") -> None:
    """Run one step's command and mark its folder as finished."""
    from clinsynth.run_folder import atomic_write
    from clinsynth.study.plan import MARK

    resumed = step.output_dir.exists()
    started, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    before_it = end_with_parent if sys.platform == "linux" else None
    status = subprocess.run([sys.executable, "-m", "clinsynth", *step.words], preexec_fn=before_it).returncode
    if status:
        raise ValueError(
            f"the step {step.name!r} ended with status {status}, its message is above; finished steps are kept: mend "
            "the recipe or the data and start the same command again"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record = {
        "name": step.name,
        "command": command_of(step),
        "key": step.key,
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(cpu, 1),
        "resumed": resumed,
    }
    atomic_write(step.output_dir / MARK, json.dumps(record, indent=2) + "\n")


def end_with_parent() -> None:
    """Have Linux end this process when the one that started it dies, be it by SIGKILL.

    A step that outlives its study would write into the same folder as the one that the next start begins."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def command_of(step: "Step") -> str:
    """The step as a user would type it."""
    return shlex.join(["clinsynth", *step.words])


def report_is_current(output_dir: Path, plan: "Plan") -> bool:
    """Whether report.json was made from just these steps."""
    path = output_dir / "report.json"
    return path.exists() and json.loads(path.read_text())["steps"] == {step.name: step.key for step in plan.steps}


def recipe_first(words: list[str]) -> list[str]:
    """`RECIPE --flag …` as `--config RECIPE --flag …`."""
    return ["--config", *words] if words and not words[0].startswith("-") else words


if __name__ == "__main__":
    run(StudyArguments, main, recipe_first(sys.argv[1:]))
