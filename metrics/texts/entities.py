"""Names, dates, telephone numbers, e-mail addresses and record numbers in texts, by rules, each in one spelling.

No recogniser that learned names comes with clinsynth: what no rule describes is not found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from clinsynth.metrics.comparisons import Sides, Values, measure_values
from clinsynth.metrics.records import Features, Measurement, MeasurementSettings
from clinsynth.metrics.texts.words import plain, words_of

RULES, TRAIN = "rules", "train"


def measure_entities(sides: Sides, settings: MeasurementSettings) -> list[Measurement]:
    """Records "leaked_names", "leaked_dates", "leaked_phones", "leaked_emails" and "leaked_ids"; `rows` are texts.

    Each is the share of texts that hold an entity of a train text, by the rules of `entities`. Compare with the
    held-out floor: dates and common names coincide.
    """
    common = common_words([*sides.real.rows, *([] if sides.held_out is None else sides.held_out.rows)])
    leaked = partial(leaked_entities, common=common)
    return measure_values(leaked, sides, TRAIN, replace(settings, extractor=RULES))


def leaked_entities(queries: Features, train: Features, common: frozenset[str]) -> Values:
    """Whether each query holds an entity of a train text, by kind: 0 or 1, (n,)."""
    found = leaks(list(queries.rows), all_entities(train.rows, common), common)
    return {f"leaked_{kind}": values.astype(float) for kind, values in found.items()}


def leaks(texts: list[str], known: dict[str, set[str]], common: frozenset[str]) -> dict[str, np.ndarray]:
    """Which of the texts hold an entity that is known, by kind: masks (n,).

    A known name is found in whatever case and place, and by its last word where no real text uses that as a word.
    """
    last = {name.split()[-1] for name in known["names"] if " " in name} - common
    names = known["names"] | {name for name in last if len(name) >= SHORTEST_NAME}
    held = []
    for text in texts:
        words, own = words_of(text), entities(text, common)
        runs = {" ".join(words[at : at + size]) for size in (1, 2) for at in range(len(words))}
        held.append({kind: not known[kind].isdisjoint(values) for kind, values in own.items()})
        held[-1]["names"] |= not names.isdisjoint(runs)
    return {kind: np.array([one[kind] for one in held], dtype=bool) for kind in KINDS}


MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
DATE = re.compile(
    rf"\b(?:\d{{4}}([-/.])\d{{1,2}}\1\d{{1,2}}|\d{{1,2}}[/.]\d{{1,2}}[/.]\d{{2,4}}|\d{{1,2}}-\d{{1,2}}-\d{{4}}"
    rf"|{DAY}(?: of)?[ -]{MONTH}(?:,?[ -]\d{{2,4}})?|{MONTH} {DAY}(?:,? \d{{4}})?)(?!\w)",
    re.IGNORECASE,
)
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
PHONE = re.compile(r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?)?\d{2,5}(?:[ .-]\d{2,4}){1,4}(?![\w-])")
SOCIAL = r"\d{3}-\d{2}-\d{4}"
NUMBERED = (
    r"(?i:\b(?:mrn|nhs|ssn|id|case|record|chart|patient|insurance|policy|ref(?:erence)?)\b[ .:#]*"
    r"(?:no\b|number)?[ .:#]*)"
)
ID = re.compile(rf"\b({SOCIAL})\b|{NUMBERED}([A-Za-z]{{0,4}}-?\d[\w-]{{3,}})|\b([A-Za-z]{{1,4}}-?\d{{5,}}|\d{{6,}})\b")
CAPITAL = r"[A-Z][\w'’-]*[a-z]"
NAME = re.compile(
    rf"(?:\b(?:Dr|Mr|Mrs|Ms|Miss|Prof|Professor|Doctor|Nurse|Mister)\b\.?\s+"
    rf"|(?i:\bmy name is|\bname's|\bi am called|\bi'm called|\bcall me|\bnamed|\bpatient name:?)\s+"
    rf"|\b(?i:husband|wife|son|daughter|brother|sister|friend|boyfriend|girlfriend|partner|mother|father)\s+"
    rf"|(?<=[a-z,;] )(?={CAPITAL} {CAPITAL}))({CAPITAL}(?: {CAPITAL})?)"
)
FEWEST_PHONE_DIGITS = 7
YEAR = re.compile(r"(?:19|20)\d\d")
SHORTEST_NAME = 4
TOLD = 9
"""Last digits by which telephone numbers are compared: without the country, however it is written."""
KINDS = ("names", "dates", "phones", "emails", "ids")
LOWER_WORD = re.compile(r"\b[a-z][\w'’-]*")


def entities(text: str, common: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """The entities of a text by kind, in one spelling: lower case, numbers without what parts their digits, dates as
    05-03-21 (of 2005; each reading where day and month may be taken for one another) or -03-21.

    Args:
        text: any.
        common: words in lower case; a name all of whose words are among them is none ("Bipolar Disorder").

    What is read as one kind is not read again as another: e-mail, date, record number, telephone, in this order.
    """
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    text = plain(text)
    for match in NAME.finditer(text):
        name = match.group(1).casefold().replace("’s", "").replace("'s", "")
        if not common.issuperset(name.split()):
            found["names"].add(name)
    for kind, pattern in (("emails", EMAIL), ("dates", DATE), ("ids", ID), ("phones", PHONE)):
        rest, end = [], 0
        for match in pattern.finditer(text):
            groups = () if kind == "dates" else match.groups()
            value = spelled(kind, next(group for group in (*groups, match.group()) if group))
            short = kind == "phones" and len(value) < FEWEST_PHONE_DIGITS
            if not short and not (kind == "ids" and YEAR.fullmatch(value)):
                found[kind] |= readings_of(value) if kind == "dates" else {value}
                rest.append(text[end : match.start()])
                end = match.end()
        text = " | ".join([*rest, text[end:]])
    return found


def all_entities(texts: Iterable[str], common: frozenset[str]) -> dict[str, set[str]]:
    """Those of all texts, by kind."""
    found = [entities(text, common) for text in texts]
    return {kind: set().union(*(one[kind] for one in found)) for kind in KINDS}


def spelled(kind: str, value: str) -> str:
    if kind == "phones":
        return re.sub(r"\D", "", value)[-TOLD:]
    if kind == "ids":
        return re.sub(r"\W", "", value).casefold()
    return " ".join(value.casefold().replace(",", " ").split())


MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()


def readings_of(date: str) -> set[str]:
    """A date that `spelled` gave, as year (two digits, none where there is none), month and day, in each order."""
    numbers = re.findall(r"\d+", date)
    named = next((place for place, name in enumerate(MONTHS, 1) if name in date), None)
    if named is not None:
        day, *year = numbers
        return {f"{year[0][-2:] if year else ''}-{named:02d}-{int(day):02d}"}
    if len(numbers[0]) == 4:
        numbers = [*numbers[1:], numbers[0]]
        orders = [(numbers[0], numbers[1])]
    else:
        orders = [(numbers[0], numbers[1]), (numbers[1], numbers[0])]
    likely = [(int(month), int(day)) for month, day in orders if int(month) <= 12]
    return {f"{numbers[2][-2:]}-{month:02d}-{day:02d}" for month, day in likely} or {"-".join(numbers)}


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """All words that stand in lower case somewhere in the texts."""
    return frozenset(word for text in texts for word in LOWER_WORD.findall(text))
