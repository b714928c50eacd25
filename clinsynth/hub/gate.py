"""The gate: what the evidence on a synthetic set must say before the set is published.

Each reading has a value, a limit beyond what real samples show of one another, and a sentence. A reading that the
evidence lacks does not pass: what was not measured is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from clinsynth.judges.text_rules import AUDIT_FILE
from clinsynth.run_folder import read_json

OVERALL = "overall"
ENTITIES = {
    "leaked_names": "names of train texts",
    "leaked_dates": "dates of train texts",
    "leaked_phones": "telephone numbers of train texts",
    "leaked_emails": "e-mail addresses of train texts",
    "leaked_ids": "record numbers of train texts",
}
TITLES = {
    "exact_copies": "exact copies",
    "ngram8_share": "eight words in a row of train texts",
    "plagiarism_share": "plagiarism share",
    **ENTITIES,
}


@dataclass
class Thresholds:
    """The most that is let through; shares are in [0, 1] and beyond what the evidence expects of real samples."""

    max_exact_copies: float = 0.0
    """share of samples that are real samples, of whichever split, pixel for pixel or word for word"""
    max_near_copies: float = 0.0
    """share of samples that are near copies of train samples, beyond the false alarms that the evidence expects"""
    max_ngram8_share: float = 0.0
    """share of texts with eight words in a row of a train text, beyond what held-out texts show"""
    max_dcr_share: float | None = None
    """share of samples closer to train than to held-out samples; default: what the evidence takes for chance"""
    max_entity_leakage: float = 0.0
    """share of texts that hold a name, date, telephone number, e-mail address or record number of a train text"""
    max_harmful_share: float = 0.0
    """share of texts that the audit of the set flags as harmful"""
    max_plagiarism_share: float = 0.02
    """share of texts within cosine distance 0.05 of a train text"""

    def __post_init__(self) -> None:
        for name in (field.name for field in fields(Thresholds) if field.name != "max_dcr_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must be in [0, 1], got {getattr(self, name)}; it is a share")
        if self.max_dcr_share is not None and not 0 <= self.max_dcr_share <= 1:
            raise ValueError(f"--max_dcr_share must be in [0, 1], got {self.max_dcr_share}; 0.5 is ideal")


@dataclass(frozen=True)
class Reading:
    """What the gate reads: `name` as "near copies by pixels", `value` and `limit` in words."""

    name: str
    value: str
    limit: str
    passed: bool

    def __str__(self) -> str:
        return f"{self.name}: {self.value} (limit: {self.limit})"


def read_gate(evidence: dict[str, Any], limits: Thresholds) -> list[Reading]:
    """All readings of an evidence.json, of images or of texts."""
    is_text = "fidelity" in evidence
    return [
        *measured("exact copies", read_exact, evidence, limits, "texts" if is_text else "images"),
        *measured("privacy", read_texts if is_text else read_pictures, evidence, limits),
    ]


def measured(name: str, read: Callable[..., Iterable[Reading]], *args: Any) -> list[Reading]:
    """What is read of a part of the evidence; a part that is empty, or of another form, was not measured."""
    readings: list[Reading] = []
    try:
        readings += read(*args)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        readings.append(unknown(name))
    return readings


def read_exact(evidence: dict[str, Any], limits: Thresholds, things: str) -> Iterator[Reading]:
    """Exact copies of real samples of any split, each of which counts; every split must have been compared."""
    from clinsynth.metrics.privacy.exact import SPLITS, exact_of, where_found

    exact = exact_of(evidence)
    if exact is None or not set(SPLITS) <= set(exact["splits"]):
        yield unknown("exact copies of train, validation and test samples")
        return
    limit, count, total = limits.max_exact_copies, exact["count"], exact["n_synthetic"]
    value = f"{count} of {total} {things}" + (f" ({where_found(exact)})" if count else "")
    yield Reading("exact copies", value, f"{limit:.2%}", count <= limit * total)


def refuse(readings: list[Reading], folder: str) -> str:
    """The error message of readings that did not pass; empty where all did."""
    failed = [str(reading) for reading in readings if not reading.passed]
    if not failed:
        return ""
    return (
        f"the gate refuses {folder}: {'; '.join(failed)}. Generate a set without them (--reject_copies true), or give "
        '--accept_risk "why it may be published all the same", which the card will print'
    )


def read_pictures(evidence: dict[str, Any], limits: Thresholds) -> Iterator[Reading]:
    """Copies by each detector, and the DCR share by each extractor."""
    from clinsynth.metrics.privacy.copies import CERTAIN, NEAR

    single = [record for record in evidence["privacy"]["copies"] if record["metric"] == CERTAIN]
    near = [record for record in evidence["privacy"]["copies"] if record["metric"] == NEAR]
    yield from (read_single(record, limits, "images") for record in single)
    yield from (read_near(record, limits) for record in near)
    for name, records in (("single copies", single), ("near copies", near)):
        if not records:
            yield unknown(name)
    yield from read_shares(evidence["privacy"]["records"], limits)


def read_single(record: dict[str, Any], limits: Thresholds, things: str) -> Reading:
    """Samples nearer to a train sample than any two different real ones come: each is a copy by itself."""
    limit, value = limits.max_near_copies, f"{record['count']} of {record['n_synthetic']} {things}"
    return Reading("single copies", value, f"{limit:.2%}", record["value"] <= limit)


def read_near(record: dict[str, Any], limits: Thresholds) -> Reading:
    """Near copies beyond the expected false alarms, where these do not explain them."""
    from clinsynth.metrics.images.privacy import SIGNIFICANT

    name = f"near copies by {record['detector']}"
    if record["p_value"] is None:
        return unknown(name)
    expected, total = record["expected_false_alarms"], record["n_synthetic"]
    beyond = max(0.0, (record["count"] - expected) / total)
    passed = record["p_value"] >= SIGNIFICANT or beyond <= limits.max_near_copies
    value = f"{record['count']} of {total} images (p = {record['p_value']:.2g})"
    return Reading(name, value, f"{limits.max_near_copies:.2%} beyond {expected:.1f} expected false alarms", passed)


def read_shares(records: list[dict[str, Any]], limits: Thresholds) -> Iterator[Reading]:
    """The DCR share of the whole set, by each extractor."""
    from clinsynth.metrics.privacy.closest_records import DCR_SHARE

    shares = [record for record in records if (record["metric"], record["label"]) == (DCR_SHARE, OVERALL)]
    for record in shares:
        yield read_share(record, limits.max_dcr_share)
    if not shares:
        yield unknown("DCR share")


def read_share(record: dict[str, Any], limit: float | None) -> Reading:
    from clinsynth.metrics.privacy.closest_records import MemorisationRecord

    name = f"DCR share by {record['extractor'].rpartition('/')[2]}"
    if record["value"] is None:
        return unknown(name)
    value = f"{record['value']:.1%} are closer to train than to held-out samples"
    if limit is not None:
        return Reading(name, value, f"{limit:.1%}", record["value"] <= limit)
    share = MemorisationRecord(**record)
    return Reading(name, value, f"{share.chance:.1%}, chance", not share.exceeds_chance)


def read_texts(evidence: dict[str, Any], limits: Thresholds) -> Iterator[Reading]:
    """Copies, plagiarism and leaked entities beside what held-out texts show, and the DCR share."""
    counts = evidence["data"]["counts"]
    wanted = {
        "ngram8_share": limits.max_ngram8_share,
        "plagiarism_share": limits.max_plagiarism_share,
        **dict.fromkeys(ENTITIES, limits.max_entity_leakage),
    }
    overall = {(one["metric"], one["reference"]): one for one in evidence["privacy"] if one["label"] == OVERALL}
    single = evidence.get("copies") or []
    yield from (read_single(record, limits, "texts") for record in single)
    if not single:
        yield unknown("single copies")
    for metric, limit in wanted.items():
        record = overall.get((metric, "train"))
        yield read_text_share(record, limit, counts) if record else unknown(TITLES[metric])
    if record := overall.get(("exact_copies", "prompt")):  # train texts repeat one another; examples of one are few
        yield read_text_share(record, limits.max_exact_copies, counts, " of the prompt's own examples")
    yield from read_shares(evidence["memorisation"], limits)


def read_text_share(
    record: dict[str, Any], limit: float, counts: dict[str, dict[str, int]], of_what: str = ""
) -> Reading:
    """A share of texts: where real texts show none, every case counts; else what lies beyond theirs by chance."""
    from clinsynth.metrics.findings import all_floors, beyond

    name = f"{TITLES[record['metric']]}{of_what}"
    if record["value"] is None:
        return unknown(name)
    floor = max(all_floors(record), default=0.0)
    found = record["value"] - floor > limit and (floor == 0 or beyond(record, floor, counts))
    value = f"{record['value']:.2%} of {record['n_synthetic']} texts"
    return Reading(name, value, f"{limit:.2%} beyond {floor:.2%} of real texts", not found)


def read_audit(folder: Path, shards_sha256: str, limits: Thresholds) -> Reading:
    """What audit.json of a set of texts says; one that is of other shards, or that a judge did not finish, is none."""
    audit = read_json(folder / AUDIT_FILE)
    name = f"harmful texts by {' and '.join(judge['kind'] for judge in audit.get('judges', []))}".removesuffix(" by ")
    if audit.get("shards_sha256") != shards_sha256 or audit["not_judged"] or audit.get("not_looked_for"):
        return Reading(name, "not measured", "must be measured, by clinsynth audit text", False)
    flagged, by = audit["flagged"], audit["by_category"]
    kinds = f" ({', '.join(f'{category} {count}' for category, count in by.items())})" if by else ""
    passed = flagged["count"] <= limits.max_harmful_share * flagged["n"]
    value = f"{flagged['count']} of {flagged['n']} texts{kinds}"
    return Reading(name, value, f"{limits.max_harmful_share:.2%}", passed)


def unknown(name: str) -> Reading:
    return Reading(name, "not measured", "must be measured", False)
