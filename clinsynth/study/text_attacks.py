"""Attacks on a language model that was tuned on real texts: does it tell them from others, does it say them by heart?

Membership inference (Carlini et al. 2021, arXiv 2012.07805): the loss of a text behind its label's prompt, alone and
by the length of the text when compressed, which says how surprising it is to anybody. Candidate and report come from
two halves, as in `clinsynth.metrics.privacy.attack`; the control knows the compressed length alone. Extraction by
prefix: the model goes on greedily from the beginning of a text, and whoever knew that much would have the rest;
held-out texts say how often that happens to texts it has not seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from clinsynth.data.texts import TextArrays
from clinsynth.judges.text_audit import share_of
from clinsynth.metrics.intervals import no_narrower
from clinsynth.metrics.privacy.attack import MIN_ROWS, describe_attack, describe_tpr, held_out_floor, run_attack
from clinsynth.study.membership import FALSE_POSITIVE_RATES, matched_sides
from clinsynth.trainers.text_lora.examples import Encoder

CANDIDATES = ("loss", "loss by compressed length")
LIMIT = "attacks without shadow models: stronger ones may find more, so that finding nothing is no proof"


@dataclass(frozen=True)
class TunedModel:
    """A causal language model, its examples' encoder, and the seed of the prompts."""

    model: Any
    encoder: Encoder
    seed: int

    def loss(self, text: str, label: str) -> float:
        """Mean nats a token of a text behind its label's prompt."""
        prompt, completion = self.encoder.prompt(label, self.seed), self.encoder.completion(text)
        ids = torch.tensor([[*prompt, *completion]], device=self.model.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        return float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :]))

    def says(self, text: str, label: str, prefix: int, length: int) -> bool | None:
        """Whether the model goes on with the `length` tokens that follow the text's first `prefix`; None where there
        are not so many."""
        start = len(self.encoder.opening) + prefix
        completion = self.encoder.completion(text)[:-1]
        if len(completion) < start + length:
            return None
        ids = torch.tensor([[*self.encoder.prompt(label, self.seed), *completion[:start]]], device=self.model.device)
        with torch.inference_mode():
            written = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                do_sample=False,
                pad_token_id=self.encoder.constraint.end_token,
            )
        return bool(written[0, ids.shape[1] :].tolist() == completion[start : start + length])


def attack_texts(
    tuned: TunedModel, members: TextArrays, others: TextArrays, *, prefix: int, length: int, seed: int, max_rows: int
) -> dict[str, Any]:
    """Records `membership` and `extraction`, JSON-able, without any text.

    Args:
        members: the texts that the model was tuned on.
        others: held-out texts; those equal to a member are left out.
        prefix, length: tokens of a text that the attacker knows, and that must follow word by word.
        max_rows: of a side with more, this many are drawn, with the same label mix.

    Returns:
        `membership` as of `clinsynth.study.membership`; `extraction` with `value`, the share of members that are said
        by heart, `interval`, and `floor`, that of held-out texts.
    """
    known = set(members.texts.tolist())
    others = others.take(np.array([text not in known for text in others.texts], dtype=bool))
    sides = matched_sides(members, others, seed, max_rows)
    found = min(len(side.labels) for side in sides)
    if found < MIN_ROWS:
        why = f"not measured: it needs {MIN_ROWS} rows a side of labels that both have, got {found}"
        return {name: {"value": None, "interval": None, "note": why} for name in ("membership", "extraction")}
    return {
        "membership": membership(tuned, sides, seed),
        "extraction": extraction(tuned, sides, prefix, length),
        "note": LIMIT,
    }


def membership(tuned: TunedModel, sides: list[TextArrays], seed: int) -> dict[str, Any]:
    """The attack by losses, with its controls."""
    losses = [np.array([tuned.loss(*row) for row in progress(side, "losses")]) for side in sides]
    sizes = [np.array([len(zlib.compress(str(text).encode())) for text in side.texts]) for side in sides]
    scores = [np.stack([-loss, -loss / size], axis=1) for loss, size in zip(losses, sizes, strict=True)]
    blind = [np.stack([size, -size], axis=1).astype(float) for size in sizes]
    labels, persons = [side.labels for side in sides], [side.persons for side in sides]
    attack = run_attack(scores, labels, seed, persons)
    return {
        "metric": "membership_inference",
        "ideal": 0.5,
        **describe_attack(attack),
        "chosen": CANDIDATES[attack.candidate],
        "tpr": [describe_tpr(attack, rate, seed, 1000) for rate in FALSE_POSITIVE_RATES],
        "floor": held_out_floor(scores[1], sides[1].labels, seed, sides[1].persons),
        "control": describe_attack(run_attack(blind, labels, seed, persons)),
    }


def extraction(tuned: TunedModel, sides: list[TextArrays], prefix: int, length: int) -> dict[str, Any]:
    """The shares of members and of held-out texts that are said by heart."""
    said = [[tuned.says(*row, prefix, length) for row in progress(side, "extraction")] for side in sides]
    members, others = (share_said(own, side.persons) for own, side in zip(said, sides, strict=True))
    return {"metric": "extraction", "ideal": 0.0, "prefix": prefix, "length": length, **members, "floor": others}


def share_said(said: list[bool | None], persons: np.ndarray | None) -> dict[str, Any]:
    """The share of True among what was tried (not None); its interval no narrower than that of resampled persons."""
    tried = np.array([one is not None for one in said])
    hits, whose = np.array(said)[tried].astype(bool), None if persons is None else persons[tried]
    found = share_of(int(hits.sum()), len(hits))
    if found["interval"] is None:
        return found
    return {**found, "interval": list(no_narrower(found["interval"], np.mean, [hits], [whose]))}


def progress(side: TextArrays, name: str) -> Sequence[tuple[str, str]]:
    """Texts and labels of a side, behind a bar."""
    rows = [(str(text), side.label_names[label]) for text, label in zip(side.texts, side.labels, strict=True)]
    bar: Any = tqdm(rows, desc=name, unit="text")
    return bar
