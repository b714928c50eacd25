"""Say what is in a data set of images or texts, before anything is trained.

clinsynth summarize --dataset phantom-fundus
clinsynth summarize --dataset my_pictures.csv --output_dir runs/my-summary
clinsynth summarize --dataset posts.csv --text_column post
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments, TextDataArguments


@dataclass
class SummarizeArguments(ImageDataArguments):
    """Count classes, sizes, subgroups, persons, and equal and near-equal rows within and across the splits of a data
    set of images or texts; say what came in, what was left out, and the smallest difference that the test split shows.

    Images are taken at their own size and mode. Missing splits are shown as training would cut them.
    """

    essentials: ClassVar[str] = "dataset text_column label_column output_dir"

    text_column: str | None = None
    """texts: column that holds the text; default: text, where the data set has no images"""
    drop_small_classes: bool = False
    """texts: leave classes below --min_class_size out"""
    seed: int = 0
    """seed of --few_shot and --train_fraction"""
    output_dir: str | None = None
    """folder for summary.json, which also lists the rows of each duplicate; default: print only"""


def main(args: SummarizeArguments) -> None:
    """Print the table; write `summary.json` if an output folder is given."""
    import json

    from clinsynth.data.images import open_image_dataset
    from clinsynth.data.summary import summarize_loaded, to_table
    from clinsynth.data.texts import holds_texts, open_text_dataset
    from clinsynth.run_folder import atomic_write, create_run_folder

    folder = create_run_folder(Path(args.output_dir)) if args.output_dir else None
    if args.text_column or holds_texts(args.dataset):
        values = {each.name: getattr(args, each.name) for each in fields(TextDataArguments)}
        texts = TextDataArguments(**values | {"text_column": args.text_column or "text"})
        loaded = open_text_dataset(texts, args.seed)
    else:
        loaded = open_image_dataset(args, args.seed)
    summary = {"dataset": args.dataset, **summarize_loaded(loaded)}
    print(to_table(summary))
    if folder:
        atomic_write(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        print(f"\nwritten: {folder / 'summary.json'}")


if __name__ == "__main__":
    run(SummarizeArguments, main)
