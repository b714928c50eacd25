"""What to generate: how many samples of each label, and of texts what is asked for one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from clinsynth.data.duplicates import text_digest
from clinsynth.data.labels import first_of
from clinsynth.pipelines.structured_medical_text.prompts import Task, draw_k_shot, render_messages
from clinsynth.synthesis.arguments import Amounts
from clinsynth.synthesis.prompt_parts import PromptParts

logger = logging.getLogger("clinsynth")


def plan_labels(
    args: Amounts,
    id2label: Mapping[int, str],
    number_of: Callable[[str], int],
    real: Callable[[], list[int]],
    things: str,
) -> list[int]:
    """The label's number of every sample to make, in the order of labels.

    Args:
        id2label: label numbers to names.
        number_of: the number of a label as --counts names it, or a `ValueError`.
        real: loads the label numbers of the real train split, which --balance_to counts.
        things: what is made, for messages.

    Raises:
        ValueError: an unknown label, or nothing to generate.
    """
    if args.counts is not None:
        wanted = parse_counts(args.counts, number_of)
    elif args.per_class is not None:
        wanted = dict.fromkeys(id2label, args.per_class)
    else:
        there, most = Counter(real()), args.balance_to or 0
        wanted = {label: max(0, most - there[label]) for label in id2label}
    labels = [label for label in sorted(wanted) for _ in range(wanted[label])]
    if not labels:
        enough = f"no label is below {args.balance_to} {things}"
        why = f"--counts {args.counts} asks for none" if args.counts else enough
        raise ValueError(f"there is nothing to generate: {why}; raise the number")
    return labels


def parse_counts(text: str, number_of: Callable[[str], int]) -> dict[int, int]:
    """`"severe=10,mild=5"` to `{3: 10, 1: 5}`."""
    counts: dict[int, int] = {}
    for entry in text.split(","):
        label, _, count = (part.strip() for part in entry.rpartition("="))
        if not label or not count.isdigit():
            raise ValueError(f"--counts {text!r}: {entry!r} is not LABEL=N with a whole number N; write severe=100")
        number = number_of(label)
        if number in counts:
            raise ValueError(f"--counts {text!r} names the label {label!r} twice; give one number for it")
        counts[number] = int(count)
    return counts


def find_label(names: Sequence[str], label: str) -> int:
    """The number of a label.

    Raises:
        ValueError: there is none of that name.
    """
    if label not in names:
        raise ValueError(f"--counts: the label {label!r} is unknown; there are {first_of(names)}")
    return names.index(label)


def describe_counts(labels: list[int], id2label: Mapping[int, str], things: str) -> str:
    """`400 texts: mild 100, …`."""
    counts = Counter(labels)
    return f"{len(labels)} {things}: {first_of(f'{name} {counts[label]}' for label, name in id2label.items())}"


def name_labels(task: Task, task_name: str, train: Dataset | None, dataset: str) -> list[str]:
    """The labels of a synthetic set of texts, in the order of their numbers: the real data set's where there is one.

    Args:
        task_name, dataset: the values of --task and --dataset, for messages.

    Raises:
        ValueError: the real data has a label that the task gives no meaning.
    """
    if train is None:
        return list(task.labels)
    names: list[str] = train.features["label"].names
    unknown = [name for name in names if name not in task.labels]
    if unknown:
        raise ValueError(
            f"--dataset {dataset} has the label {unknown[0]!r}, which --task {task_name} does not know; its "
            f"labels are {first_of(task.labels)}: name them so with --label_names, or add a meaning to a copy of the "
            "task's file"
        )
    absent = [name for name in task.labels if name not in names]
    if absent:
        logger.info("labels that --dataset does not have are left out: %s", ", ".join(absent))
    return names


def texts_of(train: Dataset | None, names: list[str]) -> tuple[list[str], list[int]]:
    """The real train texts with a label among `names`, and its number there; none without a data set."""
    if train is None:
        return [], []
    labels = train.features["label"].int2str(train["label"][:])
    kept = [(text, names.index(label)) for text, label in zip(train["text"], labels, strict=True) if label in names]
    return [text for text, _ in kept], [number for _, number in kept]


def number_labels(train: Dataset | None, names: list[str]) -> list[int]:
    """The numbers, among `names`, of the real train texts' labels; --balance_to alone asks, which needs a data set."""
    assert train is not None
    return texts_of(train, names)[1]


@dataclass(frozen=True)
class Prompts:
    """What is asked of a language model: called with a label's number and a seed, messages and the examples' ids.

    Attributes:
        names: of the labels, in the order of their numbers.
        examples: label to the different real train texts (`id`, `text`) that its prompts choose from.
        k_shot: of them in a prompt.
        parts: what a prompt says beyond its task.
    """

    task: Task
    names: list[str]
    examples: dict[str, list[dict[str, Any]]]
    k_shot: int
    parts: PromptParts | None = None

    def __call__(self, label: int, seed: int) -> tuple[list[dict[str, str]], list[str]]:
        name = self.names[label]
        if self.parts is not None and "diverse" in self.parts.parts:
            shots = self.parts.choose_examples(self.examples[name], name, self.k_shot, seed)
        else:
            shots = draw_k_shot(self.examples[name], self.k_shot, seed)
        messages = render_messages(self.task, label=name, k_shot=shots, seed=seed)
        if self.parts is not None:
            messages[-1]["content"] = "\n\n".join(
                [messages[-1]["content"], *self.parts.choose(self.task, name, seed)[0]]
            )
        return messages, [shot["id"] for shot in shots]

    def choices(self, label: int, seed: int) -> dict[str, Any] | None:
        """What a row's prompt was made of, beyond its task; None where there is nothing beyond it."""
        return None if self.parts is None else self.parts.choose(self.task, self.names[label], seed)[1]

    @property
    def facts(self) -> dict[str, Any]:
        """What generation.json says: digests, since the task lies in task.json, and examples are real texts."""
        return {
            "task": self.task.name,
            "task_sha256": digest(self.task.to_dict()),
            "examples_sha256": digest(self.examples) if self.k_shot else None,
            "k_shot": self.k_shot,
            **({} if self.parts is None else {"prompt_parts": list(self.parts.parts)}),
        }


def digest(values: Any) -> str:
    """SHA-256 of values of JSON's types."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def examples_by_label(
    names: list[str], train: Dataset | None, k_shot: int, dataset: str
) -> dict[str, list[dict[str, Any]]]:
    """Label to the different real train texts (`id`, `text`) that its prompts choose from; none without `--k_shot`.

    Raises:
        ValueError: a label has fewer than `--k_shot`.
    """
    pools: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    if train is None or not k_shot:
        return pools
    labels = train.features["label"].int2str(train["label"][:])
    seen: set[tuple[str, str]] = set()
    for identifier, text, label in zip(train["id"], train["text"], labels, strict=True):
        known = (label, text_digest(text))
        if label in pools and known not in seen:
            seen.add(known)
            pools[label].append({"id": identifier, "text": text})
    for name, pool in pools.items():
        if len(pool) < k_shot:
            raise ValueError(
                f"--k_shot {k_shot}: label {name!r} has only {len(pool)} different train texts in --dataset "
                f"{dataset}; give {len(pool)} or fewer, or leave the label out with --counts"
            )
    return pools
