"""Run a whole study from one recipe: train, generate, measure, train classifiers in every arm and seed, report.

    clinsynth study recipes/phantom.yaml --output_dir runs/phantom-study
    python scripts/study.py recipes/retina.yaml --dataset retinamnist.npz --output_dir runs/retina-study
    clinsynth study recipes/notes.yaml --dataset mts_dialog --output_dir runs/notes-study

A recipe is a YAML file of this command's flags; flags on the command line win, single settings too, as in
--generators.ddpm.train.width 32. One that names a task is a study of texts. Every step is a command of clinsynth in
a folder of its own below --output_dir. Start the same command again to go on: finished steps are kept, and after a
change of the recipe only the steps that depend on the changed line are repeated.
"""

import json
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from clinsynth.arguments import run
from clinsynth.study.arguments import StudyArguments

if TYPE_CHECKING:
    from clinsynth.study.plan import Plan, Step


def main(args: StudyArguments) -> None:
    """Run the steps that are not done, then write report.json and report.html."""
    from clinsynth.study.plan import plan_study

    plan = plan_study(args)
    if args.dry_run:
        print("\n".join(f"{'done' if step.finished else 'to do'}: {step.shown}" for step in plan.steps))
        return
    from clinsynth.run_folder import create_run_folder, read_json, write_run_config
    from clinsynth.study.power import check_power

    if power := "" if all(step.finished for step in plan.steps) else check_power(args):
        print(power, flush=True)
    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    run_steps(plan)
    if read_json(output_dir / "report.json").get("steps") == {step.name: step.key for step in plan.steps}:
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
        print(f"{heading}: {step.shown}", flush=True)
        run_step(step)


def run_step(step: "Step") -> None:
    """Run one step's command and mark its folder as finished."""
    from clinsynth.processes import end_with_parent
    from clinsynth.run_folder import atomic_write
    from clinsynth.study.plan import MARK

    resumed = step.output_dir.exists()
    started, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    status = subprocess.run([sys.executable, "-m", "clinsynth", *step.words], preexec_fn=end_with_parent).returncode
    if status:
        raise ValueError(
            f"the step {step.name!r} ended with status {status}, its message is above; finished steps are kept: mend "
            "the recipe or the data and start the same command again"
        )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    record = {
        "name": step.name,
        "command": step.shown,
        "key": step.key,
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(cpu, 1),
        "resumed": resumed,
    }
    atomic_write(step.output_dir / MARK, json.dumps(record, indent=2) + "\n")


def recipe_first(words: list[str]) -> list[str]:
    """`RECIPE --flag …` as `--config RECIPE --flag …`."""
    return ["--config", *words] if words and not words[0].startswith("-") else words


if __name__ == "__main__":
    run(StudyArguments, main, recipe_first(sys.argv[1:]))
