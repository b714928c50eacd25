"""Checks of generated pictures: each gives a picture None, or the reason why it is drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clinsynth.data.arguments import ImageDataArguments
from clinsynth.judges.judges import check_judge
from clinsynth.synthesis.image_sources import ImageSources, drawn_form, load_sources

if TYPE_CHECKING:
    from clinsynth.judges.protocol import Answer, Judge
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
        from clinsynth.models.classifiers import class_numbers
        from clinsynth.models.image_classifiers import load_image_classifier
        from clinsynth.models.weights import best_device

        model, _ = load_image_classifier("--keep_if_class", name, best_device())
        return cls(model, class_numbers("--keep_if_class", model, list(id2label.values())), name)

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Reasons of pictures."""
        from clinsynth.models.image_classifiers import predict

        seen = predict(self.model, images).argmax(1)
        return [
            None if number == self.classes[label] else OTHER_CLASS for number, label in zip(seen, labels, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        from clinsynth.models.weights import hash_weights

        return {"model": self.name, "weights_sha256": hash_weights(self.model)}


@dataclass(frozen=True)
class ChecklistCheck:
    """Are enough of the items of the class met, of those that the judge is trusted with?"""

    judge: Judge
    least: Fraction
    refused: frozenset[str]
    names: dict[int, str]

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
        return cls(judge, parse_share(str(args.keep_if_checklist)), refused, pipeline.id2label)

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Reasons of pictures."""
        answers = self.judge.judge_arrays(images, [self.names[label] for label in labels])
        return [self.reason(answer) for answer in answers]

    def reason(self, answer: Answer) -> str | None:
        """The reason of one picture."""
        from clinsynth.judges.protocol import is_met

        met = [is_met(score) for item, score in answer["scores"].items() if item not in self.refused]
        if answer.get("failure") or not met:
            return NO_ANSWER
        return None if Fraction(sum(met), len(met)) >= self.least else UNMET

    def describe(self) -> dict[str, Any]:
        return {**self.judge.identity(), "least_share": str(self.least), "refused": sorted(self.refused)}


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


SampleFrom = Callable[[ImageSources], Any]
"""From sources to the function from labels and seeds to pictures."""


@dataclass
class KeepArguments(ImageDataArguments):
    """Which generated pictures are kept."""

    reject_copies: bool = False
    """draw an image anew while it is an exact or near copy of a train image of --dataset"""
    keep_if_checklist: str | None = None
    """draw an image anew while fewer of its class's checklist items are met: 4/5, or as a share 0.8, of the items that
    the judge is trusted with"""
    checklist: str = "phantom-fundus"
    """--keep_if_checklist: name of a checklist that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """--keep_if_checklist: who answers the items, a judge of `clinsynth judge` on this machine"""
    judge_model: str | None = None
    """--keep_if_checklist: the judge's model, folder or Hub id, where it has one"""
    keep_if_class: str | None = None
    """draw an image anew while this image classifier, a folder or Hub id, sees another class in it"""
    least_change: float | None = None
    """--from_images: draw an image anew while it is nearer to its source, a distance of 0 to 2 between thumbnails;
    default: as near as only one in 200 train pictures comes to another one"""
    most_draws: int = 10
    """draws of an image, after which its row is given up"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep_if_checklist is not None:
            parse_share(self.keep_if_checklist)
            check_judge("judge", self.judge, self.judge_model)
            if self.judge == "expert":
                raise ValueError("--judge expert knows only pictures that there are; take another for new ones")
        if self.least_change is not None and not 0 <= self.least_change <= 2:
            raise ValueError(f"--least_change must be in [0, 2], got {self.least_change}; 0 keeps unchanged pictures")
        if self.most_draws < 1:
            raise ValueError(f"--most_draws must be at least 1, got {self.most_draws}")


def parse_share(text: str) -> Fraction:
    """`"4/5"` or `"0.8"` to 4/5.

    Raises:
        ValueError: it is neither, or not in (0, 1].
    """
    try:
        share = Fraction(str(text).replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise ValueError(
            f"--keep_if_checklist must be M/N or a share in (0, 1], got {text!r}; 4/5 is four of five items"
        )
    return share


@dataclass(frozen=True)
class Keep:
    """The checks of a run by the name under which generation.json has them, in the order in which they are asked."""

    checks: dict[str, Any]

    def __call__(self, images: np.ndarray, labels: list[int], seeds: list[int]) -> list[str | None]:
        """Why each picture, uint8 (n, channels, side, side), is drawn anew; None where it is kept."""
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
        """The same checks on pictures made from other sources."""
        change = self.checks["changed"].with_sources(sources)
        return Keep({**self.checks, "changed": change})

    @property
    def facts(self) -> dict[str, Any]:
        """What generation.json says of the checks."""
        found = {name: check.describe() for name, check in self.checks.items()}
        copies = {name: found.pop(name) for name in ("reject_copies",) if name in found}
        return copies | ({"keep": found} if found else {})


def sources_and_checks(
    args: GenerateImagesArguments,
    pipeline: Any,
    labels: list[int],
    output_dir: Path,
    sample_from: SampleFrom,
    generator: dict[str, Any],
) -> tuple[Any, Any]:
    """The sources of --from_images, None without it, and the checks that the flags ask for.

    Raises:
        ValueError: --from_images with a GAN, or whatever is wrong with data set, judge or classifier.
    """

    if args.from_images and "unet" not in pipeline.components:
        raise ValueError(f"--from_images needs a diffusion model, but --model {args.model} is a GAN; leave it out")
    sources = load_sources(args, pipeline, labels) if args.from_images else None
    checks: dict[str, Any] = {}
    if sources:
        checks["changed"] = ChangeCheck.of(sources, sources.images, args.least_change)
    if args.reject_copies:
        checks["reject_copies"] = CopyCheck(fit_detector(args, pipeline))
    if args.keep_if_class:
        checks["class"] = ClassCheck.of(args.keep_if_class, pipeline.id2label)
    if args.keep_if_checklist:
        checks["checklist"] = ChecklistCheck.of(args, pipeline)
    keep = Keep(checks)
    if sources and args.swept:
        sources = choose_strengths(args, pipeline, labels, sources, keep, output_dir, sample_from, generator)
        keep = keep.with_sources(sources)
    return sources, keep


def choose_strengths(
    args: GenerateImagesArguments,
    pipeline: Any,
    labels: list[int],
    sources: Any,
    keep: Any,
    output_dir: Path,
    sample_from: SampleFrom,
    generator: dict[str, Any],
) -> Any:
    """`sources` at the strength that was best for each class on validation pictures; says what was tried."""
    from clinsynth.synthesis.image_sources import lines, sweep_strengths

    validation = load_sources(args, pipeline, labels, "validation")
    found = sweep_strengths(
        output_dir / "strengths.json",
        args.swept,
        validation,
        sample_from,
        keep.with_sources(validation),
        pipeline.id2label,
        generator | keep.facts | {"image_to_image": validation.facts},
    )
    print("\n".join(lines(found)))
    chosen = {label: found[pipeline.id2label[label]]["chosen"] for label in sources.of_class}
    return sources.with_strengths(chosen, pipeline.id2label)


def fit_detector(args: GenerateImagesArguments, pipeline: Any) -> Any:
    """The detector of copies of the real train split, brought to the size and channels that the model draws.

    Raises:
        ValueError: --resolution or --channels ask for others, or there are too few pictures.
    """
    from clinsynth.data.images import load_image_dataset, to_arrays
    from clinsynth.metrics.privacy.copies import CopyDetector

    form = drawn_form(args, pipeline)
    train = load_image_dataset(replace(args, **form), args.seed)["train"]
    return CopyDetector.of(to_arrays(train, form["resolution"], form["channels"], args.fit).images)
