"""Which generated pictures are kept: changed, no copies, and what a classifier and an expert checklist confirm.

Each check gives a picture None, or the reason why it is drawn anew. They are asked in turn, the cheap ones first, and
only about pictures that the ones before let pass.
"""

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
    from clinsynth.scripts.generate_images import GenerateImagesArguments

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
    from clinsynth.synthesis.image_checks import ChangeCheck, ChecklistCheck, ClassCheck, CopyCheck

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
    from clinsynth.synthesis.strength_sweep import lines, sweep_strengths

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
    from clinsynth.data.images import to_arrays
    from clinsynth.data.load import load_image_dataset
    from clinsynth.metrics.privacy.copy_detector import CopyDetector

    form = drawn_form(args, pipeline)
    train = load_image_dataset(replace(args, **form), args.seed)["train"]
    return CopyDetector.of(to_arrays(train, form["resolution"], form["channels"], args.fit).images)
