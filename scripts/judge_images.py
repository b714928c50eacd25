"""Score pictures against an expert checklist, item by item.

    clinsynth judge --checklist phantom-fundus --images runs/phantom-synthetic --judge measure \\
        --output_dir runs/judged
    clinsynth judge --checklist phantom-fundus --images runs/phantom-synthetic --judge classifier \\
        --judge_model runs/control/best-real --output_dir runs/judged-by-classifier

Writes Parquet rows (row, condition, share, items with score and reason), which `datasets.load_dataset(folder)` reads,
and judged.json: judge, checklist and its version, pass rates with intervals, agreement of the judge with known truth.
A run that was stopped goes on when the same command is started again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinsynth.arguments import run
from clinsynth.run_folder import atomic_write, check_same_run, create_run_folder, write_run_config
from clinsynth.scripts.judges import check_judge

MAY_DIFFER = frozenset({"output_dir", "batch_size"})


@dataclass
class JudgeImagesArguments:
    """Score pictures against an expert checklist, item by item.

    Start the same command again to resume. Example:

      clinsynth judge --images runs/phantom-synthetic --judge measure --output_dir runs/judged
    """

    images: str = ""
    """folder that `clinsynth generate images` wrote, or any spec that --dataset of `clinsynth train ddpm` takes"""
    split: str = "train"
    """split of --images; synthetic sets have train alone"""
    checklist: str = "phantom-fundus"
    """name of a checklist that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """measure: counts what the items name; classifier: is the class that it sees the condition asked for"""
    judge_model: str | None = None
    """classifier: folder or Hub id of an image classifier trained on real pictures"""
    output_dir: str = "runs/judged"
    """where the scores and judged.json go"""
    calibration_pictures: int = 60
    """drawn pictures of each condition whose known truth the judge's answers are compared with; 0: no comparison"""
    least_kappa: float = 0.6
    """items on which judge and truth agree less (Cohen's kappa) do not count for passing"""
    batch_size: int = 64
    """pictures judged together"""
    shard_size: int = 500
    """rows of a Parquet file: what a killed run loses at most"""
    seed: int = 0
    """of the drawn pictures"""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("--images is missing; give the folder of a synthetic data set, or phantom-fundus")
        check_judge("judge", self.judge, self.judge_model)
        for name, lowest in (("calibration_pictures", 0), ("batch_size", 1), ("shard_size", 1), ("seed", 0)):
            if getattr(self, name) < lowest:
                raise ValueError(f"--{name} must be at least {lowest}, got {getattr(self, name)}")
        if not -1 <= self.least_kappa <= 1:
            raise ValueError(f"--least_kappa must be in [-1, 1], got {self.least_kappa}; 0.6 is substantial agreement")


def main(args: JudgeImagesArguments) -> None:
    """Judge, write the scores and judged.json, print the pass rates."""
    import json

    from clinsynth.scripts.judge_calibration import table
    from clinsynth.scripts.judge_shards import summarize, write_scores
    from clinsynth.scripts.judges import describe_judge, load_judge

    judge = load_judge(args.judge, args.judge_model, args.checklist)
    rows = read_rows(args.images, args.split, judge)
    output_dir = create_run_folder(args.output_dir)
    check_same_run(output_dir, args, MAY_DIFFER)
    write_run_config(output_dir, args)
    calibration = calibration_of(args, judge, rows, output_dir)
    paths = write_scores(judge, rows, output_dir, args.shard_size, args.batch_size)
    refused = frozenset(calibration["refused"]) if calibration else frozenset()
    judged = {
        **describe_judge(judge, args.judge_model),
        "images": args.images,
        "split": args.split,
        "n": len(rows),
        **summarize(paths, refused),
        "calibration": calibration,
    }
    atomic_write(output_dir / "judged.json", json.dumps(judged, indent=1) + "\n")
    if calibration:
        print(table(calibration))
    for condition, record in judged["conditions"].items():
        low, high = record["passed"]["interval"]
        print(
            f"{condition}: {record['passed']['value']:.1%} pass ({low:.1%} to {high:.1%}, n {record['passed']['n']})"
        )
    print(f"scores: {output_dir}")


def read_rows(images: str, split: str, judge: Any) -> Any:
    """The `datasets.Dataset` to judge, with columns image and label.

    Raises:
        ValueError: no such split, or classes that the checklist does not have.
    """
    from clinsynth.data.arguments import ImageDataArguments
    from clinsynth.data.labels import with_class_labels
    from clinsynth.data.load import read_splits

    splits = read_splits(ImageDataArguments(dataset=images))
    if split not in splits:
        raise ValueError(f"--images {images} has no split {split!r}; it has {', '.join(splits)}: give --split")
    rows = with_class_labels({"train": splits[split]}, "label", None)["train"]
    unknown = [name for name in rows.features["label"].names if name not in judge.checklist["conditions"]]
    if unknown:
        raise ValueError(
            f"--images {images} has the class {unknown[0]!r}, which is no condition of --checklist "
            f"{judge.checklist['name']}; it has {', '.join(judge.checklist['conditions'])}"
        )
    return rows


def calibration_of(args: JudgeImagesArguments, judge: Any, rows: Any, output_dir: Path) -> dict[str, Any] | None:
    """The judge's agreement with drawn pictures of the size and mode of those to judge, kept in calibration.json."""
    import json

    from clinsynth.scripts.judge_calibration import calibrate

    path = output_dir / "calibration.json"
    if args.calibration_pictures == 0 or judge.checklist["name"] != "phantom-fundus":
        return None  # truth is known of drawn pictures alone
    if not path.exists():
        first = rows[0]["image"]
        channels = 1 if first.mode == "L" else 3
        found = calibrate(judge, first.size[0], channels, args.calibration_pictures, args.least_kappa, args.seed)
        atomic_write(path, json.dumps(found, indent=1) + "\n")
    known: dict[str, Any] = json.loads(path.read_text())
    return known


if __name__ == "__main__":
    run(JudgeImagesArguments, main)
