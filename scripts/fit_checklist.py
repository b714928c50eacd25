"""Write a checklist whose items are measured: of every class the range that most of its real train images lie in.

clinsynth fit checklist --dataset ham10000 --resolution 64 --output_file my-dermatoscopy.yaml
clinsynth judge --checklist my-dermatoscopy.yaml --judge measure --images runs/derm-synthetic

What an expert would call asymmetric is a matter of opinion, how asymmetric the real images of a class are is not.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from clinsynth.arguments import run
from clinsynth.data.arguments import ImageDataArguments

if TYPE_CHECKING:
    from clinsynth.data.images import ImageArrays
    from clinsynth.judges.protocol import Answer, Judge
    from clinsynth.pipelines.checklist_judge.measuring_model import Measure

WORDS = {
    "area": ("location", "Does the lesion take up {low} to {high} % of the image?"),
    "asymmetry": ("shape_size", "Do {low} to {high} % of the lesion lack a counterpart when it is mirrored?"),
    "border": ("shape_size", "Is perimeter² / (4π area) {low} to {high} tenths, where 10 is a disc?"),
    "colours": ("colour", "Does the lesion show {low} to {high} of the six colours of dermatoscopy?"),
    "darkness": ("colour", "Is the lesion {low} to {high} % darker than the skin?"),
    "red": ("colour", "Is the share of red in its colour {low} to {high} %?"),
    "blue": ("colour", "Is the share of blue in its colour {low} to {high} %?"),
}
"""Of each quantity the aspect of a checklist's item and its question."""


@dataclass
class FitChecklistArguments(ImageDataArguments):
    """Write a checklist whose items are measured limits: of each class the middle range of its real train images.

    Prints how many items the validation images of a class meet, of their own class and of the others. Example:

      clinsynth fit checklist --dataset ham10000 --resolution 64 --output_file my-dermatoscopy.yaml
    """

    essentials: ClassVar[str] = "dataset name output_file low high resolution channels"

    channels: int | None = 3
    """colours are measured"""
    name: str = "dermatoscopy-measured"
    """name of the checklist: dermatoscopy-measured, alone or with a suffix, as dermatoscopy-measured-clinic"""
    low: float = 10.0
    """percentile of a class's train images that is the lower limit"""
    high: float = 90.0
    """percentile that is the upper limit"""
    output_file: str = "dermatoscopy-measured.yaml"
    """the checklist; one that is there already is not overwritten"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"--low and --high must be percentiles, low below high, got {self.low} and {self.high}")
        if Path(self.output_file).exists():
            raise ValueError(f"--output_file {self.output_file} is there already; give another name or remove it")


def main(args: FitChecklistArguments) -> None:
    """Measure, write the checklist, and print how well it tells classes apart."""
    import yaml

    from clinsynth.data.images import load_image_arrays
    from clinsynth.judges.judges import load_judge
    from clinsynth.pipelines.checklist_judge.measuring_model import measure_of
    from clinsynth.run_folder import atomic_write, create_run_folder

    measure, quantities = measure_of({"name": args.name})
    if unknown := [quantity for quantity in quantities if quantity not in WORDS]:
        raise ValueError(f"--name {args.name}: limits of {unknown[0]} are not fitted; take dermatoscopy-measured")
    create_run_folder(Path(args.output_file).parent, "output_file")
    splits = load_image_arrays(args)
    train, names = splits["train"], splits["train"].label_names
    measured = measure_all(measure, quantities, train)
    conditions = {
        name: list(items_of(quantities, measured[train.labels == label], args)) for label, name in enumerate(names)
    }
    checklist = {
        "name": args.name,
        "version": 1,
        "title": f"Measured limits of {', '.join(names)}",
        "modality": f"colour dermatoscopic photograph, {train.images.shape[-1]} pixels",
        "source": f"percentiles {args.low:g} to {args.high:g} of the train images of {Path(args.dataset).name}",
        "signed": [],
        "conditions": conditions,
    }
    text = yaml.safe_dump(checklist, sort_keys=False, allow_unicode=True, width=119)
    atomic_write(Path(args.output_file), text)
    print(f"checklist: {args.output_file}")
    print(to_table(load_judge("measure", None, args.output_file), splits["validation"], names))


def measure_all(measure: "Measure", quantities: tuple[str, ...], images: "ImageArrays") -> np.ndarray:
    """The quantities of all images, int64 (n, quantities)."""
    from tqdm.auto import tqdm

    rows = tqdm(images.images.transpose(0, 2, 3, 1), desc="measure", unit="image")
    return np.array([[found[name] for name in quantities] for found in map(measure, rows)])


def items_of(
    quantities: tuple[str, ...], measured: np.ndarray, args: FitChecklistArguments
) -> Iterator[dict[str, Any]]:
    """The items of one class from what its images measure, int64 (n, quantities)."""
    limits = np.percentile(measured, [args.low, args.high], axis=0)
    for quantity, low, high in zip(quantities, np.floor(limits[0]), np.ceil(limits[1]), strict=True):
        aspect, question = WORDS[quantity]
        yield {
            "id": f"{quantity}_{low:.0f}_to_{high:.0f}",
            "aspect": aspect,
            "question": question.format(low=int(low), high=int(high)),
            "criterion": "Measured, not seen: the range in which most real images of this class lie.",
        }


def to_table(judge: "Judge", images: "ImageArrays", names: list[str]) -> str:
    """Mean share of items that images of each class meet, of their own condition and of the others."""
    lines = [f"{'validation images of':<24}{'n':>6}{'own items':>12}{'items of others':>18}"]
    for label, name in enumerate(names):
        chosen = images.images[images.labels == label]
        shares = {c: mean_share(judge.judge_arrays(chosen, [c] * len(chosen))) for c in names}
        others = np.mean([share for condition, share in shares.items() if condition != name])
        lines.append(f"{name:<24}{len(chosen):>6}{shares[name]:>12.3f}{others:>18.3f}")
    return "\n".join(lines)


def mean_share(answers: "list[Answer]") -> float:
    """Of measured answers, which all have a share."""
    return float(np.mean([answer["share"] for answer in answers]))


if __name__ == "__main__":
    run(FitChecklistArguments, main)
