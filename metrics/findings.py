"""What the numbers on a synthetic set say in words: has the generator collapsed? Does it copy, is its tone softened?

Each reading is placed on the way from its real-vs-real floor (0) to total failure (1), so that no class is blamed for
being as uniform, or as mild, as its real samples are.

The sign of a collapsed generator of images is few of them drawn again and again: near-duplicates among the outputs, in
the whole set, in a class, or in a part of either. Nothing else is a sign: recall and coverage fall for noise and blur
too, and MS-SSIM of different images rises with blur, while ten images drawn by turns barely raise it. Recall and
coverage tell what is missing besides.

A reading of texts is a sign where it is far enough on its way and lies beyond the most lenient floor, that of any of
the halves or of the held-out texts, by three standard errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from clinsynth.metrics.privacy.closest_records import DCR_SHARE, MemorisationRecord
from clinsynth.metrics.records import OVERALL
from clinsynth.metrics.texts.privacy import EXPOSURE, PROMPT
from clinsynth.metrics.texts.words import HARSH_AFFECT, NEGATIVE_AFFECT, NEGATIVE_SHARE, TONE_DISTANCE

Record = dict[str, Any]
"""As `Measurement.to_dict` gives it."""


@dataclass(frozen=True)
class Sign:
    """How one metric is read.

    Attributes:
        finding: what it is a sign of.
        end: its value at total failure.
        least: severity from which it is a sign.
        words: what follows, or is followed by, the number in a sentence.
        certain: one case is proof enough where real samples have none.
    """

    finding: str
    end: float
    least: float
    words: str
    certain: bool = False


def beside_floor(record: Record, sign: Sign, floors: list[float], kept: str) -> Record | None:
    """The values of `kept` of a record, its most lenient floor, and its severity: 0 at the floor, 1 at total failure.

    None where the record has no value or no floor, or the floor is total failure itself.
    """
    if record["value"] is None or not floors:
        return None
    floor = max(floors) if sign.end else min(floors)
    if floor == sign.end:
        return None
    severity = (record["value"] - floor) / (sign.end - floor)
    return {**{name: record[name] for name in kept.split()}, "floor": floor, "severity": severity}


def ends(record: Record) -> tuple[float, float]:
    """The ends of the interval; the value itself where there is none."""
    low, high = record["interval"] or (record["value"], record["value"])
    return low, high


def places(labels: Iterable[str]) -> str:
    """Classes, or all of them, in a sentence."""
    return ", ".join("the set as a whole" if label == OVERALL else f"class {label}" for label in labels)


MISSING, REPEATED = "real variety is missing", "the generator repeats itself"
COLLAPSE = {
    "recall": Sign(MISSING, 0, 0.5, "recall"),
    "coverage": Sign(MISSING, 0, 0.5, "coverage"),
    "near_duplicates": Sign(REPEATED, 1, 0.1, "near-duplicates among the outputs"),
}


def read_collapse(records: Iterable[Record], reference: str = "train") -> dict[str, Any]:
    """Read mode collapse from records as `Measurement.to_dict` gives them; others than the three readings are skipped.

    Args:
        records: of any metrics, labels and references.
        reference: the real split whose records are read.

    Returns:
        flag: whether the set as a whole or a class of it is collapsed.
        labels: the classes (or "overall") that are.
        sentence: the finding in plain words, with the numbers it rests on.
        readings: label, metric, value, interval, floor (the more lenient of the two floors), severity (0 as the real
            data, 1 total collapse), and sign (severity large enough, and the interval wholly beyond the floor).
    """
    readings = [
        reading
        for record in records
        if record["reference"] == reference and record["metric"] in COLLAPSE
        if (reading := read_variety(record)) is not None
    ]
    signs: dict[str, set[str]] = {reading["label"]: set() for reading in readings}
    for reading in readings:
        signs[reading["label"]] |= {reading["metric"]} if reading["sign"] else set()
    collapsed = [label for label in signs if finds(REPEATED, signs[label])]
    return {
        "flag": bool(collapsed),
        "labels": collapsed,
        "sentence": collapse_sentence(readings, signs, collapsed),
        "reference": reference,
        "readings": readings,
    }


def read_variety(record: Record) -> Record | None:
    """One reading of images, a sign where the interval lies wholly beyond the floor."""
    sign = COLLAPSE[record["metric"]]
    floors = [record[name] for name in ("floor", "floor_held_out") if record[name] is not None]
    reading = beside_floor(record, sign, floors, "label metric value interval")
    if reading is None:
        return None
    low, high = ends(record)
    beyond = low > reading["floor"] if sign.end else high < reading["floor"]
    return {**reading, "sign": beyond and reading["severity"] >= sign.least}


def finds(finding: str, metrics: set[str]) -> set[str]:
    """Those of the metrics that are signs of a finding."""
    return {metric for metric in metrics if COLLAPSE[metric].finding == finding}


def collapse_sentence(readings: list[Record], signs: dict[str, set[str]], collapsed: list[str]) -> str:
    """The finding in one or two sentences."""
    if not readings:
        return "Mode collapse was not judged: too few real or synthetic images for a real-vs-real floor."
    if collapsed:
        shown = OVERALL if OVERALL in collapsed else collapsed[0]
        missing = " and leaves out much of the real variety" if finds(MISSING, signs[shown]) else ""
        found = variety_in_words(readings, shown, signs[shown])
        return f"Mode collapse in {places(collapsed)}: the generator repeats itself{missing}. {found}"
    labels = [label for label, found in signs.items() if finds(MISSING, found)]
    none = [r["label"] for r in readings if finds(MISSING, {r["metric"]}) and r["value"] == 0 and r["sign"]]
    if none:
        found = variety_in_words(readings, none[0], signs[none[0]])
        return f"Covers none of the real variety ({', '.join(dict.fromkeys(none))}). {found}"
    if labels:
        return (
            "No mode collapse, but part of the real variety is missing, or drawn unlike it "
            f"({', '.join(labels)}). {variety_in_words(readings, labels[0], signs[labels[0]])}"
        )
    shown = OVERALL if OVERALL in signs else next(iter(signs))
    return f"No sign of mode collapse. {variety_in_words(readings, shown, set(COLLAPSE))}"


def variety_in_words(readings: list[Record], label: str, metrics: set[str]) -> str:
    """The readings of one label as text: "Recall 0.08 (real images 0.71), …, in class x." """
    shown = {reading["metric"]: reading for reading in readings if reading["label"] == label}
    parts = [
        f"{sign.words} {shown[metric]['value']:.2f} (real images {shown[metric]['floor']:.2f})"
        for metric, sign in COLLAPSE.items()
        if metric in metrics and metric in shown
    ]
    text = ", ".join(parts)
    return f"{text[:1].upper()}{text[1:]}, {'overall' if label == OVERALL else f'in class {label}'}."


COPIES, LEAKS, REPEATS, SOFTENED = "copies", "leaks", "repeats itself", "softened tone"
NO_SIGN = {
    COPIES: "No sign of copying.",
    LEAKS: "No names, dates or numbers of train texts beyond what held-out texts hold.",
    REPEATS: "No sign that the generator repeats itself.",
    SOFTENED: "No sign of a softened tone.",
}
SIGNS = {
    "exact_copies": Sign(COPIES, 1, 0.01, "of the texts are {source}, word for word", certain=True),
    "ngram8_share": Sign(COPIES, 1, 0.05, "of the texts share eight words in a row with {source}"),
    "copied_words": Sign(COPIES, 1, 0.05, "of the words stand in such runs from {source}"),
    "plagiarism_share": Sign(COPIES, 1, 0.02, "of the texts lie within cosine distance 0.05 of {source}"),
    "leaked_names": Sign(LEAKS, 1, 0.01, "of the texts hold a name from {source}"),
    "leaked_dates": Sign(LEAKS, 1, 0.01, "of the texts hold a date from {source}"),
    "leaked_phones": Sign(LEAKS, 1, 0.01, "of the texts hold a telephone number from {source}", certain=True),
    "leaked_emails": Sign(LEAKS, 1, 0.01, "of the texts hold an e-mail address from {source}", certain=True),
    "leaked_ids": Sign(LEAKS, 1, 0.01, "of the texts hold a record number from {source}", certain=True),
    "near_duplicates": Sign(REPEATS, 1, 0.1, "of the texts have a near-duplicate among the others"),
    "exact_duplicates": Sign(REPEATS, 1, 0.05, "of the texts stand there twice"),
    "self_bleu": Sign(REPEATS, 1, 0.25, "is the Self-BLEU"),
    "distinct_3": Sign(REPEATS, 0, 0.25, "of the three-word runs are different"),
    NEGATIVE_AFFECT: Sign(SOFTENED, 0, 0.25, "of the words are of negative affect"),
    NEGATIVE_SHARE: Sign(SOFTENED, 0, 0.2, "of the words of either affect are negative"),
    HARSH_AFFECT: Sign(SOFTENED, 0, 0.4, "of the words are of anger, hopelessness or harm"),
}
DECIDING = {REPEATS: {"near_duplicates", "exact_duplicates", "self_bleu"}}
"""Where only some metrics decide: a small vocabulary alone is no repetition."""
SOURCES = {PROMPT: "an example of its own prompt"}
PER_CENT = 0.01  # the tone is counted in words of a hundred
OTHER = {"train": "test", "test": "train", PROMPT: "test"}
"""The split whose rows make the held-out floor, by reference."""
STANDARD_ERRORS = 3  # some 50 readings a set: about one false alarm in 15 sets if they were independent
INTERVAL = 2 * 1.96  # standard errors from end to end of a 95 % interval


def read_texts(
    records: Iterable[Record], memorisation: Iterable[Record], counts: dict[str, dict[str, int]]
) -> dict[str, dict[str, Any]]:
    """The findings by name, from records as `Measurement.to_dict` and `MemorisationRecord.to_dict` give them.

    Args:
        records, memorisation: of any metrics; those that are not read are passed over.
        counts: texts a class of the splits "train" and "test".

    Returns:
        for each finding "flag", "labels" (the classes, or "overall", that show it), "sentence" (with the numbers it
        rests on) and "readings" (metric, label, reference, value, interval, floor, severity, sign).
    """
    records = list(records)
    readings = [reading for record in records if (reading := read_text(record, counts)) is not None]
    found = {name: [reading for reading in readings if SIGNS[reading["metric"]].finding == name] for name in NO_SIGN}
    drifted = {
        (r["label"], r["reference"])
        for r in records
        if r["metric"] == TONE_DISTANCE and r["value"] is not None and (floors := all_floors(r))
        if ends(r)[0] > max(floors)
    }
    for reading in found[SOFTENED]:  # fewer words of suffering are a sign only where the whole tone has moved
        reading["sign"] = reading["sign"] and (reading["label"], reading["reference"]) in drifted
    findings = {name: describe_finding(name, own) for name, own in found.items()}
    add_finding(findings[COPIES], map(read_share, memorisation))
    add_finding(findings[LEAKS], (read_exposure(record) for record in records if record["metric"] == EXPOSURE))
    return findings


def read_text(record: Record, counts: dict[str, dict[str, int]]) -> Record | None:
    """One reading of texts; None where the metric is not read, was not measured, or has no floor that leaves room."""
    sign = SIGNS.get(record["metric"])
    if sign is None:
        return None
    reading = beside_floor(record, sign, all_floors(record), "metric label reference value interval")
    if reading is None:
        return None
    proof = sign.certain and reading["floor"] == 0 and record["value"] > 0
    found = proof or (reading["severity"] >= sign.least and beyond(record, reading["floor"], counts))
    return {**reading, "sign": found}


def beyond(record: Record, floor: float, counts: dict[str, dict[str, int]]) -> bool:
    """Whether value and floor differ by more than three standard errors.

    That of the floor is taken to be that of the value, for the number of texts it comes from. Without an interval any
    difference counts.
    """
    low, high = ends(record)
    other = counts[OTHER[record["reference"]]]
    n_floor = sum(other.values()) if record["label"] == OVERALL else other[record["label"]]
    error = (high - low) / INTERVAL * (1 + record["n_synthetic"] / max(1, n_floor)) ** 0.5
    return bool(abs(record["value"] - floor) > STANDARD_ERRORS * error)


def all_floors(record: Record) -> list[float]:
    """What real texts read between them: the held-out floor and the ends of the halves' range."""
    return [value for value in (record["floor_held_out"], *(record["floor_range"] or ())) if value is not None]


def read_share(record: Record) -> str | None:
    """A sentence where texts lie closer to train than to held-out texts, beyond chance."""
    if (record["metric"], record["label"]) != (DCR_SHARE, OVERALL) or record["value"] is None:
        return None
    share = MemorisationRecord(**record)
    if not share.exceeds_chance or share.is_shifted:
        return None
    return f"{record['value']:.1%} lie closer to train than to held-out texts by {record['extractor']}; 50 % is ideal."


def read_exposure(record: Record) -> str | None:
    """A sentence where planted canaries rank above those that were not planted."""
    if record["interval"] is None or record["interval"][0] <= record["floor"]:
        return None
    return (
        f"Planted canaries have an exposure of {record['value']:.1f} bits, those not planted {record['floor']:.1f} "
        f"({record['note']})."
    )


def add_finding(finding: dict[str, Any], sentences: Iterable[str | None]) -> None:
    """Raise the flag by sentences about the whole set."""
    for sentence in sentences:
        if sentence is not None:
            finding["sentence"] = f"{finding['sentence']} {sentence}" if finding["flag"] else sentence
            finding["flag"] = True
            finding["labels"] = list(dict.fromkeys([OVERALL, *finding["labels"]]))


def describe_finding(name: str, readings: list[Record]) -> dict[str, Any]:
    """One finding from its readings."""
    deciding = DECIDING.get(name)
    signs = [reading for reading in readings if reading["sign"]]
    labels = {reading["label"]: None for reading in signs if deciding is None or reading["metric"] in deciding}
    shown = [reading for reading in signs if reading["label"] == next(iter(labels), None)]
    sentence = NO_SIGN[name] if readings else f"Not judged ({name}): nothing could be measured beside a floor."
    doubts = [reading for reading in readings if in_doubt(reading)] if name in (COPIES, LEAKS) else []
    if not labels and doubts:
        worst = max(doubts, key=lambda reading: reading["severity"])
        sentence = f"{NO_SIGN[name]} But look: {in_words(worst)}; with more real texts this may become one."
    if labels:
        shown = list({(reading["metric"], source(reading)): reading for reading in reversed(shown)}.values())[::-1]
        sentence = f"{name.capitalize()} in {places(labels)}: {'; '.join(map(in_words, shown))}."
    return {"flag": bool(labels), "labels": list(labels), "sentence": sentence, "readings": readings}


def in_doubt(reading: Record) -> bool:
    """Whether a reading is as severe as a sign and its interval lies above its floor, without being a sign."""
    severe = reading["severity"] >= SIGNS[reading["metric"]].least
    return bool(severe and not reading["sign"] and reading["interval"] and reading["interval"][0] > reading["floor"])


def in_words(reading: Record) -> str:
    sign = SIGNS[reading["metric"]]
    scale = PER_CENT if reading["metric"] in (NEGATIVE_AFFECT, HARSH_AFFECT) else 1
    words = sign.words.format(source=source(reading))
    return f"{reading['value'] * scale:.1%} {words} (real texts {reading['floor'] * scale:.1%})"


def source(reading: Record) -> str:
    return SOURCES.get(reading["reference"], "a train text")
