"""What to generate: the labels, how many texts of each, and the real texts that may stand in their prompts."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

from clinsynth.data.labels import first_of

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.pipelines.structured_medical_text.prompts import Task
    from clinsynth.scripts.generate_images import GenerateImagesArguments
    from clinsynth.scripts.generate_text import GenerateTextArguments

logger = logging.getLogger("clinsynth")


def label_names(args: GenerateTextArguments, task: Task, train: Dataset | None) -> list[str]:
    """The labels of the synthetic data set, in the order of their numbers: the real data set's where there is one.

    With `--codes` they are those asked for.

    Raises:
        ValueError: the real data has a label that the task gives no meaning.
    """
    if train is None or args.codes is not None:
        return list(task.labels)
    names: list[str] = train.features["label"].names
    unknown = [name for name in names if name not in task.labels]
    if unknown:
        raise ValueError(
            f"--dataset {args.dataset} has the label {unknown[0]!r}, which --task {args.task} does not know; its "
            f"labels are {first_of(task.labels)}: name them so with --label_names, or add a meaning to a copy of the "
            "task's file"
        )
    absent = [name for name in task.labels if name not in names]
    if absent:
        logger.info("labels that --dataset does not have are left out: %s", ", ".join(absent))
    return names


def plan_text_labels(args: GenerateTextArguments, names: list[str], train: Dataset | None) -> list[int]:
    """The label's number of every text to generate, in the order of labels.

    Raises:
        ValueError: an unknown label, or nothing to generate.
    """
    if args.counts is not None:
        wanted = parse_text_counts(args.counts, names)
    elif args.per_class is not None:
        wanted = dict.fromkeys(names, args.per_class)
    else:
        assert train is not None and args.balance_to is not None  # its __post_init__ sees to that
        real = Counter(train.features["label"].int2str(train["label"][:]))
        wanted = {name: max(0, args.balance_to - real[name]) for name in names}
    labels = [number for number, name in enumerate(names) for _ in range(wanted.get(name, 0))]
    if not labels:
        enough = f"no label is below {args.balance_to} texts"
        why = f"--counts {args.counts} asks for none" if args.counts else enough
        raise ValueError(f"there is nothing to generate: {why}; raise the number")
    return labels


def parse_text_counts(text: str, names: list[str]) -> dict[str, int]:
    """`"severe=10,mild=5"` to `{"severe": 10, "mild": 5}`."""
    counts: dict[str, int] = {}
    for entry in text.split(","):
        label, _, number = (part.strip() for part in entry.rpartition("="))
        if not label or not number.isdigit():
            raise ValueError(f"--counts {text!r}: {entry!r} is not LABEL=N with a whole number N; write severe=100")
        if label not in names:
            raise ValueError(f"--counts {text!r}: the label {label!r} is unknown; there are {', '.join(names)}")
        if label in counts:
            raise ValueError(f"--counts {text!r} names the label {label!r} twice; give one number for it")
        counts[label] = int(number)
    return counts


def examples_by_label(
    args: GenerateTextArguments, names: list[str], train: Dataset | None
) -> dict[str, list[dict[str, Any]]]:
    """Label to the different real train texts (`id`, `text`) that its prompts choose from; none without `--k_shot`.

    Raises:
        ValueError: a label has fewer than `--k_shot`.
    """
    from clinsynth.data.duplicates import text_digest

    pools: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    if train is None or not args.k_shot:
        return pools
    labels = train.features["label"].int2str(train["label"][:])
    seen: set[tuple[str, str]] = set()
    for identifier, text, label in zip(train["id"], train["text"], labels, strict=True):
        known = (label, text_digest(text))
        if label in pools and known not in seen:
            seen.add(known)
            pools[label].append({"id": identifier, "text": text})
    for name, pool in pools.items():
        if len(pool) < args.k_shot:
            raise ValueError(
                f"--k_shot {args.k_shot}: label {name!r} has only {len(pool)} different train texts in --dataset "
                f"{args.dataset}; give {len(pool)} or fewer, or leave the label out with --counts"
            )
    return pools


def plan_image_labels(args: GenerateImagesArguments, pipeline: Any) -> list[int]:
    """The class number of every image to generate, in class order.

    Raises:
        ValueError: an unknown label, or nothing to generate.
    """
    if args.counts is not None:
        wanted = parse_image_counts(args.counts, pipeline)
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


def parse_image_counts(text: str, pipeline: Any) -> dict[int, int]:
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
    from clinsynth.data.images import load_image_dataset

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
