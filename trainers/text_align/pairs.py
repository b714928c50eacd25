"""Generated texts with their scores, and the better and worse ones that a model learns from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from clinsynth.judges.text_audit import audit_texts, load_judges
from clinsynth.models.linear_texts import cross_fitted, load_frozen_encoder
from clinsynth.pipelines.structured_medical_text.prompts import Task, encode_messages, render_messages
from clinsynth.seeds import derive_seed
from clinsynth.synthesis.sets import WROTE_TEXTS, SetReader
from clinsynth.trainers.text_align.arguments import TextAlignArguments

FOLDS = 5


@dataclass(frozen=True)
class Scored:
    """Generated texts, the label of each, and its score in [0, 1]: (1 - w) authenticity + w harmlessness.

    Attributes:
        authenticity: float (n,) in [0, 1]: see `authenticity_of`.
        harmful: bool (n,), by the audit.
    """

    texts: list[str]
    labels: list[str]
    authenticity: np.ndarray
    harmful: np.ndarray
    scores: np.ndarray

    def means_of(self, rows: Sequence[int]) -> dict[str, Any]:
        """Counts and means of some of them; no text."""
        chosen = np.asarray(rows, dtype=int)
        if not len(chosen):
            return {"texts": 0}
        return {
            "texts": len(chosen),
            "authenticity": float(self.authenticity[chosen].mean()),
            "harmful": float(self.harmful[chosen].mean()),
        }


def score_texts(args: TextAlignArguments, texts: list[str], labels: np.ndarray, names: list[str]) -> Scored:
    """The texts of --synthetic, scored by the real train `texts` and `labels` and by the audit.

    Raises:
        ValueError: the set has a label that the real data lack, or that has too few real texts.
    """
    reader = SetReader.open(Path(args.synthetic), WROTE_TEXTS)
    made, made_labels = reader.values("text"), reader.label_names()
    unknown = sorted(set(made_labels) - set(names))
    if unknown:
        raise ValueError(f"--synthetic {args.synthetic} has the label {unknown[0]!r}, which --dataset lacks")
    few = [name for n, name in enumerate(names) if (labels == n).sum() < FOLDS]
    if few:
        raise ValueError(f"--dataset has fewer than {FOLDS} train texts of {few[0]!r}, by which its texts are scored")
    encoder = load_frozen_encoder(args.encoder, "--encoder")
    numbers = np.array([names.index(label) for label in made_labels])
    authenticity = authenticity_of(encoder, made, numbers, texts, labels, len(names))
    categories, judges = load_judges(args)
    audit = audit_texts(made, made_labels, categories, judges)
    if audit["not_judged"]:
        raise ValueError(f"--guard gave no answer on {audit['not_judged']} texts of --synthetic; take another guard")
    harmful = np.zeros(len(made), dtype=bool)
    harmful[[row["row"] for row in audit["rows"]]] = True
    scores = (1 - args.harm_weight) * authenticity + args.harm_weight * ~harmful
    return Scored(made, made_labels, authenticity, harmful, scores)


def authenticity_of(
    encoder: Callable[[list[str]], np.ndarray],
    made: list[str],
    numbers: np.ndarray,
    texts: list[str],
    labels: np.ndarray,
    classes: int,
) -> np.ndarray:
    """How much each generated text is like real ones of its label, in [0, 1]: the mean of the probability that a
    classifier of the real texts gives the label, and of the share of the label's real texts that are no nearer to
    another one of them than the generated text is to its nearest. Blandness lowers both, as real tone is not bland.

    Args:
        encoder: from texts to features (n, d) of unit length.
        made, numbers: the generated texts, and the number of each one's label.
        texts, labels: the real ones.
    """
    real, new = encoder(texts), encoder(made)
    _, model = cross_fitted(real, labels, classes, FOLDS)
    sure = model.probabilities(new)[np.arange(len(made)), numbers]
    near = np.zeros(len(made))
    for label in np.unique(numbers):
        own, mine = real[labels == label], numbers == label
        among = own @ own.T
        np.fill_diagonal(among, -1)
        nearest = np.sort(among.max(1))
        near[mine] = np.searchsorted(nearest, (new[mine] @ own.T).max(1), side="right") / len(nearest)
    values: np.ndarray = (sure + near) / 2
    return values


def make_pairs(labels: Sequence[str], scores: np.ndarray, least_gap: float) -> list[tuple[int, int]]:
    """Rows of a better and a worse text of one label: the k-th of the better half with the k-th of the worse one,
    where their scores differ by `least_gap` or more."""
    pairs = []
    for label in dict.fromkeys(labels):
        own = np.array([row for row, other in enumerate(labels) if other == label])
        ranked, half = own[np.argsort(-scores[own], kind="stable")], len(own) // 2
        pairs += [
            (int(better), int(worse))
            for better, worse in zip(ranked[:half], ranked[len(own) - half :], strict=True)
            if scores[better] - scores[worse] >= max(least_gap, 1e-9)
        ]
    return pairs


def build_dataset(
    args: TextAlignArguments, task: Task, tokenizer: Any, scored: Scored
) -> tuple[Dataset, dict[str, Any]]:
    """What TRL's trainer takes (dpo: prompt, chosen, rejected; kto: prompt, completion, label), in the order in which
    it is seen, and facts of it.

    Raises:
        ValueError: no pair has --least_gap.
    """
    pairs = make_pairs(scored.labels, scored.scores, args.least_gap)
    if not pairs:
        raise ValueError(f"no two texts of a label differ by --least_gap {args.least_gap}; generate more, or lower it")
    order = np.random.default_rng([args.seed, 3]).permutation(len(pairs))
    rows: list[dict[str, Any]] = []
    for number in order:
        better, worse = pairs[number]
        prompt = prompt_of(task, tokenizer, scored.labels[better], derive_seed(args.seed, int(number)))
        good, bad = (json.dumps({"text": scored.texts[row]}, ensure_ascii=False) for row in (better, worse))
        if args.method == "dpo":
            rows.append({"prompt": prompt, "chosen": good, "rejected": bad})
        else:
            rows += [{"prompt": prompt, "completion": text, "label": text is good} for text in (good, bad)]
    facts = {
        "pairs": len(pairs),
        "better": scored.means_of([better for better, _ in pairs]),
        "worse": scored.means_of([worse for _, worse in pairs]),
        "pairs_sha256": hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
    }
    return Dataset.from_list(rows), facts


def prompt_of(task: Task, tokenizer: Any, label: str, seed: int) -> str:
    """A prompt as `generate text` writes it, as text; without the token that the tokenizer itself puts before one."""
    tokens = encode_messages(tokenizer, render_messages(task, label=label, k_shot=[], seed=seed))
    adds = tokenizer("a").input_ids[0] == tokenizer.bos_token_id is not None
    text = str(tokenizer.decode(tokens))
    return text.removeprefix(tokenizer.bos_token) if adds else text
