"""A blinded review: samples of a synthetic set and, where there is one, a real set, mixed beyond recognition.

Who reviews the same sets with the same checklist, number and seed takes part in the same session.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace

import limits
import numpy as np
from PIL import Image
from sets import LabelledSet, check_same_kind, open_image

from clinsynth.images import to_png
from clinsynth.judges.checklists import Checklist, sample_id

MEMORY = 256 << 20
SHOWN_SIDE = 448
QUICK = 1  # compression of a PNG file that is shown once


@dataclass(frozen=True)
class Sample:
    """One image (as PNG bytes without metadata) or text; `source`, real or synthetic, is never shown."""

    id: str
    condition: str
    source: str
    content: bytes | str


@dataclass(frozen=True)
class Session:
    """What is reviewed; `notes` say what was changed or left out."""

    id: str
    checklist: Checklist
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]

    def order(self, rater: str) -> list[Sample]:
        """The samples in an order of the rater's own, always the same."""
        seed = int(hashlib.sha256(f"{self.id} {rater}".encode()).hexdigest()[:16], 16)
        return [self.samples[i] for i in np.random.default_rng(seed).permutation(len(self.samples))]

    def size(self) -> int:
        """Bytes of all contents."""
        return sum(len(sample.content) for sample in self.samples)


LABEL_ONLY = "none: does it show its label?"
"""In the place of a checklist: one question, which any set can be asked."""


def label_checklist(labels: list[str]) -> Checklist:
    """One item for each label: whether a sample shows what its label says."""
    item = {"id": "shows_label", "aspect": "other", "question": "Does it show its label?"}
    conditions = {label: [item | {"criterion": f"What is seen or read is {label}."}] for label in sorted(set(labels))}
    about = {"title": "No checklist", "modality": "any", "source": "the labels of the sets"}
    return Checklist.model_validate({"name": "label-only", "version": 1, **about, "conditions": conditions})


class Sessions:
    """Sessions in memory, at most MEMORY bytes: those not used for the longest time go first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, Session] = OrderedDict()

    def add(self, session: Session) -> None:
        """Keep it, and drop old ones where there is no room."""
        self.kept[session.id] = session
        self.kept.move_to_end(session.id)
        while len(self.kept) > 1 and sum(kept.size() for kept in self.kept.values()) > MEMORY:
            self.kept.popitem(last=False)

    def get(self, session_id: str) -> Session:
        """Raises a `ValueError` where it is gone."""
        if session_id not in self.kept:
            raise ValueError(
                "this review is no longer in memory; start it again with the same sets, number and seed: the scores "
                "are kept"
            )
        self.kept.move_to_end(session_id)
        return self.kept[session_id]


def draw_session(
    checklist: Checklist, synthetic: LabelledSet, real: LabelledSet | None, number: float, seed: float
) -> Session:
    """Draw `number` samples by `seed`; with a real set half of them are real, with the same mix of conditions.

    Raises:
        ValueError: images against texts, no condition of the checklist in the sets, or a number that is out of range.
    """
    number = limits.whole_number("the number of samples", number, 2, limits.MOST_REVIEWED)
    seed = limits.whole_number("the seed", seed, 0, limits.MOST_SEED)
    sets = {"synthetic": synthetic} if real is None else {"synthetic": synthetic, "real": real}
    if real:
        check_same_kind(synthetic, real)
    notes = [note for name, chosen in sets.items() for note in unknown_labels(name, chosen, checklist)]
    counts = draw_conditions(sets, checklist, number, np.random.default_rng([seed, 0]))
    samples: list[Sample] = []
    for position, (source, chosen) in enumerate(sets.items()):
        samples += draw_samples(source, chosen, counts, np.random.default_rng([seed, 1 + position]))
    samples, doubled = without_doubled(samples)
    if doubled:
        notes.append(f"{doubled} samples left out, since they are there more than once")
    if synthetic.kind == "image":
        samples, changed = made_alike(samples)
        notes += changed
    if len(samples) < number:
        notes.append(f"only {len(samples)} samples, since the sets hold no more that can be compared")
    return Session(session_id(checklist, samples), checklist, tuple(samples), tuple(notes))


def unknown_labels(name: str, chosen: LabelledSet, checklist: Checklist) -> list[str]:
    unknown = Counter(label for label in chosen.labels if label not in checklist.conditions)
    if not unknown:
        return []
    return [f"{unknown.total()} {name} samples left out: the checklist has no condition {', '.join(sorted(unknown))}"]


def draw_conditions(
    sets: dict[str, LabelledSet], checklist: Checklist, number: int, generator: np.random.Generator
) -> Counter[str]:
    """How many samples of each condition to draw from every set; a condition tells nothing of the source."""
    counts = [Counter(chosen.labels) for chosen in sets.values()]
    possible = [
        condition
        for condition in checklist.conditions
        for _ in range(min(count.get(condition, 0) for count in counts))
    ]
    if not possible:
        raise ValueError(
            f"no sample can be reviewed: the sets have the classes "
            f"{', '.join(sorted({label for chosen in sets.values() for label in chosen.labels})[:20])}, the checklist "
            f"{checklist.name} the conditions {', '.join(checklist.conditions)}; every set must have one of these: "
            "rename the classes, or take another checklist"
        )
    taken = generator.permutation(len(possible))[: max(1, number // len(sets))]
    return Counter(possible[i] for i in taken)


def draw_samples(
    source: str, chosen: LabelledSet, counts: Counter[str], generator: np.random.Generator
) -> list[Sample]:
    labels = np.array(chosen.labels)
    samples = []
    for condition, count in sorted(counts.items()):
        for row in generator.choice(np.flatnonzero(labels == condition), size=count, replace=False):
            content = chosen.contents[row]
            if isinstance(content, str):
                samples.append(Sample(sample_id(content), condition, source, content))
            else:
                image = open_image(content, f"{chosen.name}, sample {row + 1},")
                samples.append(Sample(sample_id(image), condition, source, to_png(image, QUICK)))
    return samples


def without_doubled(samples: list[Sample]) -> tuple[list[Sample], int]:
    """The samples whose content is there once; what is both real and synthetic has no right answer."""
    times = Counter(sample.id for sample in samples)
    kept = [sample for sample in samples if times[sample.id] == 1]
    if not kept:
        raise ValueError("all samples are there more than once, as if both sets were the same; give another set")
    return kept, len(samples) - len(kept)


def made_alike(samples: list[Sample]) -> tuple[list[Sample], list[str]]:
    """The images at one size and mode, the smallest and simplest there is, since these tell sources apart."""
    images = [Image.open(io.BytesIO(sample.content)) for sample in samples]  # type: ignore[arg-type]
    side = min(max(image.size) for image in images)
    mode = "L" if any(image.mode == "L" for image in images) else "RGB"
    reduced = sum(max(image.size) > side for image in images)
    greyed = sum(image.mode != mode for image in images)
    notes = [f"{reduced} images reduced to {side} pixels"] if reduced else []
    notes += [f"{greyed} images turned grey"] if greyed else []
    if not notes:
        return samples, []
    alike = [
        replace(sample, content=to_png(reduce_to(image.convert(mode), side), QUICK))
        for sample, image in zip(samples, images, strict=True)
    ]
    return alike, [f"{', '.join(notes)}, so that size and colour do not tell the source"]


def reduce_to(image: Image.Image, side: int) -> Image.Image:
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image if factor == 1 else image.resize(size, Image.Resampling.BICUBIC)


def shown_image(content: bytes) -> Image.Image:
    """The image enlarged by a whole factor, without smoothing, to at least SHOWN_SIDE pixels."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    factor = max(1, -(-SHOWN_SIDE // max(image.size)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def session_id(checklist: Checklist, samples: list[Sample]) -> str:
    """16 hexadecimal digits of what is reviewed against what."""
    parts = sorted(f"{sample.id} {sample.condition} {sample.source}" for sample in samples)
    text = "\n".join([f"{checklist.name} {checklist.version}", *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
