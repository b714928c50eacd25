"""Copies of train texts that are certain one at a time, and what share of altered copies the check on texts finds.

A text is compared with each train text by the pairs of words that both hold, next to each other or with one word
between them, each weighed by how few train texts hold it: log(20 / texts), nothing from 20 on. Three scores multiply
that sum by powers of the shares of either text that it is: of the train text (a copy within a longer text), of the
one whose share is smaller (a copy with a word changed, or with its sentences in another order), and of the text itself
(a piece of a train text). What many texts of a kind say scores low in all three. A score's threshold is where a third
of a new real text in 10,000 is expected, from the held-out texts that are no duplicates of train texts, and never
below what one pair of words says that a single train text holds. A short text that says little is below it, copied or
not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from clinsynth.metrics.privacy.copies import count_certain
from clinsynth.metrics.privacy.power import RATE, beyond, describe_power, tail_threshold
from clinsynth.metrics.texts.entities import all_entities, leaks
from clinsynth.metrics.texts.words import words_of

COMMON = 20
WITHIN, ALIKE, PIECE = 4, 4, 2
"""The powers of the shares: of the train text, of the smaller one, of the text itself."""
DUPLICATE = 0.7
"""Share of both texts from which a held-out text is the data's own duplicate, and left out of the threshold."""
PLANTS = 40
Run = tuple[str, ...]


def runs_of(text: str) -> set[Run]:
    """All pairs of words in a text, next to each other or with one between; the text itself where it is shorter."""
    words = words_of(text)
    near: set[Run] = set(pairwise(words)) or {tuple(words)}
    return near | {(first, "", third) for first, third in zip(words, words[2:], strict=False)}


@dataclass(frozen=True)
class TextSpace:
    """The runs of the train texts: which texts hold each, what each weighs, and what each text weighs, (n,)."""

    holders: dict[Run, np.ndarray]
    weights: dict[Run, float]
    totals: np.ndarray

    @classmethod
    def of(cls, texts: list[str]) -> TextSpace:
        """The space of train texts."""
        runs, holders = [runs_of(text) for text in texts], defaultdict(list)
        for number, own in enumerate(runs):
            for run in own:
                holders[run].append(number)
        weights = {run: max(0.0, float(np.log(COMMON / len(numbers)))) for run, numbers in holders.items()}
        totals = np.array([sum(weights[run] for run in sorted(own)) for own in runs])
        return cls({run: np.array(numbers) for run, numbers in holders.items()}, weights, totals)

    def closest(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Of each text its highest scores against a train text, (n, 3), and whether it duplicates one, (n,)."""
        found = [self.closest_of(runs_of(text)) for text in texts]
        scores = np.array([scores for scores, _ in found], dtype=float).reshape(-1, 3)
        return scores, np.array([same for _, same in found], dtype=bool)

    def closest_of(self, runs: set[Run]) -> tuple[list[float], bool]:
        """As `closest`, of the runs of one text."""
        shared = np.zeros(len(self.totals))
        own = len(runs - self.weights.keys()) * float(np.log(COMMON))
        for run in sorted(runs & self.weights.keys()):
            own += self.weights[run]
            shared[self.holders[run]] += self.weights[run]
        whole, part = (np.minimum(shared / np.maximum(of, 1e-9), 1) for of in (self.totals, own))
        alike = np.minimum(whole, part)
        scores = [
            float((shared * share**power).max()) for share, power in ((whole, WITHIN), (alike, ALIKE), (part, PIECE))
        ]
        return scores, bool((alike >= DUPLICATE).any())


def text_thresholds(scores: np.ndarray) -> np.ndarray | None:
    """Above which a third of a new real text in 10,000 comes, (3,); None below ten scores (n, 3)."""
    reached = [tail_threshold(own, RATE / 3) for own in scores.T]
    if None in reached:
        return None
    return np.maximum(np.maximum(np.array(reached, dtype=float), scores.max(0)), np.log(COMMON))


def measure_single_copies(
    synthetic: list[str], train: list[str], held_out: list[str], common: frozenset[str], seed: int
) -> dict[str, Any]:
    """What a set's single copies are, and the power of the check: "copies" and "power".

    Returns:
        "copies": the `CopyRecord` of single copies, none where there are fewer than ten held-out texts; "power": a
        record of `describe_power` for each kind of altered copy, and of altered name, date and number.
    """
    space = TextSpace.of(train)
    scores, (unseen, same) = space.closest(synthetic)[0], space.closest(held_out)
    thresholds = text_thresholds(unseen[~same])
    if thresholds is None:
        return {"copies": [], "power": []}
    sizes = len(train), int(same.sum())
    record = count_certain(beyond(scores, thresholds), beyond(unseen, thresholds), 1.0, sizes, detector="shared words")
    return {
        "copies": [record.to_dict()],
        "power": [
            describe_power(kind, *counts, len(synthetic))
            for kind, counts in (
                *altered_copies(space, thresholds, train, held_out, seed),
                *altered_entities(held_out, common, seed),
            )
        ],
    }


def altered_copies(
    space: TextSpace, thresholds: np.ndarray, train: list[str], held_out: list[str], seed: int
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Kind, and how many copies were planted and found; a copy word for word is found by its digest."""
    generator = np.random.default_rng([seed, 13])
    exact = {tuple(words_of(text)) for text in train}
    for kind, alter in KINDS.items():
        rows = generator.permutation(len(train))[:PLANTS]
        others = generator.integers(len(held_out), size=len(rows))
        made = [alter(train[row], held_out[other]) for row, other in zip(rows, others, strict=True)]
        same = np.array([tuple(words_of(text)) in exact for text in made])
        yield kind, (len(rows), int((same | (beyond(space.closest(made)[0], thresholds) > 1)).sum()))


def altered_entities(held_out: list[str], common: frozenset[str], seed: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """Kind, and how many made-up names, dates and numbers were planted, and found in another form.

    Each stands in one form in a text that is trained on, and in another in a held-out text.
    """
    generator = np.random.default_rng([seed, 14])
    for kind, (of, trained, made) in ENTITY_KINDS.items():
        found = 0
        for _ in range(PLANTS):
            values = draw_values(generator)
            text = held_out[int(generator.integers(len(held_out)))]
            known = all_entities([f"{text} {trained.format(**values)}"], common)
            already = leaks([text], known, common)[of][0]
            found += bool(leaks([f"{text} {made.format(**values)}"], known, common)[of][0]) and not already
        yield kind, (PLANTS, found)


FIRST, LAST = "Mira Imre Odile Tomas Anneke Ruben".split(), "Kovacsek Falkner Brandtova Osterhout Lindqvist".split()
MONTHS = "January February March April May June July August September October November December".split()


def draw_values(generator: np.random.Generator) -> dict[str, Any]:
    """A made-up name, date and numbers, by the names that `ENTITY_KINDS` uses."""
    first, last = generator.choice(FIRST), generator.choice(LAST)
    year, month, day = (int(generator.integers(*ends)) for ends in ((1930, 2025), (1, 13), (1, 29)))
    digits = "".join(map(str, generator.integers(1, 10, 10)))
    return {
        "first": first, "last": last, "lower": f"{first} {last}".lower(), "year": year, "month": month, "day": day,
        "named": MONTHS[month - 1], "area": digits[:3], "middle": digits[3:6], "end": digits[6:],
        "user": f"{first}.{last}{digits[:2]}".lower(), "record": digits[:8],
    }  # fmt: skip


ENTITY_KINDS = {
    "a name alone": ("names", "Seen by Dr. {first} {last} today.", "{last}"),
    "a name in lower case": ("names", "Seen by Dr. {first} {last} today.", "it was {lower} who came"),
    "a telephone number": ("phones", "Call ({area}) {middle}-{end}.", "ring +1 {area} {middle} {end} at night"),
    "an address with [at]": (
        "emails",
        "Write to {user}@mail.example.org.",
        "{user} [at] mail [dot] example.org",
    ),
    "a date in another form": ("dates", "Seen on {year}-{month:02d}-{day:02d}.", "it was {named} {day}, {year}"),
    "a record number": ("ids", "MRN: {record}.", "the record no. {record} of this stay"),
}
"""Kind: what it is an entity of, the sentence that is trained on, and the words that give it away."""

SENTENCE = re.compile(r"(?<=[.!?])\s+")
LOOK_ALIKE = str.maketrans("aeopcxi", "аеорсхі")


def one_word_changed(text: str, _: str) -> str:
    words = text.split()
    return " ".join([*words[: len(words) // 2], "otherwise", *words[len(words) // 2 + 1 :]])


def reordered(text: str, _: str) -> str:
    """The sentences the other way round; the halves of a single sentence."""
    parts = SENTENCE.split(text.strip())
    if len(parts) == 1:
        words = text.split()
        parts = [" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])]
    return " ".join(reversed(parts))


KINDS: dict[str, Callable[[str, str], str]] = {
    "in capitals": lambda text, _: text.upper(),
    "in look-alike letters": lambda text, _: text.translate(LOOK_ALIKE),
    "with one word changed": one_word_changed,
    "within a longer text": lambda text, other: f"{other} {text} {other}",
    "in another order": reordered,
    "a half of it": lambda text, _: " ".join(text.split()[: len(text.split()) // 2]),
}
"""How copies are altered: of a train text, and of a held-out one that it may stand in."""
