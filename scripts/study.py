"""Run a whole study from one recipe: train, generate, measure, train classifiers in every arm and seed, report.

    clinsynth study recipes/phantom.yaml --output_dir runs/phantom-study
    python scripts/study.py recipes/retina.yaml --dataset retinamnist.npz --output_dir runs/retina-study
    clinsynth study recipes/notes.yaml --dataset mts_dialog --output_dir runs/notes-study
    clinsynth study recipes/phantom.yaml --engine ray --address auto --output_dir runs/phantom-study

A recipe is a YAML file of this command's flags; flags on the command line win, single settings too, as in
--generators.ddpm.train.width 32. One that names a task is a study of texts. Every step is a command of clinsynth in
a folder of its own below --output_dir. Start the same command again to go on: finished steps are kept, and after a
change of the recipe only the steps that depend on the changed line are repeated.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from clinsynth.arguments import recipe_files, run
from clinsynth.study.arguments import StudyArguments

if TYPE_CHECKING:
    from clinsynth.study.plan import Plan


def main(args: StudyArguments) -> None:
    """Run the steps that are not done, then write report.json and report.html."""
    from clinsynth.study.plan import plan_study

    plan = plan_study(args)
    if args.dry_run:
        print(describe_plan(plan, Path(args.output_dir)))
        return
    from clinsynth.run_folder import create_run_folder, read_json, write_run_config
    from clinsynth.study.power import check_power
    from clinsynth.study.steps import run_steps, run_steps_on_ray

    if power := "" if all(step.finished for step in plan.steps) else check_power(args):
        print(power, flush=True)
    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    if args.engine == "ray":
        run_steps_on_ray(plan, args)
    else:
        run_steps(plan)
    told = read_json(output_dir / "report.json")
    keys = {step.name: step.key for step in plan.steps}
    shown = (told.get("shareable", False), told.get("author", ""))
    if told.get("steps") == keys and shown == (args.shareable, args.author):
        print(f"nothing has changed; report: {output_dir / 'report.html'}")
        return
    from clinsynth.reports.study import write_study_report

    write_study_report(args, plan, output_dir)


def describe_plan(plan: "Plan", output_dir: Path) -> str:
    """Each step's command, whether it is done, and how long it took the last time where it was run before."""
    from clinsynth.progress import time_in_words
    from clinsynth.run_folder import read_json
    from clinsynth.study.plan import MARK

    records = [read_json(path) for path in sorted(output_dir.glob(f"*/{MARK}"), key=lambda path: path.stat().st_mtime)]
    took = {record["name"]: record["seconds"] for record in records}
    lines, waiting = [], []
    for step in plan.steps:
        seconds = took.get(step.name, took.get(step.name.partition(" draw ")[0]))
        last = "" if seconds is None else f" ({time_in_words(seconds)}{'' if step.finished else ' the last time'})"
        lines.append(f"{'done' if step.finished else 'to do'}{last}: {step.shown}")
        waiting += [] if step.finished else [seconds]
    known = [seconds for seconds in waiting if seconds is not None]
    if known:
        rest = f", and {len(waiting) - len(known)} that were not run before" if len(known) < len(waiting) else ""
        lines.append(f"to do: about {time_in_words(sum(known))} for {len(known)} steps by the last time{rest}")
    return "\n".join(lines)


def recipe_first(words: list[str]) -> list[str]:
    """`RECIPE --flag …` as `--config FILE --flag …`; a recipe that comes with clinsynth may go by its name."""
    if not words or words[0].startswith("-"):
        return words
    own = {} if Path(words[0]).exists() else recipe_files(".")
    return ["--config", str(own.get(words[0], words[0])), *words[1:]]


if __name__ == "__main__":
    run(StudyArguments, main, recipe_first(sys.argv[1:]))
