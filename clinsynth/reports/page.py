"""The one page model of all reports: tiles, tables with whiskers, curves, limits, in a self-contained HTML file.

Everything is inside the page (base64 PNG, inline SVG, no script, no link), so that it can be kept as one file. Numbers
become places here, which the macros of report_parts.html.jinja draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

MARGIN = 6.0
WHISKER = 200.0


def render_page(template: str, tiles: Iterable[dict[str, str]], limits: Iterable[str], **values: Any) -> str:
    """The page as HTML text.

    Args:
        template: its name, without .html.jinja.
        tiles: the few findings at its head, made by `tile`.
        limits: what its numbers do not say, in plain words.
        values: whatever else the template shows.
    """
    folder, strict = jinja2.FileSystemLoader(Path(__file__).parent), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=folder, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=strict
    )
    environment.filters |= {"number": format_number, "signed": format_signed, "interval": format_interval}
    return environment.get_template(f"{template}.html.jinja").render(tiles=list(tiles), limits=list(limits), **values)


def tile(title: str, value: str, text: str, verdict: str | None = None) -> dict[str, str]:
    """One finding; `verdict` colours it: "helps" or "hurts", by default what the value says."""
    return {"title": title, "value": value, "text": text, "verdict": value if verdict is None else verdict}


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
) -> dict[str, float]:
    """Places of a value, the ends of its interval, its floors where there are any, and zero if asked."""
    low, high = interval or (value, value)
    given = {"value": value, "low": low, "high": high, "floor": floor, "floor_held_out": floor_held_out}
    given |= {"zero": 0.0} if zero else {}
    return {name: scale(place) for name, place in given.items() if place is not None}


def marks_of(record: dict[str, Any], scale: Scale, zero: bool = True) -> dict[str, float] | None:
    """The whisker of a measurement with both of its floors; None where nothing was measured."""
    if record["value"] is None:
        return None
    return whisker(record["value"], record["interval"], scale, record["floor"], record["floor_held_out"], zero)


def polyline(values: Sequence[float], low: float, high: float, width: float, height: float) -> str:
    """Points of an SVG polyline through `values`, evenly spaced from left to right, low at the bottom."""
    across = Scale(0, max(len(values) - 1, 1), width)
    up = Scale(low, high if high > low else low + 1e-12, height)
    return " ".join(f"{across(i)},{round(height - up(value), 1)}" for i, value in enumerate(values))


def format_number(value: float | None) -> str:
    """Three significant digits, a true minus sign, a dash for None."""
    if value is None:
        return "–"
    text = f"{value:.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


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


IMAGES, TEXTS = "pictures", "texts"
"""What the samples of a page are called."""
NO_CLINICIAN = {
    IMAGES: "No clinician has judged these pictures. A small distance means that a network's features are distributed "
    "alike; it does not mean that a picture is anatomically or clinically right, or that it shows its class.",
    TEXTS: "No clinician has read these texts. A small distance means that a language model's embeddings are "
    "distributed alike; it does not mean that a text is medically right or shows its class.",
}
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


def limit_of_classes(counts: dict[str, int], thing: str) -> Iterator[str]:
    """Which classes the numbers of the whole leave out, by the counts of synthetic samples."""
    missing = [name for name, count in counts.items() if count == 0]
    if missing:
        yield f"The synthetic set holds no {thing} of: {', '.join(missing)}. “Overall” leaves those classes out."
