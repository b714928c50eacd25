"""What texts share word for word: Self-BLEU, and the longest run of words that a text shares with others.

Both take texts as arrays of word numbers (`number_words`) and grow with the number of words, not with the
number of pairs of texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import yaml

ORDERS = 4


def self_bleu(texts: Sequence[np.ndarray]) -> np.ndarray:
    """BLEU-4 in [0, 1] of each text with all others as its references (n,); the mean is Self-BLEU.

    Zhu et al. 2018 (arXiv 1802.01886, section 3.2), with the sentence BLEU of sacrebleu: exponential smoothing,
    effective order, closest reference length. For each n-gram the two largest counts in a text are kept, which is all
    that the other texts' largest count needs.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"Self-BLEU needs two texts or more, got {len(texts)}")
    matches = np.zeros((len(texts), ORDERS))
    for order in range(1, ORDERS + 1):
        counts = [Counter(zip(*(text[start:].tolist() for start in range(order)), strict=False)) for text in texts]
        matches[:, order - 1] = clipped_matches(counts)
    lengths = np.array([len(text) for text in texts])
    closest = closest_lengths(lengths)
    return np.array([bleu(*values) for values in zip(matches, lengths, closest, strict=True)])


def clipped_matches(counts: list[Counter[tuple[int, ...]]]) -> list[int]:
    """For each text the sum over its n-grams of the smaller of its own count and the largest in another text."""
    best: dict[tuple[int, ...], tuple[int, int, int]] = {}  # n-gram: largest count, its text, largest in other texts
    for number, own in enumerate(counts):
        for ngram, count in own.items():
            first, owner, second = best.get(ngram, (0, -1, 0))
            best[ngram] = (count, number, first) if count > first else (first, owner, max(second, count))
    return [
        sum(min(count, best[ngram][2] if best[ngram][1] == number else best[ngram][0]) for ngram, count in own.items())
        for number, own in enumerate(counts)
    ]


def closest_lengths(lengths: np.ndarray) -> np.ndarray:
    """For each text the length of the other text that is closest to its own, the shorter of two equally close."""
    order = np.argsort(lengths, kind="stable")
    ranked = lengths[order]
    before, after = np.roll(ranked, 1), np.roll(ranked, -1)
    before[0], after[-1] = after[0], before[-1]
    closest = np.empty_like(lengths)
    closest[order] = np.where(ranked - before <= np.abs(after - ranked), before, after)
    return closest


def bleu(matches: np.ndarray, length: int, reference_length: int) -> float:
    """BLEU of one text from its clipped matches of each order."""
    totals = np.maximum(length - np.arange(ORDERS), 0)
    used = int((totals > 0).sum())
    if not matches.any():
        return 0.0
    zeros = np.cumsum(matches[:used] == 0)
    values = np.where(matches[:used] > 0, matches[:used], 0.5**zeros) / totals[:used]
    brevity = min(0.0, 1 - reference_length / length)
    return float(np.exp(brevity + np.log(values).mean()))


def shared_words(
    texts: Sequence[np.ndarray], others: Sequence[np.ndarray], length: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """What each of `texts` has word for word from any of `others`.

    Returns:
        longest: words of the longest run that also stands in one of `others`, int64 (n,).
        copied: share of the text's words that lie in such runs of `length` words or more, float64 (n,).
    """
    longest, copied = np.zeros(len(texts), dtype=np.int64), np.zeros(len(texts))
    starts = lay_out(texts)[1]
    for current, places, owners in shared_runs(texts, others):
        longest[owners] = current
        if current == length:
            for owner in np.unique(owners):
                own = places[owners == owner] - starts[owner]
                covered = np.zeros(len(texts[owner]), dtype=bool)
                covered[own[:, None] + np.arange(length)] = True
                copied[owner] = covered.mean()
    return longest, copied


def shared_runs(
    texts: Sequence[np.ndarray], others: Sequence[np.ndarray]
) -> Iterable[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (length, places, numbers of the texts) of the runs of 1, 2, 3, … words of `texts` that `others` hold.

    A place is the run's start in the texts laid end to end. A run of n + 1 words begins with a shared run of n words:
    only these are followed, on both sides, so that few are left beyond phrases that everybody uses.
    """
    sides = [lay_out(texts)[0], lay_out(others)[0]]
    owners = np.repeat(np.arange(len(texts)), [len(text) + 1 for text in texts])
    base = max([2, *(int(side.max()) + 2 for side in sides if len(side))])
    places = [np.flatnonzero(side >= 0) for side in sides]
    labels = [side[place] for side, place in zip(sides, places, strict=True)]
    length = 1
    while True:
        kept = [np.isin(labels[0], labels[1]), np.isin(labels[1], labels[0])]
        places = [place[keep] for place, keep in zip(places, kept, strict=True)]
        if len(places[0]) == 0:
            return
        yield length, places[0], owners[places[0]]
        runs = [label[keep] for label, keep in zip(labels, kept, strict=True)]
        _, numbers = np.unique(np.concatenate(runs), return_inverse=True)  # small again, so that the product fits
        runs = [numbers[: len(runs[0])], numbers[len(runs[0]) :]]
        following = [side[place + length] for side, place in zip(sides, places, strict=True)]
        inside = [word >= 0 for word in following]
        labels = [run[i] * base + word[i] for run, word, i in zip(runs, following, inside, strict=True)]
        places = [place[i] for place, i in zip(places, inside, strict=True)]
        length += 1


def lay_out(texts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The texts end to end with -1 after each, and where each starts."""
    end = np.array([-1])
    parts = [part for text in texts for part in (text, end)]
    starts = np.cumsum([0, *(len(text) + 1 for text in texts)])[:-1]
    return (np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)), starts


WORD = re.compile(r"\w+(?:['’-]\w+)*")


CYRILLIC = dict(zip("аеорсухіјѕԁһԛԝвкмнтӏ", "aeopcyxijsdhqwbkmhtl", strict=True))
GREEK = dict(zip("αεορνικτυχγ", "aeopviktuxy", strict=True))
LOOK_ALIKE = str.maketrans(CYRILLIC | GREEK | dict.fromkeys("’‘ʼ", "'") | dict.fromkeys("‐‑", "-") | {"ı": "i"})
"""Letters that stand for Latin ones, and signs that stand for apostrophe and hyphen."""
BOTH_CASES = LOOK_ALIKE | {ord(chr(sign).upper()): twin.upper() for sign, twin in LOOK_ALIKE.items() if twin.isalpha()}
ACCENT = re.compile("[\u0300-\u036f]")


def normalised(text: str) -> str:
    """A text in lower case and compatible signs, without accents, invisible signs and look-alike letters."""
    if text.isascii():
        return text.casefold()
    apart = ACCENT.sub("", unicodedata.normalize("NFKD", text).casefold())
    return "".join(sign for sign in apart if unicodedata.category(sign) != "Cf").translate(LOOK_ALIKE)


BRACKETED = r"\s*[\[({{<]\s*{}\s*[\])}}>]\s*"
AT = re.compile(rf"{BRACKETED.format('(?:at|@)')}|(?<=\w) at (?=[\w-]+(?: ?\. ?| dot )\w)", re.IGNORECASE)
DOT = re.compile(rf"{BRACKETED.format('(?:dot|[.])')}|(?<=\w) dot (?=\w)", re.IGNORECASE)


def plain(text: str) -> str:
    """A text in compatible signs of the Latin alphabet and its own case, with @ and . where they are spelled out."""
    if not text.isascii():
        apart = ACCENT.sub("", unicodedata.normalize("NFKD", text)).translate(BOTH_CASES)
        text = "".join(latin_digit(sign) for sign in apart if unicodedata.category(sign) != "Cf")
    return DOT.sub(".", AT.sub("@", text))


def latin_digit(sign: str) -> str:
    return str(unicodedata.decimal(sign)) if sign.isdecimal() else sign


def words_of(text: str) -> list[str]:
    """The words of a text in their order, as `normalised` spells them."""
    return WORD.findall(normalised(text))


def word_rows(texts: Iterable[str]) -> np.ndarray:
    """The words of each text: an array (n,) of lists."""
    from clinsynth.data.texts import as_objects  # a push reads findings, and starts in seconds

    return as_objects([words_of(text) for text in texts])


def number_words(*sides: Iterable[list[str]]) -> list[list[np.ndarray]]:
    """Each side's texts as int64 arrays of word numbers; equal words have one number on all sides."""
    numbers: dict[str, int] = {}
    return [
        [np.array([numbers.setdefault(word, len(numbers)) for word in words], dtype=np.int64) for words in side]
        for side in sides
    ]


REACH = 2
"""A word does not count where one of the two words before it takes it back: "denies suicidal ideation"."""


@dataclass(frozen=True)
class WordList:
    """A pattern that takes whole words of a list, and the words that take them back."""

    pattern: re.Pattern[str]
    negators: frozenset[str]

    @classmethod
    def of(cls, groups: Iterable[str], negators: frozenset[str]) -> WordList:
        """The list of words in `groups`, parted by blanks; "*" is any ending."""
        parts = sorted({part for group in groups for part in group.split()})
        return cls(re.compile("|".join(re.escape(part).replace(r"\*", r"[\w'-]*") for part in parts)), negators)

    def count(self, words: Sequence[str]) -> int:
        """How many of a text's words are on the list and not taken back."""
        return sum(
            1
            for place, word in enumerate(words)
            if self.pattern.fullmatch(word) and self.negators.isdisjoint(words[max(0, place - REACH) : place])
        )

    def rates(self, rows: Iterable[Sequence[str]]) -> np.ndarray:
        """Words of the list in a hundred, a text: float64 (n,); 0 for a text without words."""
        return np.array([100 * self.count(words) / max(1, len(words)) for words in rows], dtype=np.float64)


def read_word_lists() -> dict[str, WordList]:
    """The lists of words.yaml by the names of their metrics."""
    lists = yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))
    negative, negators = lists["negative"], frozenset(lists["negators"].split())
    return {
        NEGATIVE_AFFECT: WordList.of(negative.values(), negators),
        HARSH_AFFECT: WordList.of((negative[kind] for kind in lists["harsh"]), negators),
        HOPEFUL_AFFECT: WordList.of([lists["hopeful"]], negators | set(lists["unable"].split())),
    }


NEGATIVE_AFFECT, HARSH_AFFECT, HOPEFUL_AFFECT = "negative_affect", "harsh_affect", "hopeful_affect"
NEGATIVE_SHARE, TONE_DISTANCE = "negative_share", "tone_distance"
WORD_LISTS = read_word_lists()
