"""What the finished trainings of a study say on the real test samples: records, notes, and all of it as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from clinsynth.run_folder import read_json
from clinsynth.trainers.classifiers.agreement import MIXED_UP, OVERALL, label_agreement
from clinsynth.trainers.classifiers.arms import Arm
from clinsynth.trainers.classifiers.calibration import Correction
from clinsynth.trainers.classifiers.decisions import decide
from clinsynth.trainers.classifiers.dose import dose_records
from clinsynth.trainers.classifiers.groups import subgroup_changes, subgroup_records, worst_groups
from clinsynth.trainers.classifiers.registration import read_plans, register_choices
from clinsynth.trainers.classifiers.resampling import bootstrap
from clinsynth.trainers.classifiers.rows import S, hash_sets, joined
from clinsynth.trainers.classifiers.scores import minority_classes
from clinsynth.trainers.classifiers.statistics import arm_records, comparison_records, gap_records, judge_together
from clinsynth.trainers.classifiers.trainings import Trainings, processes

CEILING = "ceiling"
Job = tuple[Arm, int]


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
    resampled = bootstrap(
        test.labels,
        probabilities | ceiling,
        len(test.label_names),
        minority=minority,
        persons=test.persons,
        generators=generators,
    )
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
        notes += dict.fromkeys(note for data in sets for note in data.notes)
        if len(sets) > 1:
            notes.append(f"{len(sets)} sets of {name}: the seeds take them in turn, and intervals hold both levels")
    notes += trainings.classifiers.notes(trainings.real, {name: joined(s) for name, s in trainings.synthetic.items()})
    made = {f"{job[0].name}: {note}": None for job, run in runs.items() for note in run["notes"]}
    return [*notes, *made]


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
