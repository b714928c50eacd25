"""phantom-posts: posts of a grammar whose four severities differ by symptoms that can be counted.

No person stands behind them: a grammar writes each post from a scene and from symptoms of the nine areas that the
PHQ-9 questionnaire asks about, each with how often it comes. How often scores 1 to 3 as there, and the sum of a post
is its label, so that the answer is known. They are for trying things out without data; nobody writes like that.

| label         | sum of the scores |
|---------------|-------------------|
| non-depressed | 0 to 4            |
| mild          | 5 to 9            |
| moderate      | 10 to 14          |
| severe        | 15 to 21          |

Post i depends on the seed, its split, that split's size and i alone, and on the order of the tables here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value

from clinsynth.data.sources import parse_options, share_out

NAME = "phantom-posts"
LABELS = ["non-depressed", "mild", "moderate", "severe"]
SCORES = {"non-depressed": (0, 4), "mild": (5, 9), "moderate": (10, 14), "severe": (15, 21)}
SPLIT_COUNTS = {"train": (240, 100, 60, 40), "validation": (48, 20, 12, 8), "test": (96, 40, 24, 16)}


def build_splits(spec: str) -> dict[str, Dataset]:
    """Splits of `phantom-posts[?seed=…&train=…&validation=…&test=…]`: text and label.

    Raises:
        ValueError: an unknown option or a number out of range (seed from 0, at least 4 posts).
    """
    totals = {name: sum(counts) for name, counts in SPLIT_COUNTS.items()}
    lowest = {"seed": 0, **dict.fromkeys(SPLIT_COUNTS, len(LABELS))}
    options = parse_options(spec, NAME, {"seed": 0, **totals}, lowest)
    features = Features(text=Value("string"), label=ClassLabel(names=LABELS))
    return {
        split: Dataset.from_list(list(write_split(split, options[split], options["seed"])), features=features)
        for split in SPLIT_COUNTS
    }


def write_split(split: str, total: int, seed: int) -> Iterator[dict[str, Any]]:
    """The rows of a split, `total` posts with the labels as unequal as SPLIT_COUNTS has them."""
    number = list(SPLIT_COUNTS).index(split)
    labels = np.repeat(np.arange(len(LABELS)), share_out(total, SPLIT_COUNTS[split]))
    np.random.default_rng([seed, number]).shuffle(labels)
    for index, label in enumerate(labels.tolist()):
        generator = np.random.default_rng([seed, number, index])
        yield {"text": write_post(draw_scores(LABELS[label], generator), generator), "label": label}


def draw_scores(label: str, generator: np.random.Generator) -> dict[str, int]:
    """Area of symptoms to its score, 1 to 3; the sum lies in the label's range."""
    low, high = SCORES[label]
    scores: dict[str, int] = {}
    for _ in range(int(generator.integers(low, high, endpoint=True))):
        open_areas = [area for area in SYMPTOMS if scores.get(area, 0) < 3]
        raised = [area for area in open_areas if area in scores]
        pool = raised if raised and generator.random() < 0.5 else open_areas
        area = str(generator.choice(pool))
        scores[area] = scores.get(area, 0) + 1
    return scores


def write_post(scores: dict[str, int], generator: np.random.Generator) -> str:
    """An opening, sentences on a scene, on ordinary things and on each symptom in random order, and a closing."""

    def one(phrases: list[str]) -> str:
        return str(generator.choice(phrases))

    felt = [f"{one(FREQUENCIES[score])} {one(SYMPTOMS[area])}." for area, score in scores.items()]
    plain = [one(ORDINARY) for _ in range(max(1, 3 - len(felt)))]
    middle = [one(SCENES), *felt, *plain]
    order = generator.permutation(len(middle))
    sentences = [one(OPENINGS), *(middle[number] for number in order), one(CLOSINGS)]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


FREQUENCIES = {
    1: ["on some days", "now and then", "once or twice a week", "for a day or two at a time", "on a few evenings"],
    2: ["on most days", "more days than not", "the greater part of these two weeks", "more often than not"],
    3: ["nearly every day", "every single day", "day after day", "all the time, from morning to night"],
}
SYMPTOMS = {
    "interest": [
        "I start nothing, because nothing seems worth the start",
        "the guitar stays in its case and I do not miss it",
        "games that I used to love bore me after a minute",
        "I say no to everything that used to be fun",
    ],
    "mood": [
        "I am low without a reason that I could name",
        "there is a grey weight on whatever I look at",
        "I am close to tears over small things",
        "I see no way in which this gets better",
    ],
    "sleep": [
        "I lie awake until three",
        "I wake at four and that is that",
        "I sleep eleven hours and could sleep on",
        "the nights are broken into pieces",
    ],
    "energy": [
        "I am worn out before lunch",
        "the stairs feel like a mountain",
        "a shower takes all the strength I have",
        "my arms are heavy and I sit down again",
    ],
    "appetite": [
        "food tastes of paper and I leave it",
        "I forget to eat until it is dark",
        "I eat whole packets of biscuits without hunger",
        "the plate goes back as it came",
    ],
    "worth": [
        "I think that I let everybody down",
        "I go through old mistakes like a list",
        "I feel like a burden to those around me",
        "a voice in my head tells me that I am no good",
    ],
    "concentration": [
        "I read the same page five times",
        "I lose the thread in the middle of a sentence",
        "a film is too long for my head",
        "I put the keys in the fridge and the milk on the shelf",
    ],
    "movement": [
        "people ask me why I talk so slowly",
        "I pace up and down the hall and cannot sit",
        "my hands are never still",
        "I move as if through water",
    ],
    "hopelessness": [
        "I ask myself what any of this is for",
        "I would not mind if tomorrow did not come",
        "the future is a wall",
        "it would be easier not to be here, I think",
    ],
}
OPENINGS = [
    "So, an update from me.",
    "I have not written here for a while.",
    "Long day, short post.",
    "Does anybody else know this?",
    "My sister says that I should write things down.",
    "Somebody asked how the last two weeks were.",
    "It is late and I am still up.",
    "Greetings from the bus.",
    "I never know how to begin these.",
    "First post, be kind.",
]
SCENES = [
    "the office moved to another floor and my desk is by the window now.",
    "we had visitors from my partner's side over the weekend.",
    "the car is in the garage again, so I walk.",
    "exams are over and the flat is quiet.",
    "the night shifts go on until the end of the month.",
    "our dog had puppies and the kitchen is theirs.",
    "I planted tomatoes on the balcony.",
    "the neighbours drill from eight to five.",
    "my brother got married on Saturday.",
    "I changed shops and know nobody there yet.",
    "the rain has not stopped since Monday.",
    "there was a letter from the landlord.",
]
ORDINARY = [
    "dinner was pasta, as always.",
    "on Friday we watched the match and shouted a lot.",
    "I finished the book that everybody talks about, it was fine.",
    "the train was late, the coffee was good.",
    "I laughed at a video of a goat for far too long.",
    "my knee is better and I went for a run.",
    "work was busy and then it was not.",
    "I called an old friend and we talked for an hour.",
    "I fixed the tap myself and am rather proud of it.",
    "I was cross about a ticket, and then I forgot it.",
]
CLOSINGS = [
    "That is all.",
    "Thanks for reading.",
    "Back to it, then.",
    "Tell me how you are.",
    "I do not know why I write this.",
    "More next week, perhaps.",
    "Good night.",
    "Any advice is welcome.",
]
