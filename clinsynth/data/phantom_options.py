"""What the built-in data sets share: the options behind the `?` of their specs, and how classes share a total."""

from __future__ import annotations

from urllib.parse import parse_qsl

import numpy as np


def parse_options(
    spec: str, name: str, defaults: dict[str, int], lowest: dict[str, int], highest: dict[str, int] | None = None
) -> dict[str, int]:
    """`name?key=number&…` as numbers by key, the others at their defaults.

    Raises:
        ValueError: an unknown option, or a number below its lowest or above its highest.
    """
    highest = highest or {}
    options = dict(defaults)
    for key, value in parse_qsl(spec.partition("?")[2], keep_blank_values=True):
        if key not in options:
            raise ValueError(f"{name} has no option {key!r}; it takes {', '.join(options)}")
        if not value.isdecimal() or not lowest[key] <= int(value) <= highest.get(key, int(value)):
            end = f" to {highest[key]}" if key in highest else ""
            raise ValueError(f"{name}: {key} must be a whole number from {lowest[key]}{end}, got {value!r}")
        options[key] = int(value)
    return options


def share_out(total: int, proportions: tuple[int, ...]) -> list[int]:
    """Whole numbers that add up to `total`, none zero, as close to the proportions as these allow."""
    exact = np.array(proportions) * total / sum(proportions)
    shares = np.maximum(np.floor(exact), 1).astype(int)
    while shares.sum() != total:
        step = 1 if shares.sum() < total else -1
        error = step * (exact - shares) - 1e9 * (shares + step < 1)
        shares[int(np.argmax(error))] += step
    return shares.tolist()
