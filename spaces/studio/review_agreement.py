"""What the scores of a review say: how far raters agree on each item, and whether they tell real from synthetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Answers = dict[str, dict[str, int]]
"""Rater to sample id to 0 or 1."""
Scores = dict[str, dict[str, dict[str, Any]]]
"""Rater to sample id to record, as `review_scores.read_scores` gives them."""
LOOKS_REAL = "looks real"
ALL_ITEMS = "all items"


def agreement_table(session: dict[str, Any], scores: Scores) -> list[dict[str, Any]]:
    """One row an item: `item`, `question`, `statistic`, `value` (None where undefined), `agreement` (share of pairs of
    answers that are equal), `samples` (scored by two raters or more), `note`.

    An item that several conditions ask in the same words is one item here.
    """
    rows = []
    everything: Answers = {rater: {} for rater in scores}
    for (item, question), answers in by_item(session, scores).items():
        rows.append({"item": item, "question": question, **agreement(answers)})
        for rater, by_sample in answers.items():
            everything[rater] |= {f"{item} {question} {sample}": answer for sample, answer in by_sample.items()}
    rows.append({"item": ALL_ITEMS, "question": "", **agreement(everything)})
    rows.append({"item": LOOKS_REAL, "question": "Does it look real?", **agreement(looks_real(scores))})
    return rows


def by_item(session: dict[str, Any], scores: Scores) -> dict[tuple[str, str], Answers]:
    found: dict[tuple[str, str], Answers] = {}
    for rater, by_sample in scores.items():
        for sample, record in by_sample.items():
            for item, answer in record["scores"].items():
                question = session["questions"][record["condition"]][item]
                found.setdefault((item, question), {}).setdefault(rater, {})[sample] = answer
    return found


def looks_real(scores: Scores) -> Answers:
    return {
        rater: {s: int(record["looks_real"]) for s, record in by_sample.items() if record["looks_real"] is not None}
        for rater, by_sample in scores.items()
    }


def agreement(answers: Answers) -> dict[str, Any]:
    """Cohen's kappa for two raters, Krippendorff's alpha (nominal, takes missing answers) for more."""
    units = list(shared_units(answers))
    raters = {rater for rater, by_sample in answers.items() if by_sample}
    statistic = "Krippendorff's alpha" if len(raters) > 2 else "Cohen's kappa"
    row = {"statistic": statistic, "value": None, "agreement": None, "samples": len(units), "note": ""}
    if not units:
        return row | {"note": "undefined: no sample that two raters scored"}
    pairs = [(a, b) for unit in units for i, a in enumerate(unit) for b in unit[i + 1 :]]
    row["agreement"] = sum(a == b for a, b in pairs) / len(pairs)
    if len({answer for unit in units for answer in unit}) == 1:
        return row | {"note": "undefined: every answer is the same, so that chance would agree as well"}
    return row | {"value": krippendorff_alpha(units) if len(raters) > 2 else cohen_kappa(units)}


def shared_units(answers: Answers) -> Iterator[list[int]]:
    """The answers on each sample that two raters or more scored, in the order of the raters."""
    samples = sorted({sample for by_sample in answers.values() for sample in by_sample})
    for sample in samples:
        unit = [by_sample[sample] for by_sample in answers.values() if sample in by_sample]
        if len(unit) > 1:
            yield unit


def cohen_kappa(units: list[list[int]]) -> float:
    """Agreement of two raters beyond chance (Cohen 1960)."""
    from sklearn.metrics import cohen_kappa_score

    first, second = zip(*units, strict=True)
    return float(cohen_kappa_score(first, second))


def krippendorff_alpha(units: list[list[int]]) -> float:
    """Nominal alpha, 1 - observed / expected disagreement (Krippendorff, Computing Krippendorff's alpha-reliability).

    Args:
        units: the answers on each sample, two or more each, not all of them equal.
    """
    total = sum(map(len, units))
    counts: dict[int, int] = {}
    observed = 0.0
    for unit in units:
        for answer in unit:
            counts[answer] = counts.get(answer, 0) + 1
            observed += sum(other != answer for other in unit) / (len(unit) - 1)
    expected = sum(n * (total - n) for n in counts.values()) / (total - 1)
    return 1 - observed / expected


def discrimination_table(session: dict[str, Any], scores: Scores) -> list[dict[str, Any]]:
    """One row a rater who has scored everything: `rater`, `what`, `right`, `n`, `rate`, `low`, `high` (95 %, Wilson).

    Others would be told on the way which samples are real: of them the row says how far they are.
    """
    samples = session["samples"]
    mixed = len({sample["source"] for sample in samples.values()}) > 1
    rows = []
    for rater, by_sample in scores.items():
        if len(by_sample) < len(samples):
            rows.append({"rater": rater, "what": f"not finished ({len(by_sample)} of {len(samples)})"})
            continue
        answers = {s: record["looks_real"] for s, record in by_sample.items() if record["looks_real"] is not None}
        wanted = {s: answer == (samples[s]["source"] == "real") for s, answer in answers.items()}
        what = "told real from synthetic" if mixed else "called synthetic what is synthetic"
        rows.append({"rater": rater, "what": what, **proportion(list(wanted.values()))})
    return rows


def proportion(hits: list[bool]) -> dict[str, Any]:
    """Share of hits with its 95 % Wilson score interval; None where there is nothing to count."""
    from scipy.stats import binomtest

    if not hits:
        return {"right": 0, "n": 0, "rate": None, "low": None, "high": None}
    interval = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    rate = sum(hits) / len(hits)
    return {"right": sum(hits), "n": len(hits), "rate": rate, "low": float(interval.low), "high": float(interval.high)}
