"""What in a text may point to a person: names, dates, telephone numbers, e-mail addresses, record numbers; by rules.

The rules read English and know what stands in a fixed form or behind a fixed word ("Dr.", "my name is"). They find
fewer names than a trained tagger would, and need no model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
DATE = re.compile(
    rf"\b(?:\d{{4}}-\d{{1,2}}-\d{{1,2}}|\d{{1,2}}[/.]\d{{1,2}}[/.]\d{{2,4}}|\d{{1,2}}-\d{{1,2}}-\d{{4}}"
    rf"|{DAY}(?: of)? {MONTH}(?:,? \d{{4}})?|{MONTH} {DAY}(?:,? \d{{4}})?)(?!\w)",
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
KINDS = ("names", "dates", "phones", "emails", "ids")
LOWER_WORD = re.compile(r"\b[a-z][\w'’-]*")


def entities(text: str, common: frozenset[str] = frozenset()) -> dict[str, set[str]]:
    """The entities of a text by kind, in one spelling: lower case, numbers without what parts their digits.

    Args:
        text: any.
        common: words in lower case; a name all of whose words are among them is none ("Bipolar Disorder").

    What is read as one kind is not read again as another: e-mail, date, record number, telephone, in this order.
    """
    found: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for match in NAME.finditer(text):
        name = match.group(1).casefold().replace("’s", "").replace("'s", "")
        if not common.issuperset(name.split()):
            found["names"].add(name)
    for kind, pattern in (("emails", EMAIL), ("dates", DATE), ("ids", ID), ("phones", PHONE)):
        rest, end = [], 0
        for match in pattern.finditer(text):
            value = spelled(kind, next(group for group in (*match.groups(), match.group()) if group))
            short = kind == "phones" and len(value) < FEWEST_PHONE_DIGITS
            if not short and not (kind == "ids" and YEAR.fullmatch(value)):
                found[kind].add(value)
                rest.append(text[end : match.start()])
                end = match.end()
        text = " | ".join([*rest, text[end:]])
    return found


def spelled(kind: str, value: str) -> str:
    if kind == "phones":
        return re.sub(r"\D", "", value)
    if kind == "ids":
        return re.sub(r"\W", "", value).casefold()
    return " ".join(value.casefold().replace(",", " ").split())


def common_words(texts: Iterable[str]) -> frozenset[str]:
    """All words that stand in lower case somewhere in the texts."""
    return frozenset(word for text in texts for word in LOWER_WORD.findall(text))
