"""Score images against an expert checklist, item by item.

    clinsynth judge --checklist phantom-fundus --images runs/phantom-synthetic --judge measure \\
        --output_dir runs/judged
    clinsynth judge --checklist retinopathy --images runs/retina-synthetic --judge vlm \\
        --judge_model Qwen/Qwen2-VL-2B-Instruct --output_dir runs/judged-by-vlm

Writes Parquet rows (row, condition, share, items with score, reason and disagreement, failure), which
`datasets.load_dataset(folder)` reads, and judged.json: judge, checklist and its version, pass rates with intervals,
how many images got no scores and why, agreement of the judge with known truth.
A run that was stopped goes on when the same command is started again.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clinsynth.arguments import check_at_least, run
from clinsynth.judges.judges import check_judge
from clinsynth.models.writers import split_address
from clinsynth.run_folder import (
    atomic_write,
    check_same_run,
    check_unchanged,
    create_run_folder,
    read_json,
    write_run_config,
)

if TYPE_CHECKING:
    from datasets import Dataset

    from clinsynth.judges.checklists import Checklist
    from clinsynth.judges.protocol import Judge

MAY_DIFFER = frozenset("output_dir batch_size judge_endpoint send_real concurrency timeout_s".split())
SHARD_SIZE, SHARD_SIZE_OF_VLM = 500, 50
"""Rows of a file: a model that is asked in words takes seconds an image."""


@dataclass
class JudgeImagesArguments:
    """Score images against an expert checklist, item by item.

    Start the same command again to resume. Example:

      clinsynth judge --images runs/phantom-synthetic --judge measure --output_dir runs/judged
    """

    essentials: ClassVar[str] = "images checklist judge judge_model judge_endpoint send_real output_dir split seed"

    images: str = ""
    """folder that `clinsynth generate images` wrote, or any spec that --dataset of `clinsynth train ddpm` takes"""
    split: str = "train"
    """split of --images; synthetic sets have train alone"""
    checklist: str = "phantom-fundus"
    """name of a checklist that comes with clinsynth, or a .yaml file"""
    judge: str = "measure"
    """measure: counts what the items name (phantom-fundus alone). classifier: is the class that it sees the condition
    asked for? clip: is an item's statement nearer to the image than its negation? vlm: a model that sees and writes
    answers every item by 1 or 0 and a short reason. expert: looks up what experts said"""
    judge_model: str | None = None
    """classifier: folder or Hub id of an image classifier trained on real images; clip: of an image-text model
    (CLIP, SigLIP); vlm: of an image-text-to-text model, or with --judge_endpoint the name by which the server knows
    it; expert: scores.parquet or scores.csv of the Space's Review tab, or a table with columns sample_id (or row),
    item_id, score and rater"""
    judge_endpoint: str | None = None
    """vlm: a server of the OpenAI chat protocol that runs the model instead, as http://127.0.0.1:8000/v1; its key is
    taken from the environment: HF_TOKEN for huggingface.co alone, else OPENAI_API_KEY"""
    send_real: str | None = None
    """who allowed, and why, that images which may be of patients go to a --judge_endpoint that is not this machine;
    without these words only synthetic ones do: drawn, of `clinsynth generate images`, or with a column synthetic"""
    concurrency: int = 8
    """requests that wait at --judge_endpoint at once"""
    timeout_s: float = 120.0
    """seconds after which a request to --judge_endpoint has failed"""
    trust_remote_code: bool = False
    """run the code that comes with a vlm"""
    output_dir: str = "runs/judged"
    """where the scores and judged.json go"""
    calibration_pictures: int = 60
    """drawn images of each condition whose known truth the judge's answers are compared with; 0: no comparison"""
    least_kappa: float = 0.6
    """items on which judge and truth agree less (Cohen's kappa) do not count for passing"""
    batch_size: int = 64
    """pictures judged together; a vlm here reads 8 of them at once"""
    shard_size: int | None = None
    """rows of a Parquet file: what a killed run loses at most; default: 500, of a vlm 50"""
    seed: int = 0
    """of the drawn images"""

    def __post_init__(self) -> None:
        if not self.images:
            raise ValueError("--images is missing; give the folder of a synthetic data set, or phantom-fundus")
        check_judge("judge", self.judge, self.judge_model)
        self.check_endpoint()
        if self.shard_size is None:
            self.shard_size = SHARD_SIZE_OF_VLM if self.judge == "vlm" else SHARD_SIZE
        check_at_least(self, 0, ["calibration_pictures", "seed"])
        check_at_least(self, 1, ["batch_size", "shard_size", "concurrency"])
        if not -1 <= self.least_kappa <= 1:
            raise ValueError(f"--least_kappa must be in [-1, 1], got {self.least_kappa}; 0.6 is substantial agreement")

    def check_endpoint(self) -> None:
        """Raise a `ValueError` for flags of an endpoint that do not fit."""
        if self.judge_endpoint and self.judge != "vlm":
            raise ValueError(f"--judge_endpoint is for --judge vlm, not {self.judge}; leave one of the two out")
        if self.judge_endpoint:
            split_address(self.judge_endpoint, "--judge_endpoint")
        if self.send_real is not None and len(self.send_real.split()) < 2:
            raise ValueError(
                f"--send_real must say in words who allowed it and why, got {self.send_real!r}; write a sentence"
            )
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"--timeout_s must be above 0 and finite, got {self.timeout_s}; give 120")


def main(args: JudgeImagesArguments) -> None:
    """Judge, write the scores and judged.json, print the pass rates."""
    import json

    from clinsynth.judges.checklists import load_checklist
    from clinsynth.judges.scores import score_summary, write_scores

    rows = read_rows(args.images, args.split, load_checklist(args.checklist))
    output_dir = create_run_folder(args.output_dir)
    check_same_run(output_dir, args, MAY_DIFFER)
    judge = open_judge(args, rows)
    identity = judge.identity()
    check_unchanged(output_dir, read_json(output_dir / "judge.json"), identity)
    atomic_write(output_dir / "judge.json", json.dumps(identity, indent=1) + "\n")
    write_run_config(output_dir, args)
    calibration = calibrated(args, judge, rows, output_dir)
    paths = write_scores(judge, rows, output_dir, args.shard_size or SHARD_SIZE, args.batch_size)
    judged = {
        **identity,
        "images": args.images,
        "split": args.split,
        "endpoint": args.judge_endpoint,
        "send_real": args.send_real,
        "n": len(rows),
        **score_summary(paths, judge.refused),
        "calibration": calibration,
    }
    atomic_write(output_dir / "judged.json", json.dumps(judged, indent=1) + "\n")
    print_rates(judged)
    print(f"scores: {output_dir}")


def open_judge(args: JudgeImagesArguments, rows: "Dataset") -> "Judge":
    """The judge that the flags name, which may have the images of `rows`."""
    from clinsynth.judges.judges import load_judge
    from clinsynth.judges.vlm import check_may_leave

    if args.judge_endpoint:
        check_may_leave(args.judge_endpoint, args.images, rows, args.send_real)
    return load_judge(
        args.judge,
        args.judge_model,
        args.checklist,
        endpoint=args.judge_endpoint,
        trust_remote_code=args.trust_remote_code,
        concurrency=args.concurrency,
        timeout_s=args.timeout_s,
    )


def print_rates(judged: dict[str, Any]) -> None:
    """Agreement with the truth, where it is known, images without scores, and the pass rate of each condition."""
    from clinsynth.judges.calibration import kappa_table
    from clinsynth.judges.scores import reasons_text

    if judged["calibration"]:
        print(kappa_table(judged["calibration"]))
    if judged["unscored"]["n"]:
        print(f"without scores: {judged['unscored']['n']} of {judged['n']} ({reasons_text(judged['unscored'])})")
    for condition, record in judged["conditions"].items():
        passed, (low, high) = record["passed"], record["passed"]["interval"]
        print(f"{condition}: {passed['value']:.1%} pass ({low:.1%} to {high:.1%}, n {passed['n']})")


def read_rows(images: str, split: str, checklist: "Checklist") -> "Dataset":
    """The `datasets.Dataset` to judge, with columns image and label.

    Raises:
        ValueError: no such split, or classes that the checklist does not have.
    """
    from clinsynth.data.arguments import ImageDataArguments
    from clinsynth.data.images import read_splits
    from clinsynth.data.labels import with_class_labels

    try:
        splits = read_splits(ImageDataArguments(dataset=images))
    except ValueError as error:
        raise ValueError(str(error).replace("--dataset", "--images")) from error
    if split not in splits:
        raise ValueError(f"--images {images} has no split {split!r}; it has {', '.join(splits)}: give --split")
    rows = with_class_labels({"train": splits[split]}, "label", None)["train"]
    unknown = [name for name in rows.features["label"].names if name not in checklist.conditions]
    if unknown:
        raise ValueError(
            f"--images {images} has the class {unknown[0]!r}, which is no condition of --checklist "
            f"{checklist.name}; it has {', '.join(checklist.conditions)}"
        )
    return rows


def calibrated(args: JudgeImagesArguments, judge: "Judge", rows: "Dataset", output_dir: Path) -> dict[str, Any] | None:
    """The judge's agreement with phantoms of the size and mode of the images to judge, kept in calibration.json.

    Raises:
        ValueError: a condition has no item with which the judge can be trusted.
    """
    from clinsynth.judges.calibration import calibrate_once, check_usable, truth_is_known

    if args.calibration_pictures == 0 or not truth_is_known(judge):
        return None
    first = rows[0]["image"]
    form = (first.size[0], 1 if first.mode == "L" else 3)
    path = output_dir / "calibration.json"
    found = calibrate_once(path, judge, *form, args.calibration_pictures, args.least_kappa, args.seed)
    check_usable(judge, judge.refused, args.least_kappa)
    return found


if __name__ == "__main__":
    run(JudgeImagesArguments, main)
