"""What the numbers on copies and memorisation say, in words; and the worst of several synthetic sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clinsynth.metrics.privacy.closest_records import DCR_SHARE, MemorisationRecord
from clinsynth.metrics.privacy.copies import EXACT, CopyRecord
from clinsynth.metrics.records import OVERALL

COPIES = "copies found"
MEMORISED = "closer to train than to held-out: memorisation"
UNCLEAR = "unclear: train and held-out pictures differ"
NO_SIGN = "no sign"
GRAVITY = (NO_SIGN, UNCLEAR, MEMORISED, COPIES)
SIGNIFICANT = 0.005  # for each of two detectors, so that both together cry wolf in less than one set in 100


def privacy_verdict(copies: list[CopyRecord], records: list[MemorisationRecord]) -> dict[str, str]:
    """The gravest finding as "verdict", and every finding with its numbers as "text"."""
    findings = [*findings_on_copies(copies), *findings_on_shares(records)]
    verdict = max((verdict for verdict, _ in findings), key=GRAVITY.index, default=NO_SIGN)
    return {"verdict": verdict, "text": " ".join(text for _, text in findings)}


def findings_on_copies(copies: list[CopyRecord]) -> Iterator[tuple[str, str]]:
    """A verdict and a sentence a detector."""
    for record in copies:
        share = f"{record.count} of {record.n_synthetic}"
        if record.metric == EXACT:
            yield COPIES if record.count else NO_SIGN, f"{share} are train pictures, pixel for pixel."
        elif record.p_value is None:
            yield NO_SIGN, f"Too few held-out pictures ({record.n_held_out}) for a threshold by {record.detector}."
        else:
            found = record.p_value < SIGNIFICANT
            yield (
                COPIES if found else NO_SIGN,
                f"{share} are near copies by {record.detector}, where {record.expected_false_alarms:.1f} false alarms "
                f"are expected (p = {record.p_value:.2g}).",
            )


def findings_on_shares(records: list[MemorisationRecord]) -> Iterator[tuple[str, str]]:
    """A verdict and a sentence an overall DCR share."""
    for record in records:
        if (record.metric, record.label) != (DCR_SHARE, OVERALL):
            continue
        if record.value is None:
            yield NO_SIGN, f"Closeness by {record.extractor} is {record.note}."
            continue
        interval = "" if record.interval is None else " (95 % {:.1%} to {:.1%})".format(*record.interval)
        text = f"{record.value:.1%}{interval} lie closer to train than to held-out pictures by {record.extractor}"
        if not exceeds_chance(record):
            yield NO_SIGN, f"{text}; 50 % is ideal."
        elif shifted(record):
            yield (
                UNCLEAR,
                f"{text}, but of the held-out pictures themselves only {record.floor:.1%}: the splits differ, which "
                "alone can bring a generator nearer to train.",
            )
        else:
            yield MEMORISED, f"{text}, where chance reaches {upper(record.chance_range):.1%}."


def exceeds_chance(record: MemorisationRecord) -> bool:
    """Whether the share lies above one half, above the relabelled shares, and above that of held-out pictures."""
    low = record.value if record.interval is None else record.interval[0]
    assert record.value is not None and low is not None
    bounds = [upper(record.chance_range), 0.5 if record.floor is None else record.floor]
    return low > 0.5 and record.value > max(bounds)


def shifted(record: MemorisationRecord) -> bool:
    """Whether held-out pictures are nearer to one another than to train pictures."""
    return record.floor_range is not None and record.floor_range[1] < 0.5


def upper(ends: tuple[float, float] | None) -> float:
    return 0.5 if ends is None else ends[1]


def worst_over_runs(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The worst case of one generator's synthetic sets: `image_privacy` of each, by name (a seed).

    Returns:
        "verdict" and "text" of the gravest run and its name, "run"; "runs", how many there were; "copies" and
        "records", of each kind the worst with its "run": the largest share of copies, the largest DCR share, the
        smallest ratio.

    Raises:
        ValueError: no run.
    """
    if not runs:
        raise ValueError("the worst case needs the privacy evidence of one synthetic set or more, got none")
    name = max(runs, key=lambda run: (GRAVITY.index(runs[run]["verdict"]), copied(runs[run])))
    return {
        "verdict": runs[name]["verdict"],
        "text": runs[name]["text"],
        "run": name,
        "runs": len(runs),
        "copies": list(worst_records(runs, "copies", ("metric", "detector"))),
        "records": list(worst_records(runs, "records", ("metric", "label", "extractor"))),
    }


def copied(evidence: dict[str, Any]) -> float:
    """The largest share of copies by any detector."""
    return max(record["value"] for record in evidence["copies"])


def worst_records(runs: dict[str, dict[str, Any]], part: str, kind: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Of each kind of record the worst over the runs; one that no run could measure stays without a value."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run, evidence in runs.items():
        for record in evidence[part]:
            groups.setdefault(tuple(record[key] for key in kind), []).append({**record, "run": run})
    yield from (max(group, key=badness) for group in groups.values())


def badness(record: dict[str, Any]) -> float:
    if record["value"] is None:
        return float("-inf")
    return -record["value"] if record["metric"].startswith("nndr") else record["value"]
