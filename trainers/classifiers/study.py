"""A classifier study: the same classifier trained in several arms, each compared with a control on real test samples.

Every (arm, seed) is one folder named by its inputs, complete or absent, so that a killed study goes on with those that
are missing and a changed one repeats those that the change concerns. Validation and test are real samples only; the
test split is read once for each (arm, seed).
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import PartialState
from safetensors.numpy import load_file
from transformers.utils.logging import disable_progress_bar

from clinsynth.data.labels import LabelledRows
from clinsynth.data.summary import VISIBLE
from clinsynth.run_folder import atomic_write, complete_folder, create_run_folder, read_json, write_run_config
from clinsynth.trainers.classifiers.agreement import MIXED_UP, OVERALL, label_agreement
from clinsynth.trainers.classifiers.arms import (
    REAL_FROZEN,
    REAL_ONLY,
    ROUND_TRIP,
    Arm,
    ArmArguments,
    Controls,
    choose_controls,
)
from clinsynth.trainers.classifiers.calibration import Correction, choose_correction
from clinsynth.trainers.classifiers.dose import dose_records
from clinsynth.trainers.classifiers.forecast import forecast
from clinsynth.trainers.classifiers.groups import subgroup_changes, subgroup_records, worst_groups
from clinsynth.trainers.classifiers.registration import changed_note, plan_of, read_plans, register, register_choices
from clinsynth.trainers.classifiers.resampling import bootstrap, visible_gain
from clinsynth.trainers.classifiers.rows import (
    ArmRefusedError,
    S,
    check_data,
    hash_sets,
    joined,
    load_synthetic,
    load_synthetic_sets,
)
from clinsynth.trainers.classifiers.scores import minority_classes
from clinsynth.trainers.classifiers.statistics import arm_records, comparison_records, gap_records, judge_together
from clinsynth.trainers.classifiers.teacher import taught
from clinsynth.trainers.classifiers.training import run_training
from clinsynth.trainers.classifiers.trainings import Classifiers, Trainings, short_hash

LONGEST_WAIT = timedelta(days=7)  # for the slowest process; torch's own limit is half an hour

CEILING = "ceiling"
Job = tuple[Arm, int]
A = TypeVar("A", bound=ArmArguments)


def run_study(
    classifiers: Classifiers[S],
    args: ArmArguments,
    real: Mapping[str, S],
    synthetic: Mapping[str, S | Sequence[S]],
    *,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `classifiers` `args.seeds` times an arm and compare the arms with the control on the real test split;
    JSON-able.

    `real` has splits train, validation and test; `synthetic` are sets by name, a single one without a name; several
    under one name are of a generator's trainings or draws, and the seeds of the classifier take them in turn; what is
    called as the arm of the round trip is its set. All arms take the same number of optimizer steps and choose among
    the same learning rates; the correction of each arm's probabilities and the control are chosen on validation before
    the test split is read. Trainings found complete in `arms` of `args.output_dir` are not repeated; under `accelerate
    launch` the processes share the others.

    Returns:
        `arms`: a record for each arm and metric; `comparisons`: one for each arm, its control and metric;
        `gap_closed`: with --ceiling one for each arm; `dose`: with --each_ratio one for each synthetic set;
        `subgroups`: one for each arm, subgroup column and group; `subgroup_changes` and `worst_groups`: what each
        arm changed there; `label_agreement`: one for each synthetic set and class; `confusion`: for each arm the
        test samples by true (rows) and predicted class, mean of the seeds; `runs`: one for each training, its
        epochs in `history`; `refused`: arms that the data does not allow, and why; `control`, and
        `features_control` of arms in feature space; `calibration`: how each arm's probabilities were corrected, and
        its macro-F1 on validation then, by which the control was chosen; `visible_gain`: the least that could be
        shown; `forecast`: what was expected of each synthetic set beforehand; `label_names`; `best_model`: folder
        of each arm's best model by validation, not corrected; `notes`.
        The functions that make the records say what is in them.

    Raises:
        ValueError: a bad setting, or sets that do not fit each other, by name.
    """
    arms = args.resolve([name for name in synthetic if name != ROUND_TRIP], classifiers.arms)
    made = {name: (sets,) if isinstance(sets, LabelledRows) else tuple(sets) for name, sets in synthetic.items()}
    check_data(real, {f"{name} {i}".strip(): data for name, sets in made.items() for i, data in enumerate(sets)})
    if ROUND_TRIP not in synthetic and any(arm.rows == ROUND_TRIP for arm in arms):
        raise ValueError(
            f"--arms {ROUND_TRIP} needs the real samples as a generator gives them back; give --round_trip"
        )
    output_dir = Path(args.output_dir)
    cache = create_run_folder(args.cache_dir, "cache_dir") if args.cache_dir else output_dir
    trainings = Trainings(classifiers, args, real, made, output_dir, cache, progress)
    seeds = range(args.seed, args.seed + args.seeds)
    generators_of(trainings, seeds)  # an error now, not after hours
    earlier = None
    if processes().is_main_process:
        settings = {name: getattr(args, name) for name in ("control", "choose_control", "calibrate")}
        settings |= {"test": hash_sets(real["test"]), "trainings": [short_hash(trainings.identity(a)) for a in arms]}
        register(create_run_folder(output_dir), plan_of([arm.name for arm in arms], seeds, settings))
        earlier = changed_note(output_dir)
    jobs = [(arm, seed) for seed in seeds for arm in arms]
    share_features(trainings, jobs)
    told = forecast(trainings, args.seed)
    if progress and processes().is_main_process:
        print("\n".join(record["sentence"] for record in told), flush=True)
    run_shared(trainings, jobs)
    results = gather_results(trainings, arms, list(seeds))
    return results | {"forecast": told, "notes": [*results["notes"], *([earlier] if earlier else [])]}


def processes() -> PartialState:
    """This process's number among those that `accelerate launch` or `torchrun` started, and its device."""
    # Without an accelerator accelerate must be told so, or each of torchrun's processes takes itself for the only one.
    return PartialState(cpu=not torch.accelerator.is_available(), timeout=LONGEST_WAIT)


def share_features(trainings: Trainings[S], jobs: list[Job]) -> None:
    """Compute the features of bodies that are not trained, shared among the processes."""
    state = processes()
    if trainings.args.features_from == "model" and any(arm.in_features for arm, _ in jobs):
        for data in all_sets(trainings)[state.process_index :: state.num_processes]:
            trainings.features(data, jobs[0][1])  # the same for every seed
        state.wait_for_everyone()
    if any(arm.frozen for arm, _ in jobs):
        keep_frozen(trainings, state)


def run_shared(trainings: Trainings[S], jobs: list[Job]) -> None:
    """Run the trainings, shared among the processes: first those of the control, which others may need."""
    state = processes()
    controls = [job for job in jobs if job[0].kind == trainings.args.control]
    for part in (controls, [job for job in jobs if job not in controls]):
        for arm, seed in part[state.process_index :: state.num_processes]:
            run_training(trainings, arm, seed)
        state.wait_for_everyone()
        if part is controls and trainings.args.teaches:
            teachers = [(source, seed) for source in trainings.synthetic for _, seed in controls]
            for source, seed in teachers[state.process_index :: state.num_processes]:
                taught(trainings, source, seed)
            state.wait_for_everyone()
    labelled = [(data, seed) for made in trainings.synthetic.values() for data in made for _, seed in controls]
    for data, seed in labelled[state.process_index :: state.num_processes]:
        trainings.says_of(data, seed)
    state.wait_for_everyone()


def all_sets(trainings: Trainings[S]) -> list[S]:
    """The real splits, and every synthetic set."""
    return [*trainings.real.values(), *itertools.chain.from_iterable(trainings.synthetic.values())]


def generators_of(trainings: Trainings[S], seeds: Sequence[int]) -> list[int]:
    """For each seed the number of the generator's training or draw whose set it sees: a level of the bootstrap.

    Raises:
        ValueError: names with a different number of sets, or fewer seeds than sets.
    """
    many = {name: len(sets) for name, sets in trainings.synthetic.items() if len(sets) > 1}
    if len(set(many.values())) > 1:
        raise ValueError(f"--synthetic gives names a different number of sets: {many}; give each as many, or one")
    if any(count > len(seeds) for count in many.values()):
        raise ValueError(f"--seeds {len(seeds)} are fewer than the sets of a name, {many}; each set needs a training")
    name = next(iter(many), None)
    return [trainings.generator(name, seed) if name is not None else 0 for seed in seeds]


def keep_frozen(trainings: Trainings[S], state: PartialState) -> None:
    """Compute the features of --model as it is, shared among the processes, where it can give them."""
    for data in all_sets(trainings)[state.process_index :: state.num_processes]:
        try:
            trainings.frozen(data)
        except ArmRefusedError:
            pass  # each of its arms says so
    state.wait_for_everyone()


def gather_results(trainings: Trainings[S], arms: list[Arm], seeds: list[int]) -> dict[str, Any]:
    """Read the trainings back, choose corrections and control on validation, write these down, and only then state
    each arm's scores and their differences on the real test samples."""
    args, train, test = trainings.args, trainings.real["train"], trainings.real["test"]
    minority = minority_classes(train.labels, len(train.label_names)) if trainings.classifiers.minority_recall else ()
    found = {(arm, seed): trainings.result(arm, seed) for seed in seeds for arm in arms}
    refused = {job[0]: run["refused"] for job, (run, _) in found.items() if "refused" in run}
    kept = [arm for arm in arms if arm not in refused]
    runs = {job: run for job, (run, _) in found.items() if job[0] in kept}
    by_arm = {arm: [own for job, (_, own) in found.items() if job[0] == arm and own is not None] for arm in kept}
    plain = {arm.name: np.stack(own) for arm, own in by_arm.items()}
    decisions = decide(trainings, kept, seeds)
    controls, corrections = decisions.controls, decisions.corrections
    if processes().is_main_process:
        register_choices(trainings.output_dir, decisions.record(args, kept))
    probabilities = {name: corrections[name].apply(own) for name, own in plain.items()}
    pairs = [(arm.name, other) for arm in kept if (other := controls.of(arm)) is not None]
    ceiling = read_ceiling(args.ceiling, test, len(seeds)) if args.ceiling else {}
    generators = generators_of(trainings, seeds)
    levels = {"minority": minority, "persons": test.persons, "generators": generators}
    resampled = bootstrap(test.labels, probabilities | ceiling, len(test.label_names), **levels)
    top = {name: resampled.pop(name) for name in ceiling}
    scored = arm_records(resampled, test, probabilities, minority)
    by_validation = sorted(runs, key=lambda job: runs[job]["validation_macro_f1"])
    compared = comparison_records(resampled, pairs, scored, test, minority)
    agreement = agreement_records(trainings, plain[args.control], seeds)
    mark_mixed_up(compared, kept, agreement, test.noun)
    changes = subgroup_changes(test, probabilities, pairs)
    return {
        "arms": scored,
        "comparisons": compared,
        "dose": dose_records(resampled, kept, controls, len(train.labels)),
        "gap_closed": [record for values in top.values() for record in gap_records(resampled, pairs, values)],
        "subgroups": subgroup_records(test, probabilities),
        "subgroup_changes": changes,
        "worst_groups": worst_groups(changes),
        "label_agreement": agreement,
        "confusion": {arm: confusion(test.labels, own) for arm, own in probabilities.items()},
        "runs": [run | {"folder": relative(trainings, job)} for job, run in runs.items()],
        "refused": [{"arm": arm.name, "reason": reason} for arm, reason in refused.items()],
        **decisions.record(args, kept),
        "label_names": test.label_names,
        "best_model": {j[0].name: f"{relative(trainings, j)}/model" for j in by_validation if not j[0].linear},
        "notes": [*study_notes(trainings, kept, runs), *decisions.notes(args, kept, test.noun)],
    }


@dataclass(frozen=True)
class Decisions:
    """What was chosen on validation, before test was read."""

    corrections: dict[str, Correction]
    controls: Controls
    visible: dict[str, Any]

    def record(self, args: ArmArguments, arms: list[Arm]) -> dict[str, Any]:
        """As results and the plan have it."""
        return {
            "control": self.controls.whole,
            "features_control": self.controls.features if any(arm.in_features for arm in arms) else None,
            "calibration": calibration_records(args.calibrate, self.corrections),
            "visible_gain": self.visible,
        }

    def notes(self, args: ArmArguments, arms: list[Arm], noun: str) -> list[str]:
        """What a reader of the scores must know of it."""
        return [control_note(args, arms, self.controls, self.corrections), visible_note(self.visible, noun)]


def decide(trainings: Trainings[S], arms: list[Arm], seeds: list[int]) -> Decisions:
    """Corrections, control, and the smallest gain that can be seen."""
    args, test, validation = trainings.args, trainings.real["test"], trainings.real["validation"].labels
    held_out = {arm.name: np.stack([trainings.held_out(arm, seed) for seed in seeds]) for arm in arms}
    corrections = choose_corrections(trainings, held_out)
    by_validation = {name: correction.macro_f1 for name, correction in corrections.items()}
    controls = choose_controls(arms, by_validation, args.control, args.choose_control)
    own = corrections[controls.whole].apply(held_out[controls.whole])
    return Decisions(corrections, controls, visible_gain(validation, own, test.labels, len(test.label_names)))


def read_ceiling(folder: str, test: S, seeds: int) -> dict[str, np.ndarray]:
    """What the control of the finished run in `folder` says of the test samples, corrected: (seeds, n, classes).

    Raises:
        ValueError: there is no such run, or it has other test samples or fewer seeds.
    """
    results, plans = read_json(Path(folder) / "results.json"), read_plans(Path(folder))
    runs = [run for run in results.get("runs", []) if run["arm"] == results["control"]]
    if len(runs) < seeds:
        raise ValueError(
            f"--ceiling {folder} has {len(runs)} trainings of a control, {seeds} are needed; finish it first"
        )
    if results["label_names"] != test.label_names or not plans or plans[-1]["test"] != hash_sets(test):
        raise ValueError(f"--ceiling {folder} was scored on another test split; give a run on the same data")
    correction = next((r for r in results.get("calibration", []) if r["arm"] == results["control"]), None)
    found = []
    for run in runs[:seeds]:
        kept = load_file(Path(folder) / run["folder"] / "test.safetensors")
        found.append(kept["probabilities"])
    made = np.stack(found)
    return {CEILING: Correction.of(correction).apply(made) if correction else made}


def choose_corrections(trainings: Trainings[S], held_out: Mapping[str, np.ndarray]) -> dict[str, Correction]:
    """Each arm's correction by name, from what its trainings say of the real validation samples."""
    train, labels = trainings.real["train"], trainings.real["validation"].labels
    counts = np.maximum(np.bincount(train.labels, minlength=len(train.label_names)), 1)
    prior, method = counts / counts.sum(), trainings.args.calibrate
    return {arm: choose_correction(method, own, labels, prior) for arm, own in held_out.items()}


def visible_note(visible: dict[str, Any], noun: str) -> str:
    """What could be seen at all."""
    seeds = f"{visible['seeds']} seed{'s' * (visible['seeds'] > 1)}"
    less = "" if visible["enough"] else f"; this is more than {VISIBLE}: what is smaller may be there, unseen"
    return (
        f"smallest gain in macro-F1 over the control that {visible['n']} test {noun}s and {seeds} can show (80 % "
        f"power, by the control's spread on validation): {visible['value']:.3f}{less}"
    )


def calibration_records(method: str, corrections: Mapping[str, Correction]) -> list[dict[str, Any]]:
    """One record an arm: what was chosen on validation."""
    return [
        {
            "arm": name,
            "method": method,
            "factor": correction.factor,
            "offsets": correction.offsets.tolist(),
            "temperature": correction.temperature,
            "validation_macro_f1": correction.macro_f1,
        }
        for name, correction in corrections.items()
    ]


def control_note(
    args: ArmArguments, arms: list[Arm], controls: Controls, corrections: Mapping[str, Correction]
) -> str:
    """Which control was taken, and from which."""
    if not args.choose_control or controls.whole == REAL_FROZEN:
        return f"control: {controls.whole}, as --control names it"
    scores = ", ".join(f"{a.name} {corrections[a.name].macro_f1:.3f}" for a in arms if a.kind in REAL_ONLY)
    also = f", in feature space {controls.features}" if any(arm.in_features for arm in arms) else ""
    return (
        f"control: {controls.whole}{also}, the real-only arm of the best macro-F1 on validation, chosen before test "
        f"was read ({scores})"
    )


def agreement_records(trainings: Trainings[S], on_test: np.ndarray, seeds: list[int]) -> list[dict[str, Any]]:
    """`label_agreement` of every synthetic set; `on_test` are the control's probabilities (seeds, n, classes)."""
    test, records = trainings.real["test"], []
    for source, made in trainings.synthetic.items():
        said = [np.concatenate([trainings.says_of(data, seed) for data in made]).argmax(1) for seed in seeds]
        records += label_agreement(source, joined(made), np.stack(said), test, on_test.argmax(2))
    return records


def mark_mixed_up(compared: list[dict[str, Any]], arms: list[Arm], agreement: list[dict[str, Any]], noun: str) -> None:
    """Say in an arm's comparisons that the labels of its synthetic set are mixed up: as `labels`, and in the sentence.
    Such a verdict is one on the labels, not on the samples."""
    mixed = {record["source"] for record in agreement if (record["label"], record["flag"]) == (OVERALL, MIXED_UP)}
    named = {arm.name for arm in arms if arm.synthetic and arm.source in mixed}
    for record in compared:
        if record["arm"] in named:
            record["labels"] = MIXED_UP
    judge_together(compared, noun)


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> list[list[float]]:
    """Test samples by true class (rows) and predicted class, mean of the seeds; from (seeds, n, classes)."""
    eye = np.eye(probabilities.shape[2])
    return np.mean([eye[labels].T @ eye[run.argmax(1)] for run in probabilities], axis=0).tolist()


def relative(trainings: Trainings[S], job: Job) -> str:
    """The folder of a training, seen from the output folder."""
    return trainings.folder(*job).relative_to(trainings.output_dir).as_posix()


def study_notes(trainings: Trainings[S], arms: list[Arm], runs: dict[Job, dict[str, Any]]) -> list[str]:
    """What a reader of the scores must know."""
    args, steps = trainings.args, max(run["steps"] for run in runs.values())
    noun = trainings.real["test"].noun
    drawn = f"{noun}s" if trainings.real["test"].persons is None else "persons"
    rates = ", ".join(f"{rate:g}" for rate in args.rates)
    of_networks = f"optimizer steps a training: {steps}, the same in all arms; learning rates tried in each: {rates}"
    notes = [
        *trainings.real["train"].notes,
        *([of_networks] if steps else []),
        f"weights and learning rate: best macro-F1 on real validation {noun}s; scores: real test {noun}s",
        f"intervals: 95 %, bootstrap over test {drawn} (within classes) and seeds, paired between arms; verdicts: "
        "p below 0.05 after Holm's correction over the arms and both metrics",
    ]
    if any(arm.linear for arm in arms):
        notes.append(
            "arms _frozen and _tfidf: logistic regressions, without optimizer steps, on mean token embeddings of "
            f"{args.model} as it is, and on TF-IDF of words and pairs; C by validation"
        )
    if any(arm.in_features for arm in arms):
        body = "the control's classifier of the same seed" if args.features_from == "control" else args.model
        notes.append(
            f"arms in feature space: only the last layer is trained, on features of {body}, without augmentation; "
            "they are compared with a control of their kind, which differs in its rows alone"
        )
    for name, sets in trainings.synthetic.items():
        if len(sets) > 1:
            notes.append(f"{len(sets)} sets of {name}: the seeds take them in turn, and intervals hold both levels")
    notes += trainings.classifiers.notes(trainings.real, {name: joined(s) for name, s in trainings.synthetic.items()})
    made = {f"{job[0].name}: {note}": None for job, run in runs.items() for note in run["notes"]}
    return [*notes, *made]


def run_study_command(
    args: A, load: Callable[[A, int], dict[str, S]], build: Callable[[A, S], Classifiers[S]]
) -> None:
    """The study of a command, whose folder gets results.json and the best model of each arm.

    Args:
        load: the real splits, by the data flags and the seed.
        build: the classifiers, given the real train split.
    """
    disable_progress_bar()  # of transformers, for every small classifier that is read back
    state = processes()
    if state.is_main_process:
        write_run_config(create_run_folder(args.output_dir), args)
    state.wait_for_everyone()
    real = load(args, args.seed)
    train = real["train"]
    synthetic = load_synthetic_sets(args.synthetic, train)
    if args.round_trip:
        synthetic[ROUND_TRIP] = [load_synthetic(args.round_trip, train)]
    classifiers = build(args, train)
    results = run_study(classifiers, args, real, synthetic)
    if state.is_main_process:
        write_results(classifiers, Path(args.output_dir), results, train.noun)


def write_results(classifiers: Classifiers[S], folder: Path, results: dict[str, Any], noun: str) -> None:
    """Write results.json and the best model of each arm, corrected as its scores are; print scores and verdict."""
    atomic_write(folder / "results.json", json.dumps(results, indent=2) + "\n")
    for record in results["calibration"]:
        if record["arm"] not in results["best_model"]:
            continue
        found, into = folder / results["best_model"][record["arm"]], folder / f"best-{record['arm']}"
        correction = Correction.of(record)
        with complete_folder(into) as aside:
            shutil.copytree(found, aside, dirs_exist_ok=True)
            if correction.changes:
                model = classifiers.load(found)
                correction.apply_to(model)
                classifiers.save(model, results["label_names"], aside)
    print(results_as_text(results, noun))


def results_as_text(results: dict[str, Any], noun: str) -> str:
    """The scores, a line an arm and metric, what was refused, the verdicts and the flags on labels; `noun` is what a
    sample is called."""
    lines = [
        f"{r['arm']:10} {r['metric']:24} {r['value']:.3f}  [{r['interval'][0]:.3f}, {r['interval'][1]:.3f}]"
        for r in results["arms"]
        if not r["metric"].startswith("recall ")
    ]
    refused = [f"{r['arm']} was left out: {r['reason']}" for r in results["refused"]]
    told = [*results["comparisons"], *results["gap_closed"], *results["dose"], *results["worst_groups"]]
    sentences = [record["sentence"] for record in told if "sentence" in record]
    mixed = [
        f"labels of the synthetic set {r['source']}: {r['label']} agrees with the control in {r['value']:.0%} of its "
        f"{noun}s, real test {noun}s in {r['floor']:.0%}, shuffled labels in {r['chance']:.0%}: {r['flag']}"
        for r in results["label_agreement"]
        if r["label"] == OVERALL or r["flag"] == MIXED_UP
        if r["value"] is not None
    ]
    return "\n".join([*lines, *refused, *sentences, *mixed, *results["notes"]])
