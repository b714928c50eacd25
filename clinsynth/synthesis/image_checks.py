"""Checks of generated images: each gives an image None, or the reason why it is drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from clinsynth.data.images import load_image_dataset, to_arrays
from clinsynth.judges.calibration import calibrate, check_usable
from clinsynth.judges.judges import load_judge
from clinsynth.judges.protocol import Answer, Judge, is_met
from clinsynth.metrics.privacy.copies import SPACE, CopyDetector, ThumbnailSpace, duplicated, fit_threshold
from clinsynth.models.classifiers import class_numbers
from clinsynth.models.generators import Generator, Sample
from clinsynth.models.image_classifiers import load_image_classifier, predict
from clinsynth.models.weights import best_device, hash_weights
from clinsynth.synthesis.arguments import KeepArguments, SourceArguments, parse_share
from clinsynth.synthesis.image_sources import ImageSources, load_sources, strength_lines, sweep_strengths, with_form

UNCHANGED, OTHER_CLASS = "unchanged", "another class"
UNMET, NO_ANSWER = "checklist not met", "no answer of the judge"
PER_GRADE, LEAST_KAPPA = 60, 0.6
"""Of a calibration, as `clinsynth judge` has them unless told otherwise."""


class Check(Protocol):
    """From images, uint8 (n, channels, side, side), labels and seeds to reasons; `facts` are what generation.json says
    of it."""

    @property
    def facts(self) -> dict[str, Any]: ...

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]: ...


@dataclass(frozen=True)
class ChangeCheck:
    """Is an image another one than its source, in the space in which copies are looked for?

    Moved by a thumbnail pixel or mirrored, a source counts as the same image.
    """

    space: ThumbnailSpace
    rows: np.ndarray
    sources: ImageSources
    least: float
    least_from: str

    @classmethod
    def of(cls, sources: ImageSources, train: np.ndarray, least: float | None) -> ChangeCheck:
        """The check in the space of train images, uint8 (n, channels, side, side).

        The default threshold is the distance to the closest other train image that one in 200 train images goes
        below, those left out that are duplicates in the data. Changes that a camera makes stay below it, and two
        patients' images above.

        Raises:
            ValueError: fewer than ten train images are left for it.
        """
        space = ThumbnailSpace.of(train)
        stated = "--least_change"
        if least is None:
            nearest = space.closest(train, own=np.arange(len(train)))
            threshold = fit_threshold(nearest.distances[:, 0], duplicated(nearest))
            if threshold.value is None:
                raise ValueError(
                    f"--from_images has {threshold.n} train images without a duplicate, too few to know how near "
                    "different images come; give --least_change, 0.25 is what counts as a duplicate"
                )
            least = round(threshold.value, 4)
            stated = f"each of {threshold.n} train images to the closest other one, rank {threshold.rank}"
        return cls(space, space.embed(sources.images), sources, least, stated)

    def with_sources(self, sources: ImageSources) -> ChangeCheck:
        """The same check on images made from other sources."""
        return replace(self, rows=self.space.embed(sources.images), sources=sources)

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        distances = self.distances(images, labels, seeds)
        return [UNCHANGED if distance < self.least else None for distance in distances]

    def distances(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> np.ndarray:
        """Distance (n,) in [0, 2] of each image, in its nearest view, to its source."""
        own = self.rows[[self.sources.choose(*pair) for pair in zip(labels, seeds, strict=True)]]
        views = np.concatenate(list(self.space.views(images)))
        found: np.ndarray = np.linalg.norm(views - own[:, None], axis=2).min(1)
        return found

    @property
    def facts(self) -> dict[str, Any]:
        return {"space": SPACE, "least_distance_to_source": self.least, "from": self.least_from}


@dataclass(frozen=True)
class CopyCheck:
    """Is an image no copy of a train image?"""

    detector: CopyDetector

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        return self.detector.reasons(images)

    @property
    def facts(self) -> dict[str, Any]:
        return self.detector.describe()


class ClassCheck:
    """Does the classifier in a folder or on the Hub see the class that was asked for?

    Raises:
        ValueError: it cannot be loaded, or lacks a class of the generator.
    """

    def __init__(self, name: str, id2label: dict[int, str]):
        self.model, _ = load_image_classifier("--keep_if_class", name, best_device())
        self.classes = class_numbers("--keep_if_class", self.model, list(id2label.values()))
        self.facts = {"model": name, "weights_sha256": hash_weights(self.model)}

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        pairs = zip(predict(self.model, images).argmax(1), labels, strict=True)
        return [None if seen == self.classes[label] else OTHER_CLASS for seen, label in pairs]


@dataclass(frozen=True)
class ChecklistCheck:
    """Are enough of the items of the class met, of those that the judge is trusted with?"""

    judge: Judge
    least: Fraction
    refused: frozenset[str]
    names: dict[int, str]

    @classmethod
    def of(cls, args: KeepArguments, generator: Generator, seed: int) -> ChecklistCheck:
        """The check that the flags name.

        Where truth is known (checklist phantom-fundus), items on which the judge disagrees with it are left out.

        Raises:
            ValueError: judge or checklist cannot be had, or a class of the generator is not in it.
        """
        judge = load_judge(args.judge, args.judge_model, args.checklist)
        for name in generator.id2label.values():
            if name not in judge.checklist["conditions"]:
                raise ValueError(
                    f"--checklist {judge.checklist['name']} has no condition {name!r}, a class of --model; it has "
                    f"{', '.join(judge.checklist['conditions'])}"
                )
        with_form(args, generator)  # which refuses flags of another form
        refused = refused_items(judge, generator.form.side, generator.form.channels, seed)
        return cls(judge, parse_share(str(args.keep_if_checklist)), refused, generator.id2label)

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        answers = self.judge.judge_arrays(images, [self.names[label] for label in labels])
        return [self.reason(answer) for answer in answers]

    def reason(self, answer: Answer) -> str | None:
        """The reason of one image."""
        met = [is_met(score) for item, score in answer["scores"].items() if item not in self.refused]
        if answer.get("failure") or not met:
            return NO_ANSWER
        return None if Fraction(sum(met), len(met)) >= self.least else UNMET

    @property
    def facts(self) -> dict[str, Any]:
        return {**self.judge.identity(), "least_share": str(self.least), "refused": sorted(self.refused)}


def refused_items(judge: Judge, side: int, channels: int, seed: int) -> frozenset[str]:
    """The items with which the judge cannot be trusted on images of this resolution and number of channels."""
    if judge.checklist["name"] != "phantom-fundus":
        return frozenset()  # truth is known of phantoms alone
    found = calibrate(judge, side, channels, PER_GRADE, LEAST_KAPPA, seed)
    check_usable(judge, found["refused"], LEAST_KAPPA)
    return frozenset(found["refused"])


@dataclass(frozen=True)
class Keep:
    """The checks of a run by the name under which generation.json has them, in the order in which they are asked."""

    checks: dict[str, Check]

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Why each image, uint8 (n, channels, side, side), is drawn anew; None where it is kept."""
        reasons: list[str | None] = [None] * len(images)
        for check in self.checks.values():
            left = [i for i, reason in enumerate(reasons) if reason is None]
            if not left:
                break
            found = check(images[left], [labels[i] for i in left], [seeds[i] for i in left])
            for i, reason in zip(left, found, strict=True):
                reasons[i] = reason
        return reasons

    def with_sources(self, sources: ImageSources) -> Keep:
        """The same checks on images made from other sources."""
        change = self.checks["changed"]
        assert isinstance(change, ChangeCheck)  # there is one where there are sources
        return Keep({**self.checks, "changed": change.with_sources(sources)})

    @property
    def facts(self) -> dict[str, Any]:
        """What generation.json says of the checks."""
        found = {name: check.facts for name, check in self.checks.items()}
        copies = {name: found.pop(name) for name in ("reject_copies",) if name in found}
        return copies | ({"keep": found} if found else {})


def load_keep(args: KeepArguments, generator: Generator, sources: ImageSources | None, seed: int) -> Keep:
    """The checks that the flags ask for.

    Raises:
        ValueError: whatever is wrong with data set, judge or classifier.
    """
    checks: dict[str, Check] = {}
    if sources:
        checks["changed"] = ChangeCheck.of(sources, sources.images, args.least_change)
    if args.reject_copies:
        fixed = with_form(args, generator)
        train = to_arrays(load_image_dataset(fixed, seed)["train"], fixed.resolution, fixed.channels, args.fit)
        checks["reject_copies"] = CopyCheck(CopyDetector.of(train.images))
    if args.keep_if_class:
        checks["class"] = ClassCheck(args.keep_if_class, generator.id2label)
    if args.keep_if_checklist:
        checks["checklist"] = ChecklistCheck.of(args, generator, seed)
    return Keep(checks)


def choose_strengths(
    args: SourceArguments,
    generator: Generator,
    sources: ImageSources,
    keep: Keep,
    sampler: Callable[[ImageSources], Sample],
    made_by: dict[str, Any],
    path: Path,
) -> tuple[ImageSources, Keep]:
    """`sources` at the strength that was best for each class on validation images, and their checks; says what was
    tried. Arguments as of `sweep_strengths`."""
    id2label = generator.id2label
    validation = load_sources(args, generator, list(sources.of_class), made_by["seed"], "validation")
    made_by = made_by | keep.facts | {"image_to_image": validation.facts}
    found = sweep_strengths(path, args.swept, validation, sampler, keep.with_sources(validation), id2label, made_by)
    print("\n".join(strength_lines(found)))
    chosen = sources.with_strengths({label: found[id2label[label]]["chosen"] for label in sources.of_class}, id2label)
    return chosen, keep.with_sources(chosen)
