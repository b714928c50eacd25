"""The one page model of all reports: the verdict, tables with whiskers, curves, limits, in a self-contained HTML file.

Everything is inside the page (base64 PNG, inline SVG, no script), so that it can be kept as one file; its links lead
to places of its own and to files of the same run. Numbers become places here, which the macros of
report_parts.html.jinja draw.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from clinsynth.metrics.readings import shown
from clinsynth.metrics.registry import Metric
from clinsynth.metrics.verdicts import Answer
from clinsynth.private_words import shorten

MARGIN = 6.0
APART = 26.0
"""Least distance between two labels of an axis."""
WHISKER = 200.0
CURVE = (220.0, 90.0)
HEADING = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>', re.DOTALL)


@dataclass(frozen=True)
class Made:
    """How a page came about.

    Attributes:
        date: of the measurement, as 2026-12-01.
        seconds: that it took; None where that is not known.
        files: names of the files of the same run that hold the numbers.
        curves: the generator's training, as `training_curves` draws it.
        author: who answers for it; empty where nobody was named.
    """

    date: str = ""
    seconds: float | None = None
    files: tuple[str, ...] = ()
    curves: list[dict[str, Any]] = field(default_factory=list)
    author: str = ""


def render_page(template: str, limits: Iterable[str], **values: Any) -> str:
    """The page as HTML text.

    Args:
        template: its name, without .html.jinja.
        limits: what its numbers do not say, in plain words.
        values: whatever else the template shows.
    """
    folder, strict = jinja2.FileSystemLoader(Path(__file__).parent), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict
    )
    environment.filters |= {
        "number": format_number,
        "signed": format_signed,
        "interval": format_interval,
        "percent": format_percent,
        "duration": format_duration,
        "headings": headings,
        "placed": placed,
        "sentences": split_sentences,
    }
    return environment.get_template(f"{template}.html.jinja").render(limits=list(limits), **values)


def headings(content: str) -> list[tuple[str, str]]:
    """Place and title of each section of a page's content: its contents list."""
    return [(place, jinja2.utils.markupsafe.Markup(title)) for place, title in HEADING.findall(content)]


def answer_tiles(answers: Iterable[Answer]) -> list[dict[str, str]]:
    """Title, word and reason of each answer, as the Space shows them."""
    return [{"title": answer.title, "value": answer.word, "text": answer.why} for answer in answers]


TERMS = {
    "floor": ("floor", "What a measure gives when real data are compared with other real data: no generator can be "
              "expected to do better."),
    "interval": ("95 % interval", "Drawn again from the same sources, the value would mostly lie in it."),
    "extractor": ("extractor", "The network whose features a distance is measured on."),
    "arm": ("arm", "One composition of training data for a classifier; all arms have the same network, steps and test "
            "data."),
    "control": ("control", "The arm that every other arm is compared with: real data alone, trained as well as "
                "possible."),
    "agreement": ("label agreement", "Share of the synthetic samples whose label a classifier trained on real data "
                  "finds."),
    "holm": ("Holm", "A correction of p-values for how many arms are compared."),
}  # fmt: skip
"""Words beside the metrics: what stands in the text, and its meaning."""


def terms_of(metrics: Iterable[Metric]) -> dict[str, tuple[str, str]]:
    """Title and meaning of each word that a page explains, the general ones and those of its metrics."""
    return {**TERMS, **{metric.name: (metric.title, metric.meaning) for metric in metrics if metric.meaning}}


def records_as_csv(evidence: dict[str, Any]) -> str:
    """Every record of an evidence.json that has a metric and a label, a line each: no sample and no path is in it."""
    privacy = evidence.get("privacy")
    parts = [evidence.get(name) for name in ("measurements", "fidelity", "diversity", "memorisation")]
    parts += [privacy.get("records")] if isinstance(privacy, dict) else [privacy]
    rows = [record for part in parts if part for record in part]
    columns = list(dict.fromkeys(name for record in rows for name in record))
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:  # intervals are tuples when they have just been measured, and lists when they were kept
        writer.writerow({name: json.dumps(own) if isinstance(own, list | tuple) else own for name, own in row.items()})
    return file.getvalue()


def training_curves(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drawings of what a generator's metrics.jsonl has over the steps: losses, and distances on validation."""
    rows = [record for record in records if isinstance(record.get("step"), int)]
    names = [name for name in dict.fromkeys(name for record in rows for name in record) if CURVES.search(name)]
    drawn = []
    for name in names:
        points = [(row["step"], row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if len(points) < 2:
            continue
        values = [value for _, value in points]
        across = Scale(points[0][0], max(points[-1][0], points[0][0] + 1), CURVE[0])
        up = scale_for(values, CURVE[1], zero=False)
        line = " ".join(f"{across(step)},{round(CURVE[1] - up(value), 1)}" for step, value in points)
        title = name.replace("_", " ")
        drawn.append({"title": title, "line": line, "low": min(values), "high": max(values), "last": points[-1][0]})
    return drawn


CURVES = re.compile(r"loss|frechet|distance")
"""Which numbers of metrics.jsonl are drawn."""


@dataclass(frozen=True)
class Scale:
    """A linear scale from values low .. high to places 6 .. width - 6."""

    low: float
    high: float
    width: float

    def __call__(self, value: float) -> float:
        """The place of `value`, to a tenth of a unit; values beyond the ends stop there."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(MARGIN + (self.width - 2 * MARGIN) * share, 1)


def scale_for(values: Iterable[float | None], width: float = WHISKER, zero: bool = True) -> Scale:
    """The scale that shows all `values` that are not None, and zero if asked; never of length nought."""
    shown = [value for value in values if value is not None]
    shown += [0.0] if zero or not shown else []
    low, high = min(shown), max(shown)
    return Scale(low, high if high > low else low + 1e-12, width)


def ends_of(record: dict[str, Any]) -> list[float | None]:
    """All that a whisker of the record shows; empty where nothing was measured."""
    if record["value"] is None:
        return []
    return [record["value"], record.get("floor"), record.get("floor_held_out"), *(record["interval"] or [])]


def whisker(
    value: float,
    interval: Sequence[float] | None,
    scale: Scale,
    floor: float | None = None,
    floor_held_out: float | None = None,
    zero: bool = True,
) -> dict[str, Any]:
    """Places of a value, the ends of its interval, its floors where there are any, zero if asked, and the axis."""
    low, high = interval or (value, value)
    given = {"value": value, "low": low, "high": high, "floor": floor, "floor_held_out": floor_held_out}
    given |= {"zero": 0.0} if zero else {}
    places: dict[str, Any] = {name: scale(place) for name, place in given.items() if place is not None}
    return places | {"ticks": ticks_of(scale, floor if floor_held_out is None else floor_held_out)}


def marks_of(record: dict[str, Any], scale: Scale, zero: bool = True) -> dict[str, Any] | None:
    """The whisker of a measurement with both of its floors; None where nothing was measured."""
    if record["value"] is None:
        return None
    return whisker(record["value"], record["interval"], scale, record["floor"], record["floor_held_out"], zero)


def ticks_of(scale: Scale, floor: float | None) -> list[dict[str, Any]]:
    """The axis of a whisker, in multiples of its floor, as far as they stand apart; none without a floor above 0."""
    ticks: list[dict[str, Any]] = []
    for times in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000):
        if floor is None or not scale.low <= times * floor <= scale.high or floor <= 0:
            continue
        place = scale(times * floor)
        if not ticks or place - ticks[-1]["place"] >= APART:
            ticks.append({"place": place, "label": f"{times}×"})
    return ticks


def polyline(values: Sequence[float], low: float, high: float, width: float, height: float) -> str:
    """Points of an SVG polyline through `values`, evenly spaced from left to right, low at the bottom."""
    across = Scale(0, max(len(values) - 1, 1), width)
    up = Scale(low, high if high > low else low + 1e-12, height)
    return " ".join(f"{across(i)},{round(height - up(value), 1)}" for i, value in enumerate(values))


def format_number(value: float | None) -> str:
    """Three significant digits, never an exponent, a true minus sign, a dash for None."""
    return "–" if value is None else shown(value)


def format_percent(share: float | None) -> str:
    """A share in [0, 1] as `34 %`, a dash for None."""
    return "–" if share is None else f"{share:.0%}".replace("%", " %")


def format_duration(seconds: float) -> str:
    """`12.5 min`."""
    return f"{seconds / 60:.1f} min"


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, each of which starts with a capital or a digit."""
    return re.split(r"(?<=[.!?]) (?=[A-Z0-9])", text)


def placed(words: str) -> str:
    """A command, or the place of a data set, as a reader elsewhere repeats it: paths start at the working folder, and
    of those that lead out of it the last part is left."""
    return shorten(words.replace(f"{Path.cwd()}/", ""))


def format_signed(difference: float) -> str:
    """Three decimals with a plus or a true minus sign."""
    return f"{difference:+.3f}".replace("-", "−")


def format_interval(interval: Iterable[float] | None) -> str:
    """`0.47 to 0.55`."""
    return "no interval" if interval is None else "{} to {}".format(*map(format_number, interval))


def flatten(settings: dict[str, Any] | None, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    for name, value in (settings or {}).items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}", text


IMAGES, TEXTS = "images", "texts"
"""What the samples of a page are called."""
NO_CLINICIAN = {
    IMAGES: "No clinician has judged these images. A small distance means that a network's features are distributed "
    "alike; it does not mean that an image is anatomically or clinically right, or that it shows its class.",
    TEXTS: "No clinician has read these texts. A small distance means that a language model's embeddings are "
    "distributed alike; it does not mean that a text is medically right or shows its class.",
}
AT_CHANCE = (
    "The extractor tells the real classes no better than chance. Distances, precision to coverage and closeness by it "
    "say nothing about these samples: evaluate anew with --extractor, a network that was trained elsewhere."
)
NO_PROOF = "Privacy readings find what they look for. Finding nothing is no proof that nothing leaks."


def first_limits(real: str, things: str, notes: Iterable[str] = ()) -> Iterator[str]:
    """What was noted when the data set `real` was read, and what no distance says of samples like its own."""
    yield from (f"The real data: {note}." for note in notes)
    if real.startswith("phantom"):
        yield (
            "The phantom data sets are made by a program. They are not medical data, and nothing here says anything "
            "about patients."
        )
    yield NO_CLINICIAN[things]
    yield f"Distances compare classes alone: that {things} of an age, a sex or a site are missing, they would not see."


def limit_of_classes(counts: dict[str, int], thing: str) -> Iterator[str]:
    """Which classes the numbers of the whole leave out, by the counts of synthetic samples."""
    missing = [name for name, count in counts.items() if count == 0]
    if missing:
        yield f"The synthetic set holds no {thing} of: {', '.join(missing)}. “Overall” leaves those classes out."
