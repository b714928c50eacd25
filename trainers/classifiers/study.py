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
from pathlib import Path
from typing import Any, TypeVar

from accelerate import PartialState
from transformers.utils.logging import disable_progress_bar

from clinsynth.data.labels import LabelledRows
from clinsynth.run_folder import atomic_write, complete_folder, create_run_folder, write_run_config
from clinsynth.trainers.classifiers.arms import ROUND_TRIP, ArmArguments
from clinsynth.trainers.classifiers.calibration import Correction
from clinsynth.trainers.classifiers.forecast import forecast
from clinsynth.trainers.classifiers.registration import changed_note, plan_of, register
from clinsynth.trainers.classifiers.results import Job, gather_results, generators_of, results_as_text
from clinsynth.trainers.classifiers.rows import (
    ArmRefusedError,
    S,
    check_data,
    hash_sets,
    load_synthetic,
    load_synthetic_sets,
)
from clinsynth.trainers.classifiers.teacher import taught
from clinsynth.trainers.classifiers.training import run_training
from clinsynth.trainers.classifiers.trainings import Classifiers, Trainings, processes, short_hash

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
    single = {name: sets[0] for name, sets in made.items() if len(sets) == 1}
    several = {f"{name} {i}": data for name, sets in made.items() if len(sets) > 1 for i, data in enumerate(sets)}
    check_data(real, single | several)
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


def keep_frozen(trainings: Trainings[S], state: PartialState) -> None:
    """Compute the features of --model as it is, shared among the processes, where it can give them."""
    for data in all_sets(trainings)[state.process_index :: state.num_processes]:
        try:
            trainings.frozen(data)
        except ArmRefusedError:
            pass  # each of its arms says so
    state.wait_for_everyone()


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
