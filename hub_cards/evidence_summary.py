"""What a card says of the evidence: answers in plain words, a table a dimension, and what the numbers do not say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clinsynth.hub_cards.evidence import Evidence
from clinsynth.hub_cards.render import RECORD_COLUMNS, Table, record_row, with_interval, without_empty_columns
from clinsynth.metrics import registry
from clinsynth.metrics.findings import read_collapse
from clinsynth.metrics.verdicts import judge
from clinsynth.reports.images import arm_table, image_limits, privacy_rows
from clinsynth.reports.page import format_number, format_signed
from clinsynth.reports.texts import build_table, text_limits

IMAGE_COLUMNS = [registry.IMAGE_METRICS[name] for name in ("frechet", "kid", "recall", "coverage")]
TEXT_COLUMNS = [registry.TEXT_METRICS[name] for name in ("mmd_squared", "coverage", "label_recovery")]


@dataclass(frozen=True)
class EvidenceSummary:
    """`answers` to plain questions; `tables` a dimension and of `privacy`; `limits` of all these numbers."""

    answers: list[tuple[str, str]]
    tables: list[Table]
    privacy: list[Table]
    limits: list[str]


def summarize_evidence(evidence: Evidence | None) -> EvidenceSummary | None:
    """What a card says of the evidence; None without any."""
    if evidence is None:
        return None
    content = evidence.content
    if evidence.of_texts:
        tables = [*text_tables(content, False), class_table(content, content["fidelity"], TEXT_COLUMNS, "texts")]
        privacy, limits = text_tables(content, True), text_limits(content)
    else:
        tables = list(image_tables(content))
        privacy, limits = iter([copies_table(content["privacy"])]), image_limits(content)
    return EvidenceSummary(list(answers_of(content)), list(with_rows(tables)), list(with_rows(privacy)), list(limits))


def with_rows(tables: Iterable[Table]) -> Iterator[Table]:
    """The tables that hold a row, without columns of dashes alone."""
    return (without_empty_columns(table) for table in tables if table.rows)


def answers_of(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The five questions of the verdict, what the set is suitable for, and the findings in full."""
    verdict = judge(content)
    for answer in verdict.answers:
        numbers = f" ({'; '.join(answer.numbers)})" if answer.numbers else ""
        yield answer.title, f"{answer.word.capitalize()}: {answer.why}{numbers}."
    for suitable, title in ((True, "Suitable for"), (False, "Not suitable for")):
        names = [use.name for use in verdict.uses if use.suitable == suitable]
        yield f"{title}, as far as was measured", ", ".join(names) or "nothing on the list"
    sentences = [one["sentence"] for one in (content.get("findings") or {}).values()]
    sentences += [read_collapse(content["measurements"], "test")["sentence"]] if "measurements" in content else []
    privacy = content.get("privacy")  # of texts a list of records
    sentences += [privacy.get("text", "")] if isinstance(privacy, dict) else []  # says which copies would be found
    yield "Findings", " ".join(filter(None, sentences))


def image_tables(content: dict[str, Any]) -> Iterator[Table]:
    """A table a dimension, privacy apart."""
    compared = f"Compared with unseen real (test) images, by features of: {content['extractor']['name']}"
    notes = {"Likeness": f"{compared}.", "Variety": f"{compared}; SSIM and near-duplicates by pixels."}
    for table in registry.IMAGE_TABLES:
        found = records_of(content["measurements"], "overall", table.metrics)
        rows = [record_row(found[metric.name], metric) for metric in table.metrics if metric.name in found]
        yield Table(table.title, RECORD_COLUMNS, rows, notes[table.title])
    yield class_table(content, content["measurements"], IMAGE_COLUMNS, "images")
    if content["classifier"]:
        yield scores_table(content["classifier"])
        yield agreement_table(content["classifier"])


def text_tables(content: dict[str, Any], of_privacy: bool) -> Iterator[Table]:
    """The tables of the page of evidence, of the whole set: those of privacy, or the others."""
    for table in registry.TEXT_TABLES:
        if (table.question == registry.PRIVACY) == of_privacy:
            rows = build_table(content, table)["rows"]
            metrics = {metric.heading: metric for metric in table.metrics}
            shown = [record_row(row, metrics[row["title"]]) for row in rows if row["value"] is not None]
            embedded = table.metrics in (registry.DISTANCES, registry.MEMORISATION)
            note = f"Embeddings of: {content['encoder']['name']}." if embedded else ""
            yield Table(table.title, RECORD_COLUMNS, shown, note)


def class_table(
    content: dict[str, Any], records: list[dict[str, Any]], metrics: list[registry.Metric], things: str
) -> Table:
    """Counts and readings of each class that has synthetic samples."""
    counts, rows = content["data"]["counts"], []
    for label in content["data"]["label_names"]:
        if made := counts["synthetic"].get(label):
            found = records_of(records, label, metrics)
            readings = [with_interval(found.get(metric.name)) for metric in metrics]
            rows.append([label, f"{counts['test'].get(label, 0):,} / {made:,}", *readings])
    columns = ["class", "real test / synthetic", *(metric.column for metric in metrics)]
    return Table("Each class", columns, rows, f"In brackets: 95 % intervals. A dash: too few {things} to measure.")


def scores_table(classifier: dict[str, Any]) -> Table:
    """Scores on real test images, trained on real ones and on both."""
    rows = []
    for row in arm_table(classifier):
        values = [with_interval(row["real"]), with_interval(row["composite"])]
        difference = format_signed(row["difference"]["difference"])
        rows.append([str(row["metric"]), *values, difference, row["verdict"] or "–"])
    columns = ["score on real test images", "trained on real", "on real and synthetic", "difference", "verdict"]
    return Table("Usefulness for a classifier", columns, rows, "Verdicts: p below 0.05 after Holm's correction.")


def agreement_table(classifier: dict[str, Any]) -> Table:
    """How many synthetic images a classifier of real ones takes for their class."""
    rows = []
    for record in classifier.get("label_agreement") or []:
        if record["value"] is not None:
            beside = [format_number(record[name]) for name in ("floor", "chance")]
            rows.append([record["label"], with_interval(record), *beside, record["flag"]])
    columns = ["class", "share with the label found", "the same of real ones", "by chance", "reading"]
    note = "Share of the images in which a classifier of real images finds the label that they were drawn for."
    return Table("Do the images show their class?", columns, rows, note)


def copies_table(privacy: dict[str, Any]) -> Table:
    """Copies and closeness to the train images."""
    sizes = privacy["n"]
    rows = [[row[name] for name in ("reading", "value", "interval", "against")] for row in privacy_rows(privacy)]
    note = (
        f"{privacy['text']} Compared were {sizes['synthetic']:,} synthetic images beside {sizes['train']:,} real "
        f"train and {sizes['test']:,} real test images."
    )
    columns = ["reading", "value", "95 % interval", "held against"]
    return Table("Copies of real images, and closeness to them", columns, [r for r in rows if r[1] != "–"], note)


def records_of(
    records: list[dict[str, Any]], label: str, metrics: Iterable[registry.Metric]
) -> dict[str, dict[str, Any]]:
    """Metric to record of a class, or "overall", beside the held-out split, where it was measured."""
    references = {metric.name: metric.reference or "test" for metric in metrics}
    return {
        record["metric"]: record
        for record in records
        if record["label"] == label
        and record["reference"] == references.get(record["metric"])
        and record["value"] is not None
    }
