"""What a card says of the evidence on pictures: answers in plain words, and a table a dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clinsynth.hub_cards.render import ALIKE, HIGHER, LOWER, RECORD_COLUMNS, Table, record_row, with_interval
from clinsynth.reports.images import arm_table, privacy_rows
from clinsynth.reports.page import format_number, format_signed

LIKENESS = {"frechet": ("Fréchet distance", LOWER), "kid": ("KID", LOWER)}
VARIETY = {
    "precision": ("precision: synthetic among real", HIGHER),
    "recall": ("recall: real among synthetic", HIGHER),
    "density": ("density", HIGHER),
    "coverage": ("coverage", HIGHER),
    "near_duplicates": ("near-duplicates", LOWER),
    "ms_ssim_within": ("MS-SSIM within classes", ALIKE),
    "ssim_nearest": ("SSIM to the nearest real picture", ALIKE),
}
INDEXED = {name: title for name, (title, _) in (LIKENESS | VARIETY).items()}
CLASS_COLUMNS = {"frechet": "Fréchet distance", "kid": "KID", "recall": "recall", "coverage": "coverage"}
VERDICTS = {
    "copies found": "Yes: copies were found.",
    "closer to train than to held-out: memorisation": "A sign of it: the pictures lie closer to training pictures "
    "than to unseen real ones.",
    "unclear: train and held-out pictures differ": "Unclear: the real splits differ from each other.",
    "no sign": "No sign of it.",
}


def answers(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Questions that a reader asks, and what was measured."""
    found = records_of(content, "overall")
    if (distance := found.get("frechet")) is not None:
        floor = distance["floor_held_out"]
        against = "" if floor is None else f"; other real pictures lie at {format_number(floor)}"
        yield (
            "How far are they from real pictures?",
            f"Fréchet distance {with_interval(distance)} from unseen real pictures{against}. Lower is nearer.",
        )
    yield "Is the real variety kept?", content["collapse"]["sentence"]
    if content["classifier"]:
        first = content["classifier"]["comparisons"][0]
        low, high = map(format_signed, first["interval"])
        yield (
            "Do they help a classifier of real pictures?",
            f"{first['verdict'].capitalize()}: macro-F1 {format_signed(first['difference'])} ({low} to {high}) when "
            f"they are added to the real ones; {first['n']:,} real test pictures, {first['seeds']} trainings.",
        )
    yield "Were real pictures copied?", f"{VERDICTS[content['privacy']['verdict']]} The readings stand under Privacy."


def tables(content: dict[str, Any]) -> Iterator[Table]:
    """A table a dimension, privacy apart; one without a measured row is left out."""
    found = records_of(content, "overall")
    extractor = content["extractor"]["name"]
    compared = f"Compared with unseen real (test) pictures, by features of: {extractor}"
    notes = {"Likeness": f"{compared}.", "Variety": f"{compared}; SSIM and near-duplicates by pixels."}
    for title, metrics in (("Likeness", LIKENESS), ("Variety", VARIETY)):
        rows = [record_row(found[metric], *metrics[metric]) for metric in metrics if metric in found]
        yield Table(title, RECORD_COLUMNS, rows, notes[title])
    rows = [row for name in content["data"]["label_names"] if (row := class_row(content, name)) is not None]
    columns = ["class", "real test / synthetic", *CLASS_COLUMNS.values()]
    yield Table("Each class", columns, rows, "In brackets: 95 % intervals. A dash: too few pictures to measure.")
    if content["classifier"]:
        yield from classifier_tables(content["classifier"])


def classifier_tables(classifier: dict[str, Any]) -> Iterator[Table]:
    rows = [
        [
            str(row["metric"]),
            with_interval(row["real"]),
            with_interval(row["composite"]),
            format_signed(row["difference"]["difference"]),
            row["verdict"] or "–",
        ]
        for row in arm_table(classifier)
    ]
    columns = ["score on real test pictures", "trained on real", "on real and synthetic", "difference", "verdict"]
    yield Table("Usefulness for a classifier", columns, rows, "Verdicts: p below 0.05 after Holm's correction.")
    agreement = [
        [
            record["label"],
            with_interval(record),
            format_number(record["floor"]),
            format_number(record["chance"]),
            record["flag"],
        ]
        for record in classifier.get("label_agreement") or []
        if record["value"] is not None
    ]
    columns = ["class", "share with the label found", "the same of real ones", "by chance", "reading"]
    note = "Share of the pictures in which a classifier of real pictures finds the label that they were drawn for."
    yield Table("Do the pictures show their class?", columns, agreement, note)


def privacy_tables(content: dict[str, Any]) -> Iterator[Table]:
    """Copies and closeness to the train pictures."""
    privacy, sizes = content["privacy"], content["privacy"]["n"]
    rows = [[row[name] for name in ("reading", "value", "interval", "against")] for row in privacy_rows(privacy)]
    note = (
        f"{privacy['text']} Compared were {sizes['synthetic']:,} synthetic pictures beside {sizes['train']:,} real "
        f"train and {sizes['test']:,} real test pictures."
    )
    columns = ["reading", "value", "95 % interval", "held against"]
    yield Table("Copies of real pictures, and closeness to them", columns, [r for r in rows if r[1] != "–"], note)


def class_row(content: dict[str, Any], label: str) -> list[str] | None:
    """Counts and readings of one class; None where there is no synthetic picture of it."""
    counts = content["data"]["counts"]
    if not counts["synthetic"].get(label):
        return None
    found = records_of(content, label)
    sizes = f"{counts['test'].get(label, 0):,} / {counts['synthetic'][label]:,}"
    return [label, sizes, *(with_interval(found.get(metric)) for metric in CLASS_COLUMNS)]


def records_of(content: dict[str, Any], label: str) -> dict[str, dict[str, Any]]:
    """Metric to record of a class, or "overall", beside the held-out split, where it was measured."""
    return {
        record["metric"]: record
        for record in content["measurements"]
        if (record["label"], record["reference"]) == (label, "test") and record["value"] is not None
    }
