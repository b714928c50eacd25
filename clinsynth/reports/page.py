"""Geometry of a report's small drawings: numbers in, places in an inline SVG out; no script, no library."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MARGIN = 6.0


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


def scale_for(values: Iterable[float | None], width: float, zero: bool = True) -> Scale:
    """The scale that shows all `values` that are not None, and zero if asked; never of length nought."""
    shown = [value for value in values if value is not None]
    shown += [0.0] if zero or not shown else []
    low, high = min(shown), max(shown)
    return Scale(low, high if high > low else low + 1e-12, width)


def interval_marks(value: float, interval: Sequence[float] | None, scale: Scale) -> dict[str, float]:
    """Places of a value and the ends of its interval, and of zero."""
    low, high = interval or (value, value)
    return {"value": scale(value), "low": scale(low), "high": scale(high), "zero": scale(0.0)}


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
    return "no interval" if interval is None else "{} to {}".format(*map(format_number, interval))
