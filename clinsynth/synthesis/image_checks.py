"""Checks of generated pictures: each gives a picture None, or the reason why it is drawn anew."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.synthesis.image_sources import ImageSources, drawn_form
from clinsynth.synthesis.keep_images import parse_share

if TYPE_CHECKING:
    from clinsynth.scripts.generate_images import GenerateImagesArguments

UNCHANGED, OTHER_CLASS = "unchanged", "another class"
UNMET, NO_ANSWER = "checklist not met", "no answer of the judge"
CALIBRATION = {"per_grade": 60, "least_kappa": 0.6}
"""As `clinsynth judge` has them unless told otherwise."""


@dataclass(frozen=True)
class ChangeCheck:
    """Is a picture another one than its source, in the space in which copies are looked for?

    Moved by a thumbnail pixel or mirrored, a source counts as the same picture.
    """

    space: Any
    rows: np.ndarray
    sources: ImageSources
    least: float
    least_from: str

    @classmethod
    def of(cls, sources: ImageSources, train: np.ndarray, least: float | None) -> ChangeCheck:
        """The check in the space of train pictures, uint8 (n, channels, side, side).

        The default threshold is the distance to the closest other train picture that one in 200 train pictures goes
        below, those left out that are duplicates in the data. Changes that a camera makes stay below it, and two
        patients' pictures above.

        Raises:
            ValueError: fewer than ten train pictures are left for it.
        """
        from clinsynth.metrics.privacy.copies import ThumbnailSpace, duplicated, fit_threshold

        space = ThumbnailSpace.of(train)
        stated = "--least_change"
        if least is None:
            nearest = space.closest(train, own=np.arange(len(train)))
            threshold = fit_threshold(nearest.distances[:, 0], duplicated(nearest))
            if threshold.value is None:
                raise ValueError(
                    f"--from_images has {threshold.n} train pictures without a duplicate, too few to know how near "
                    "different pictures come; give --least_change, 0.25 is what counts as a duplicate"
                )
            least = round(threshold.value, 4)
            stated = f"each of {threshold.n} train pictures to the closest other one, rank {threshold.rank}"
        return cls(space, space.describe(sources.images), sources, least, stated)

    def with_sources(self, sources: ImageSources) -> ChangeCheck:
        """The same check on pictures made from other sources."""
        return replace(self, rows=self.space.describe(sources.images), sources=sources)

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Reasons of pictures, uint8 (n, channels, side, side), of these classes and seeds."""
        distances = self.distances(images, labels, seeds)
        return [UNCHANGED if distance < self.least else None for distance in distances]

    def distances(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> np.ndarray:
        """Distance (n,) in [0, 2] of each picture, in its nearest view, to its source."""
        own = self.rows[[self.sources.choose(*pair) for pair in zip(labels, seeds, strict=True)]]
        views = np.concatenate(list(self.space.views(images)))
        found: np.ndarray = np.linalg.norm(views - own[:, None], axis=2).min(1)
        return found

    def describe(self) -> dict[str, Any]:
        from clinsynth.metrics.privacy.copies import SPACE

        return {"space": SPACE, "least_distance_to_source": self.least, "from": self.least_from}


@dataclass(frozen=True)
class CopyCheck:
    """Is a picture no copy of a train picture?"""

    detector: Any

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Reasons of pictures."""
        reasons: list[str | None] = self.detector.reasons(images)
        return reasons

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.detector.describe()
        return facts


@dataclass(frozen=True)
class ClassCheck:
    """Does a classifier see the class that was asked for?"""

    model: Any
    classes: list[int]
    name: str

    @classmethod
    def of(cls, name: str, id2label: dict[int, str]) -> ClassCheck:
        """The check by the classifier in a folder or on the Hub.

        Raises:
            ValueError: it cannot be loaded, or lacks a class of the generator.
        """
        from clinsynth.models.class_model import class_numbers, load_class_model

        model = load_class_model("--keep_if_class", name)
        return cls(model, class_numbers("--keep_if_class", model, list(id2label.values())), name)

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Reasons of pictures."""
        from clinsynth.trainers.train_image_classifier import predict

        seen = predict(self.model, images).argmax(1)
        return [
            None if number == self.classes[label] else OTHER_CLASS for number, label in zip(seen, labels, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        from clinsynth.synthesis.shards import hash_weights

        return {"model": self.name, "weights_sha256": hash_weights(self.model)}


@dataclass(frozen=True)
class ChecklistCheck:
    """Are enough of the items of the class met, of those that the judge is trusted with?"""

    judge: Any
    least: Fraction
    refused: frozenset[str]
    names: dict[int, str]
    model: str | None

    @classmethod
    def of(cls, args: GenerateImagesArguments, pipeline: Any) -> ChecklistCheck:
        """The check that the flags name.

        Where drawn truth is known (checklist phantom-fundus), items on which the judge disagrees with it are left out.

        Raises:
            ValueError: judge or checklist cannot be had, or a class of the generator is not in it.
        """
        from clinsynth.judges.judges import load_judge

        judge = load_judge(args.judge, args.judge_model, args.checklist)
        for name in pipeline.id2label.values():
            if name not in judge.checklist["conditions"]:
                raise ValueError(
                    f"--checklist {judge.checklist['name']} has no condition {name!r}, a class of --model; it has "
                    f"{', '.join(judge.checklist['conditions'])}"
                )
        refused = refused_items(judge, drawn_form(args, pipeline), args.seed)
        return cls(judge, parse_share(str(args.keep_if_checklist)), refused, pipeline.id2label, args.judge_model)

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Reasons of pictures."""
        from clinsynth.judges.judges import judge_arrays

        answers = judge_arrays(self.judge, images, [self.names[label] for label in labels])
        return [self.reason(answer) for answer in answers]

    def reason(self, answer: dict[str, Any]) -> str | None:
        """The reason of one picture."""
        from clinsynth.judges.judges import is_met

        met = [is_met(score) for item, score in answer["scores"].items() if item not in self.refused]
        if answer.get("failure") or not met:
            return NO_ANSWER
        return None if Fraction(sum(met), len(met)) >= self.least else UNMET

    def describe(self) -> dict[str, Any]:
        from clinsynth.judges.judges import describe_judge

        facts = describe_judge(self.judge, self.model)
        return {**facts, "least_share": str(self.least), "refused": sorted(self.refused)}


def refused_items(judge: Any, form: dict[str, int], seed: int) -> frozenset[str]:
    """The items with which the judge cannot be trusted on pictures of this resolution and number of channels.

    Raises:
        ValueError: a condition has no other.
    """
    from clinsynth.judges.calibration import calibrate, check_usable

    if judge.checklist["name"] != "phantom-fundus":
        return frozenset()  # truth is known of drawn pictures alone
    found = calibrate(judge, form["resolution"], form["channels"], seed=seed, **CALIBRATION)  # type: ignore[arg-type]
    check_usable(judge, found["refused"], CALIBRATION["least_kappa"])
    return frozenset(found["refused"])
