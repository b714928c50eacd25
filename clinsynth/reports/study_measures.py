"""Which measures a study's page shows of its generators, in which order, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from clinsynth.reports.texts import CONTENT, DISTANCES, DIVERSITY, ENTITIES, OVERLAP
from clinsynth.study.study_kinds import IMAGES, Kind

LOWER, HIGHER, NEAR = "lower", "higher", "near the floor"


@dataclass(frozen=True)
class Table:
    """One table of measures.

    Attributes:
        title, text: heading and what is compared.
        reference: the real split that stands beside the synthetic set.
        measures: metric to its name on the page and the better direction.
    """

    title: str
    text: str
    reference: str
    measures: dict[str, tuple[str, str]]


HELD_OUT = (
    "Synthetic against real held-out (test) {things} on matched label mixes. The floor is the same measure between "
    "real train and real held-out {things}: what a perfect generator would reach."
)
IMAGE_TABLES = [
    Table(
        "Fidelity and diversity",
        HELD_OUT.format(things="pictures"),
        "test",
        {
            "frechet": ("Fréchet distance", LOWER),
            "kid": ("KID", LOWER),
            "precision": ("precision", HIGHER),
            "recall": ("recall", HIGHER),
            "density": ("density", HIGHER),
            "coverage": ("coverage", HIGHER),
            "ms_ssim_within": ("MS-SSIM within a class", NEAR),
            "ssim_nearest": ("SSIM to the nearest train picture", NEAR),
        },
    )
]
TEXT_TABLES = [
    Table("Fidelity", HELD_OUT.format(things="texts"), "test", {**DISTANCES, **CONTENT}),
    Table("Diversity", "Beside held-out texts: a generator should vary as much as they do.", "test", DIVERSITY),
    Table(
        "Privacy",
        "Synthetic against real train texts; the floor is what held-out texts share with train texts.",
        "train",
        {**OVERLAP, **ENTITIES},
    ),
]


def tables_of(kind: Kind) -> list[Table]:
    """The tables of a study of pictures, or of texts."""
    return IMAGE_TABLES if kind is IMAGES else TEXT_TABLES


def bar_of(kind: Kind) -> tuple[str, str]:
    """The metric that is drawn class by class, and its name."""
    return ("kid", "KID") if kind is IMAGES else ("mmd_squared", "MMD² of embeddings")
