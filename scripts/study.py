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

from clinsynth.arguments import run
from clinsynth.study.arguments import StudyArguments


def main(args: StudyArguments) -> None:
    """Run the steps that are not done, then write report.json and report.html."""
    from clinsynth.study.plan import plan_study

    plan = plan_study(args)
    if args.dry_run:
        print("\n".join(f"{'done' if step.finished else 'to do'}: {step.shown}" for step in plan.steps))
        return
    from clinsynth.run_folder import create_run_folder, read_json, write_run_config
    from clinsynth.study.steps import run_steps, run_steps_on_ray

    output_dir = create_run_folder(args.output_dir)
    write_run_config(output_dir, args)
    if args.engine == "ray":
        run_steps_on_ray(plan, args)
    else:
        run_steps(plan)
    if read_json(output_dir / "report.json").get("steps") == {step.name: step.key for step in plan.steps}:
        print(f"nothing has changed; report: {output_dir / 'report.html'}")
        return
    from clinsynth.reports.study import write_study_report

    write_study_report(args, plan, output_dir)


def recipe_first(words: list[str]) -> list[str]:
    """`RECIPE --flag …` as `--config RECIPE --flag …`."""
    return ["--config", *words] if words and not words[0].startswith("-") else words


if __name__ == "__main__":
    run(StudyArguments, main, recipe_first(sys.argv[1:]))
