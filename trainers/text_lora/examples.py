"""The model to fine-tune, and its examples: prompts as `generate text` writes them, and real texts as JSON."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from datasets import Dataset, DatasetDict
from tqdm.auto import tqdm

from clinsynth.data.labels import first_of
from clinsynth.metrics.texts.privacy import Canaries, make_canaries
from clinsynth.models.language_models import load_causal_model
from clinsynth.pipelines.structured_medical_text.prompts import Task, encode_messages, render_messages
from clinsynth.pipelines.structured_medical_text.schema_logits import SchemaConstraint
from clinsynth.pipelines.structured_medical_text.schemas import check_text
from clinsynth.seeds import derive_seed
from clinsynth.trainers.text_lora.arguments import TextLoraArguments

if TYPE_CHECKING:
    from accelerate import PartialState
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger("clinsynth")

IGNORED = -100
"""The label of a token that the loss passes over."""
TRAIN, VALIDATION, ORDER = 0, 1, 2
"""What seeds are drawn for."""


@dataclass(frozen=True)
class Examples:
    """Tokenised examples (columns input_ids, labels) and how they are to be passed over.

    Attributes:
        train: in the order in which they are seen, those of all passes one after the other.
        steps, steps_a_pass: optimizer steps in all, and between two validations.
        facts: counts for training.json, and the digest by which a resumed run knows its examples.
    """

    train: Dataset
    validation: Dataset
    steps: int
    steps_a_pass: int
    facts: dict[str, Any]
    canaries: Canaries | None

    def dry_run_text(self) -> str:
        """What --dry_run prints."""
        return json.dumps({**self.facts, "steps": self.steps, "steps_a_pass": self.steps_a_pass}, indent=2)


class WithTask(Protocol):
    """Arguments of a command on a task and a data set."""

    task: str
    dataset: str


def check_task(args: WithTask, task: Task, names: list[str]) -> None:
    """Raise a `ValueError` where the data cannot fill the task's schema, or has a label that the task does not."""
    lacking = [field for field in task.schema["properties"] if field != "text"]
    if lacking:
        raise ValueError(
            f"--task {args.task}: its schema has the fields {', '.join(lacking)}, which a data set of texts does not "
            'give; take a task whose only field is "text", or prompt a model with `generate text` instead'
        )
    unknown = [name for name in names if name not in task.labels]
    if unknown:
        raise ValueError(
            f"--dataset {args.dataset} has the label {unknown[0]!r}, which --task {args.task} does not know; its "
            f"labels are {first_of(task.labels)}: name them so with --label_names, or add a meaning to a "
            "copy of the task's file"
        )


def build_examples(
    args: TextLoraArguments, task: Task, splits: DatasetDict, base: Base, state: PartialState
) -> Examples:
    """The examples of `splits` train and validation.

    Raises:
        ValueError: texts that do not fit the schema or the context, or a tokenizer that cannot write JSON.
    """
    encoder = Encoder(base.tokenizer, task)
    left_out: dict[str, Counter[str]] = {}
    texts = {}
    for split in ("train", "validation"):
        texts[split], left_out[split] = fitting_texts(splits[split], task, split)
    train, canaries = plant(texts["train"], args.canaries, args.seed, task)
    global_batch = args.batch_size * args.gradient_accumulation * state.num_processes
    steps_a_pass = -(-len(train) // global_batch)
    steps = args.train_steps or args.epochs * steps_a_pass
    order = draw_order([text.label for text in train], steps * global_batch, args.class_balanced, args.seed)
    limit = TokenLimit(args.max_length, base.context)
    seen = [(train[row], derive_seed(args.seed, TRAIN, number)) for number, row in enumerate(order.tolist())]
    judged = [(text, derive_seed(args.seed, VALIDATION, row)) for row, text in enumerate(texts["validation"])]
    quiet = not state.is_main_process
    seen_set = encode_texts(tqdm(seen, desc="prompts", unit="text", disable=quiet), encoder, limit)
    judged_set = encode_texts(judged, encoder, limit)
    if limit.cut and not quiet:
        logger.warning("--max_length %d: %s", limit.tokens, limit.losses_in_words(len(seen) + len(judged)))
    facts = {
        "texts": {split: len(found) for split, found in texts.items()},
        "left_out": {split: dict(reasons) for split, reasons in left_out.items()},
        "examples": len(seen),
        "longest_example_tokens": limit.longest,
        "cut_examples": limit.cut,
        "cut_tokens": limit.lost,
        "processes": state.num_processes,
        "examples_sha256": digest([seen_set, judged_set]),
    }
    return Examples(seen_set, judged_set, steps, steps_a_pass, facts, canaries)


@dataclass(frozen=True)
class Base:
    """The model as it is before training; `context` is the most tokens that it takes, None where it does not say."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context: int | None


def load_base(args: TextLoraArguments) -> Base:
    """Model and tokenizer of --model.

    Raises:
        ValueError: they cannot be had, or do not belong to each other; names the cause.
    """
    model, tokenizer = load_causal_model(args.model, args.dtype)
    embeddings: Any = model.get_input_embeddings()
    known = embeddings.num_embeddings
    if len(tokenizer) > known:
        raise ValueError(
            f"--model {args.model}: its tokenizer has {len(tokenizer)} tokens and the network knows {known}; put the "
            "tokenizer of this model into its folder"
        )
    return Base(model, tokenizer, getattr(model.config.get_text_config(), "max_position_embeddings", None))


class Encoder:
    """Turns labels and texts into the tokens that the pipeline would read and write for them.

    Raises:
        ValueError: the tokenizer lacks an end token or the signs of JSON, or the schema has no bound.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, task: Task):
        self.tokenizer, self.task = tokenizer, task
        self.constraint = SchemaConstraint(tokenizer, task.schema)
        self.opening = self.constraint.spell(json.dumps({"text": ""})[:-2].encode())

    def prompt(self, label: str, seed: int) -> list[int]:
        """The tokens of a prompt without examples, as `generate text` gives them to the model."""
        return encode_messages(self.tokenizer, render_messages(self.task, label=label, k_shot=[], seed=seed))

    def completion(self, text: str) -> list[int]:
        """The tokens of `{"text": …}` and the end token.

        The beginning, about which the schema leaves no choice, is cut into tokens on its own, as it is in generation.
        """
        rest = json.dumps(text, ensure_ascii=False)[1:] + "}"
        return [*self.opening, *self.constraint.spell(rest.encode()), self.constraint.end_token]


class TokenLimit:
    """The most tokens of prompt and text, and what was lost by it.

    Attributes:
        cut, lost, written: examples that lost their end, tokens that were lost, and those there were, of text.
        longest: tokens of the longest example before any cut.
    """

    def __init__(self, max_length: int | None, context: int | None):
        if max_length and context and max_length > context:
            raise ValueError(
                f"--max_length {max_length} is {max_length - context} tokens above the model's context of {context}; "
                f"give {context} or less"
            )
        self.cuts, self.tokens = max_length is not None, max_length or context
        self.cut = self.lost = self.written = self.longest = 0

    def losses_in_words(self, examples: int) -> str:
        """What was lost by it."""
        lost = f"{self.lost} of {self.written} tokens of text in all"
        return f"of {examples} examples {self.cut} lose the end of their text, {lost}"

    def __call__(self, prompt: list[int], completion: list[int], label: str) -> list[int]:
        """`prompt` and what there is room for of `completion`.

        Raises:
            ValueError: too long for the context, or a prompt alone for the limit; says by how much.
        """
        length = len(prompt) + len(completion)
        self.longest = max(self.longest, length)
        self.written += len(completion)
        excess = length - self.tokens if self.tokens else 0
        if excess <= 0:
            return prompt + completion
        if not self.cuts:
            raise ValueError(
                f"a text of label {label!r} has {len(completion)} tokens and its prompt {len(prompt)}, {excess} more "
                f"than the model's context of {self.tokens}; give --max_length {self.tokens}, which cuts the ends of "
                "such texts off, or a task with a shorter prompt or a lower maxLength"
            )
        if excess >= len(completion):
            raise ValueError(
                f"--max_length {self.tokens}: a prompt of label {label!r} alone has {len(prompt)} tokens, "
                f"{len(prompt) - (self.tokens or 0)} more; raise it until some of the text is seen too"
            )
        self.cut += 1
        self.lost += excess
        return (prompt + completion)[:-excess]


def encode_texts(items: Iterable[tuple[Text, int]], encoder: Encoder, limit: TokenLimit) -> Dataset:
    """Columns input_ids and labels of texts, each with the seed of its prompt; held in memory, written nowhere."""
    ids, labels = [], []
    completions: dict[str, list[int]] = {}
    for text, seed in items:
        if text.content not in completions:
            completions[text.content] = encoder.completion(text.content)
        prompt = encoder.prompt(text.label, seed)
        tokens = limit(prompt, completions[text.content], text.label)
        ids.append(np.array(tokens, dtype=np.int32))
        labels.append(np.array([IGNORED] * len(prompt) + tokens[len(prompt) :], dtype=np.int32))
    return Dataset.from_dict({"input_ids": ids, "labels": labels})


def draw_order(labels: list[str], count: int, balanced: bool, seed: int) -> np.ndarray:
    """`count` row numbers: passes over all rows, each shuffled anew.

    Balanced: the classes take turns in shuffled rounds, and each class passes over rows of its own.
    """
    generator = np.random.default_rng([seed, ORDER])
    if not balanced:
        return shuffled_passes(np.arange(len(labels)), count, generator)
    names = np.array(labels)
    turns = shuffled_passes(np.unique(names), count, generator)
    order = np.empty(count, dtype=np.int64)
    for name in np.unique(names):
        order[turns == name] = shuffled_passes(np.flatnonzero(names == name), int((turns == name).sum()), generator)
    return order


def shuffled_passes(items: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """The first `count` of endless shuffled passes over `items`."""
    rounds = [generator.permutation(items) for _ in range(-(-count // len(items)))]
    return np.concatenate([items[:0], *rounds])[:count]


def digest(sets: Iterable[Dataset]) -> str:
    """SHA-256 of all tokens, the texts', the prompts' and their order."""
    content = hashlib.sha256()
    for dataset in sets:
        for row in dataset.with_format("numpy"):
            content.update(np.ascontiguousarray(row["input_ids"]).tobytes() + b"|")
    return content.hexdigest()


@dataclass(frozen=True)
class Text:
    """A real text of a class."""

    label: str
    content: str


def fitting_texts(split: Dataset, task: Task, name: str) -> tuple[list[Text], Counter[str]]:
    """The texts that are valid under the task's schema, and how many are not, by reason.

    One that is not could never be written in generation. Those left out are logged by number and reason.

    Raises:
        ValueError: nothing is left of the split, or of a class of the train split.
    """
    names = split.features["label"].int2str(split["label"][:])
    texts, reasons = [], Counter[str]()
    for label, content in zip(names, split["text"], strict=True):
        reason = refusal(content, task)
        if reason is None:
            texts.append(Text(label, content))
        else:
            reasons[reason] += 1
    if reasons:
        told = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        logger.warning("%d of %d %s texts are not valid under the task's schema: %s; they are left out",
                       reasons.total(), len(names), name, told)  # fmt: skip
    lost = sorted(set(names) - {text.label for text in texts}) if name == "train" or not texts else []
    if lost:
        raise ValueError(
            f"no {name} text of label {lost[0]!r} is valid under the schema of task {task.name} "
            f"({', '.join(sorted(reasons))}), and there are {names.count(lost[0])} of it; give more texts of it, or "
            "widen minLength and maxLength in a copy of the task's file"
        )
    return texts, reasons


def refusal(content: str, task: Task) -> str | None:
    """Why `{"text": content}` is not valid, None where it is."""
    return check_text(json.dumps({"text": content}), task.schema)[1]


def plant(texts: list[Text], count: int, seed: int, task: Task) -> tuple[list[Text], Canaries | None]:
    """Append a canary each to `count` texts drawn at random, among those that stay valid; the list is for evaluation.

    Raises:
        ValueError: there are fewer such texts.
    """
    if not count:
        return texts, None
    canaries = make_canaries(planted=count, seed=seed)
    longest = max(canaries.planted, key=len)
    room = [row for row, text in enumerate(texts) if refusal(f"{text.content} {longest}", task) is None]
    if count > len(room):
        raise ValueError(f"--canaries {count}: only {len(room)} train texts have room for one; give at most that many")
    rows = np.random.default_rng([seed, 7]).choice(room, count, replace=False).tolist()
    planted = list(texts)
    for row, canary in zip(rows, canaries.planted, strict=True):
        planted[row] = replace(texts[row], content=f"{texts[row].content} {canary}")
    return planted, canaries
