"""What two labelled sets must be for an evaluation of them to mean anything, be they of pictures or of texts."""

from __future__ import annotations

from collections import Counter

from sets import LabelledSet

MIN_SYNTHETIC = 20
MIN_CLASS = 5
MOST_NAMED = 10  # classes in a message


def check_sets(real: LabelledSet, synthetic: LabelledSet, noun: str, min_real: int) -> list[str]:
    """The class names, sorted.

    Args:
        noun: what a message calls the samples, in the plural.
        min_real: the fewest real samples.

    Raises:
        ValueError: too few samples, one class, a class that is too small or that the real set has not.
    """
    for chosen, least in ((real, min_real), (synthetic, MIN_SYNTHETIC)):
        if len(chosen.labels) < least:
            raise ValueError(
                f"{chosen.name} has {len(chosen.labels)} {noun}, fewer than {least}; give more: so few make no "
                "distance mean anything"
            )
    counts = Counter(real.labels)
    if len(counts) < 2:
        raise ValueError(f"{real.name} has one class, {next(iter(counts))!r}; give {noun} of at least two classes")
    name, least_count = min(counts.items(), key=lambda pair: pair[1])
    if least_count < MIN_CLASS:
        raise ValueError(
            f"{real.name} has {least_count} {noun} of class {name!r}, fewer than {MIN_CLASS}; add some, or leave "
            "the class out of both sets"
        )
    unknown = sorted(set(synthetic.labels) - set(counts))
    if unknown:
        raise ValueError(
            f"{synthetic.name} has classes that {real.name} has not: {', '.join(unknown[:MOST_NAMED])} (real: "
            f"{', '.join(sorted(counts)[:MOST_NAMED])}); rename them alike, or leave them out"
        )
    return sorted(counts)
