"""Count classes, subgroups and duplicates of a data set.

clinsynth summarize --dataset phantom-fundus
clinsynth summarize --dataset my_pictures.csv --output_dir runs/my-summary
"""

from dataclasses import dataclass
from pathlib import Path

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments


@dataclass
class SummarizeArguments(ImageDataArguments):
    """Count classes, sizes, subgroups, and exact and near duplicates within and across the splits of a data set.

    Pictures are taken at their own size and mode. Missing splits are shown as training would cut them.
    """

    seed: int = 0
    """seed of --few_shot and --train_fraction"""
    output_dir: str | None = None
    """folder for summary.json, which also lists the rows of each duplicate; default: print only"""


def main(args: SummarizeArguments) -> None:
    """Print the table; write `summary.json` if an output folder is given."""
    import json

    from clinsynth.data.images import load_image_dataset
    from clinsynth.data.summary import summarize, to_table
    from clinsynth.run_folder import atomic_write, create_run_folder

    folder = create_run_folder(Path(args.output_dir)) if args.output_dir else None
    summary = {"dataset": args.dataset, **summarize(load_image_dataset(args, args.seed))}
    print(to_table(summary))
    if folder:
        atomic_write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        print(f"\nwritten: {folder / 'summary.json'}")


if __name__ == "__main__":
    run(SummarizeArguments, main)
