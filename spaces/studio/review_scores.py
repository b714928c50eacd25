"""Scores on disk: a folder a session, in it what is reviewed and one file a rater, to which every score is appended.

    <folder>/<session>/session.json      checklist, questions, and condition and source of each sample
    <folder>/<session>/<rater>.jsonl     one score a line; the last one on a sample counts
    <folder>/<session>/<rater>.key       hash of the key without which nobody scores under this name

No image and no text is kept there.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import limits
from review_session import Session

from clinsynth.run_folder import atomic_write

RATER = re.compile(r"[^\W_][\w .@-]{0,39}")
SESSION = re.compile(r"[0-9a-f]{16}")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
EXPORT_COLUMNS = {
    "sample_id": "string",
    "condition": "string",
    "checklist": "string",
    "version": "int32",
    "rater": "string",
    "item_id": "string",
    "score": "int8",
    "looks_real": "bool",
    "time": "string",
}
Answers = dict[str, dict[str, int]]
"""Rater to sample id to 0 or 1."""
Scores = dict[str, dict[str, dict[str, Any]]]
"""Rater to sample id to the last record of it."""


def scores_folder() -> Path:
    """The folder that the environment variable STUDIO_SCORES names, else review_scores in the working folder."""
    return Path(os.environ.get("STUDIO_SCORES") or "review_scores")


def check_rater(rater: str) -> str:
    """The name without blanks around it; a `ValueError` where it is none."""
    name = " ".join((rater or "").split())
    if not RATER.fullmatch(name):
        raise ValueError(
            f"the rater's name must have 1 to 40 letters, digits, blanks or . @ _ - and start with a letter or digit, "
            f"got {rater!r}; write one"
        )
    return name


def rater_file(folder: Path, session_id: str, name: str, suffix: str) -> Path:
    """A file of a rater's; names differ in signs that files may not have."""
    return folder / session_id / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}{suffix}"


def claim_name(folder: Path, session_id: str, name: str, key: str | None) -> str:
    """The key of a rater in a review: a new one where nobody has taken the name yet, else the one that is given.

    Raises:
        ValueError: the name is taken, and the key is not its.
    """
    path, new = rater_file(folder, session_id, name, ".key"), secrets.token_urlsafe(9)
    aside = path.with_suffix(f".{secrets.token_hex(4)}")
    aside.write_text(hash_key(new))
    try:
        os.link(aside, path)  # whole or not at all, and by one of those who try at once
    except FileExistsError:
        check_key(folder, session_id, name, key)
        return str(key)
    finally:
        aside.unlink()
    return new


def check_key(folder: Path, session_id: str, name: str, key: str | None) -> None:
    """Raise a `ValueError` unless it is the key that `claim_name` gave for this name."""
    path = rater_file(folder, session_id, name, ".key")
    kept = path.read_text() if path.is_file() else ""
    if not hmac.compare_digest(kept, hash_key(str(key or "").strip())):
        raise ValueError(
            f"the name {name!r} is taken in this review, and the key is not its; give the key that the first start "
            "showed, or take another name"
        )


def hash_key(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def open_session(folder: Path, session: Session) -> None:
    """Write down what is reviewed, where that has not been done."""
    path = folder / session.id / "session.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    checklist = session.checklist
    questions = {
        condition: {item.id: item.question for item in items} for condition, items in checklist.conditions.items()
    }
    samples = {sample.id: {"condition": sample.condition, "source": sample.source} for sample in session.samples}
    values = {"checklist": checklist.name, "version": checklist.version, "questions": questions, "samples": samples}
    atomic_write(path, json.dumps(values, indent=1) + "\n")


def read_session(folder: Path, session_id: str) -> dict[str, Any]:
    """What `open_session` wrote.

    Raises:
        ValueError: there is no such session.
    """
    path = folder / str(session_id) / "session.json"
    if not SESSION.fullmatch(str(session_id)) or not path.is_file():
        raise ValueError(f"there is no review {session_id!r} here; start one first")
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def save_score(
    folder: Path, session_id: str, rater: str, sample: str, scores: dict[str, int], looks_real: bool | None
) -> dict[str, Any]:
    """Append one score; it is on the disk when this returns.

    Args:
        scores: item id to 0 (no) or 1 (yes), every item of the sample's condition.
        looks_real: the rater takes the sample for real; None: not answered.

    Raises:
        ValueError: unknown session or sample, a missing or unknown item, another score than 0 or 1.
    """
    session, name = read_session(folder, session_id), check_rater(rater)
    if sample not in session["samples"]:
        raise ValueError(f"sample {sample!r} is not part of review {session_id}; take an id that it gave out")
    condition = session["samples"][sample]["condition"]
    check_scores(session["questions"][condition], scores, condition)
    if looks_real not in (True, False, None):
        raise ValueError(f"looks_real must be true, false or null, got {looks_real!r}")
    record = {
        "sample_id": sample,
        "condition": condition,
        "checklist": session["checklist"],
        "version": session["version"],
        "rater": name,
        "scores": {item: int(scores[item]) for item in session["questions"][condition]},
        "looks_real": looks_real,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    append_line(rater_file(folder, session_id, name, ".jsonl"), json.dumps(record, ensure_ascii=False))
    return record


def check_scores(questions: dict[str, str], scores: dict[str, int], condition: str) -> None:
    if not isinstance(scores, dict) or set(scores) != set(questions):
        given = ", ".join(map(str, scores)) or "none"
        raise ValueError(f"scores must hold the items of {condition}: {', '.join(questions)}; got {given}")
    for item, score in scores.items():
        if score not in (0, 1):
            raise ValueError(f"the score of {item} must be 0 or 1, got {score!r}")


FULL = "this rater has changed scores too often; export them, and start anew with another seed"


def append_line(path: Path, line: str, full: str = FULL) -> None:
    """Append and flush to the disk; what a killed process left of a line is ended first."""
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        if size > limits.MOST_SCORE_BYTES:
            raise ValueError(full)
        torn = b""
        if size:
            file.seek(-1, os.SEEK_END)
            torn = b"" if file.read(1) == b"\n" else b"\n"
        file.write(torn + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_scores(folder: Path, session_id: str) -> Scores:
    """Rater to sample id to the last score of it; lines that a killed process left unfinished are passed over."""
    latest: Scores = {}
    for path in sorted((folder / session_id).glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                record = json.loads(line)
                latest.setdefault(record["rater"], {})[record["sample_id"]] = record
    return dict(sorted(latest.items()))


def export_rows(folder: Path, session_id: str) -> list[dict[str, Any]]:
    """One row an item, sample and rater."""
    read_session(folder, session_id)
    rows = [
        {name: (record | {"item_id": item, "score": score})[name] for name in EXPORT_COLUMNS}
        for by_sample in read_scores(folder, session_id).values()
        for record in by_sample.values()
        for item, score in record["scores"].items()
    ]
    if not rows:
        raise ValueError("nothing is scored yet; score a sample first")
    return rows


def export_scores(folder: Path, session_id: str, target: Path) -> tuple[Path, Path]:
    """Write scores.parquet, which `datasets.load_dataset` reads, and scores.csv into the folder `target`."""
    from datasets import Dataset, Features, Value

    features = Features({name: Value(dtype) for name, dtype in EXPORT_COLUMNS.items()})
    dataset = Dataset.from_list(export_rows(folder, session_id), features=features)
    parquet, csv = target / "scores.parquet", target / "scores.csv"
    dataset.to_parquet(parquet)
    dataset.map(without_formulas).to_csv(csv)
    return parquet, csv


def without_formulas(row: dict[str, Any]) -> dict[str, Any]:
    """The row with texts that a spreadsheet would compute set in quotes by an apostrophe."""
    return {name: f"'{x}" if isinstance(x, str) and x.startswith(FORMULA) else x for name, x in row.items()}


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
    rows.append({"item": "all items", "question": "", **agreement(everything)})
    looks_real: Answers = {
        rater: {s: int(record["looks_real"]) for s, record in by_sample.items() if record["looks_real"] is not None}
        for rater, by_sample in scores.items()
    }
    rows.append({"item": "looks real", "question": "Does it look real?", **agreement(looks_real)})
    return rows


def by_item(session: dict[str, Any], scores: Scores) -> dict[tuple[str, str], Answers]:
    found: dict[tuple[str, str], Answers] = {}
    for rater, by_sample in scores.items():
        for sample, record in by_sample.items():
            for item, answer in record["scores"].items():
                question = session["questions"][record["condition"]][item]
                found.setdefault((item, question), {}).setdefault(rater, {})[sample] = answer
    return found


def agreement(answers: Answers) -> dict[str, Any]:
    """Cohen's kappa for two raters, Krippendorff's alpha (nominal, takes missing answers) for more."""
    samples = sorted({sample for by_sample in answers.values() for sample in by_sample})
    given = [[by_sample[sample] for by_sample in answers.values() if sample in by_sample] for sample in samples]
    units = [unit for unit in given if len(unit) > 1]  # in the order of the raters
    raters = {rater for rater, by_sample in answers.items() if by_sample}
    statistic = "Krippendorff's alpha" if len(raters) > 2 else "Cohen's kappa"
    row: dict[str, Any] = {"statistic": statistic, "value": None, "agreement": None, "samples": len(units), "note": ""}
    if not units:
        return row | {"note": "undefined: no sample that two raters scored"}
    pairs = [(a, b) for unit in units for i, a in enumerate(unit) for b in unit[i + 1 :]]
    row["agreement"] = sum(a == b for a, b in pairs) / len(pairs)
    if len({answer for unit in units for answer in unit}) == 1:
        return row | {"note": "undefined: every answer is the same, so that chance would agree as well"}
    return row | {"value": krippendorff_alpha(units) if len(raters) > 2 else cohen_kappa(units)}


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
    counts = Counter(answer for unit in units for answer in unit)
    total = counts.total()
    observed = sum((a != b) / (len(unit) - 1) for unit in units for a in unit for b in unit)
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
    from clinsynth.judges.protocol import wilson_interval

    if not hits:
        return {"right": 0, "n": 0, "rate": None, "low": None, "high": None}
    low, high = wilson_interval(sum(hits), len(hits))
    return {"right": sum(hits), "n": len(hits), "rate": sum(hits) / len(hits), "low": low, "high": high}
