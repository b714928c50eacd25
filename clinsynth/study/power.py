"""What a study could show at all, said before hours go into it."""

from __future__ import annotations

from dataclasses import fields

from clinsynth.data.arguments import TextDataArguments
from clinsynth.data.images import open_image_dataset
from clinsynth.data.summary import VISIBLE, visible_gain
from clinsynth.data.texts import open_text_dataset
from clinsynth.study.arguments import StudyArguments

PHANTOM = "phantom-"
SEEDS = 3  # of a classifier whose recipe says nothing


def check_power(args: StudyArguments) -> str:
    """A sentence on the smallest gain in macro-F1 that the study can show; empty where it compares nothing, and for
    phantoms, which show nothing of patients.

    Raises:
        ValueError: it cannot show VISIBLE, and --underpowered was not given.
    """
    if args.dataset.startswith(PHANTOM) or not (args.classifiers and args.generators):
        return ""
    if args.task:
        texts = TextDataArguments(**{each.name: getattr(args, each.name) for each in fields(TextDataArguments)})
        loaded = open_text_dataset(texts, args.seed)
    else:
        loaded = open_image_dataset(args, args.seed)
    seeds = min(int(flags.get("seeds", SEEDS)) for flags in args.classifiers.values())
    gain = visible_gain(loaded, seeds)
    if gain is None:
        return ""
    found = (
        f"{len(loaded.splits['test'])} test rows and {seeds} seeds can show a gain of about {gain:.3f} in macro-F1, "
        "by quick baselines (80 % power)"
    )
    if gain > VISIBLE and not args.underpowered:
        raise ValueError(
            f"{found}, but a study should show {VISIBLE}: give more test rows or seeds, or --underpowered true to go "
            "on and see larger gains alone"
        )
    return found
