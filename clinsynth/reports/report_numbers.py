"""Numbers as they stand on the pages of evidence."""

from collections.abc import Iterable


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
