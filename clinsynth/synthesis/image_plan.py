"""How many images of which class are to be generated."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clinsynth.scripts.generate_images import GenerateImagesArguments


def plan_labels(args: GenerateImagesArguments, pipeline: Any) -> list[int]:
    """The class number of every image to generate, in class order.

    Raises:
        ValueError: an unknown label, or nothing to generate.
    """
    if args.counts is not None:
        wanted = parse_counts(args.counts, pipeline)
    elif args.per_class is not None:
        wanted = dict.fromkeys(range(pipeline.num_classes), args.per_class)
    else:
        wanted = missing_counts(args, pipeline)
    labels = [label for label in sorted(wanted) for _ in range(wanted[label])]
    if not labels:
        enough = f"no class is below {args.balance_to} images"
        why = f"--counts {args.counts} asks for none" if args.counts else enough
        raise ValueError(f"there is nothing to generate: {why}; raise the number")
    return labels


def parse_counts(text: str, pipeline: Any) -> dict[int, int]:
    """`"grade 4=10,0=5"` to `{4: 10, 0: 5}`."""
    counts = {}
    for entry in text.split(","):
        label, _, number = entry.rpartition("=")
        if not label or not number.strip().isdigit():
            raise ValueError(f"--counts {text!r}: {entry!r} is not LABEL=N with a whole number N; write grade 4=100")
        name = label.strip()
        known = name in pipeline.id2label.values() or not name.isdigit()
        number_of_class = pipeline.label_ids(name if known else int(name))[0]
        if number_of_class in counts:
            raise ValueError(f"--counts {text!r} names the class {name!r} twice; give one number for it")
        counts[number_of_class] = int(number)
    return counts


def missing_counts(args: GenerateImagesArguments, pipeline: Any) -> dict[int, int]:
    """What each class of the real train split lacks to `args.balance_to`."""
    from clinsynth.data.load import load_image_dataset

    train = load_image_dataset(args, args.seed)["train"]
    names = train.features["label"].names
    if names != list(pipeline.id2label.values()):
        raise ValueError(
            f"--dataset {args.dataset} has the {len(names)} classes {names}, but --model {args.model} was trained on "
            f"the {pipeline.num_classes} classes {list(pipeline.id2label.values())}; give the data set that it saw"
        )
    real = Counter(train["label"])
    return {label: max(0, args.balance_to - real[label]) for label in pipeline.id2label}  # type: ignore[operator]


def describe_counts(labels: list[int], id2label: dict[int, str]) -> str:
    """`400 images: grade 1 100, …`."""
    parts = [f"{name} {labels.count(label)}" for label, name in id2label.items()]
    return f"{len(labels)} images: {', '.join(parts)}"
