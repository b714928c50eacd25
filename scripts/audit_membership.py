"""Attack a checkpoint: can the images it was trained on be told from held-out ones by its denoising loss?

    clinsynth audit membership --model runs/phantom --dataset phantom-fundus --output_dir runs/phantom-audit
    python scripts/audit_membership.py --model runs/retina --dataset retinamnist.npz --output_dir runs/retina-audit

Give the data flags and the seed of the training run: the members are the train split that it saw, the non-members the
test split. Writes membership.json: area under the ROC curve with interval (0.5 is ideal), the share of members found
at 1 % and 5 % false alarms, n, and two controls.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from clinsynth.arguments import check_at_least, run
from clinsynth.data.arguments import ImageDataArguments

OF_TRAINING = ("dataset", "train_fraction", "few_shot", "fit", "label_column", "label_names", "seed")


@dataclass
class AttackMembershipArguments(ImageDataArguments):
    """Attack a checkpoint of `clinsynth train ddpm`: does it give away which images it was trained on?

    Give the data flags and the seed of the training run. Example:

      clinsynth audit membership --model runs/phantom --dataset phantom-fundus --output_dir runs/phantom-audit
    """

    essentials: ClassVar[str] = "model dataset output_dir max_rows noises seed"

    model: str = ""
    """folder or Hub id of the checkpoint"""
    output_dir: str = "runs/audit"
    """where membership.json goes"""
    noises: int = 3
    """noises that each image's loss is averaged over, at each of eight noise levels"""
    max_rows: int = 500
    """images of each split at most, drawn with the same label mix"""
    batch_size: int = 64
    """images computed at once"""
    seed: int = 0
    """the training run's, for the choice of --few_shot and --train_fraction; also of noises, halves and bootstrap"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError("--model is missing; give the --output_dir of a training run or a Hub id")
        check_at_least(self, 1, ["noises", "max_rows", "batch_size"])


def main(args: AttackMembershipArguments) -> None:
    """Attack, write membership.json, print what came out."""
    import torch

    from clinsynth.data.images import load_image_arrays
    from clinsynth.models.generators import load_generator
    from clinsynth.run_folder import atomic_write, create_run_folder
    from clinsynth.study.membership import membership_inference

    check_training_data(args)
    generator = load_generator(args.model)
    if generator.form.enlarges:
        raise ValueError(
            f"--model {args.model} is a text-to-image model; the attack is on models of pixels: give a checkpoint of "
            "`clinsynth train ddpm` or `clinsynth train gan`"
        )
    if torch.accelerator.is_available():
        generator.pipeline.to(torch.accelerator.current_accelerator())
    args.resolution, args.channels = generator.form.side, generator.form.channels
    data = load_image_arrays(args, args.seed)
    record = membership_inference(
        generator.pipeline,
        data["train"],
        data["test"],
        noises=args.noises,
        seed=args.seed,
        batch_size=args.batch_size,
        max_rows=args.max_rows,
        progress=True,
    )
    path = create_run_folder(args.output_dir) / "membership.json"
    atomic_write(path, json.dumps({"model": args.model, "dataset": args.dataset} | record, indent=1) + "\n")
    print(attack_in_words(record))
    print(f"record: {path}")


def check_training_data(args: AttackMembershipArguments) -> None:
    """Refuse other data than the checkpoint saw, where its run folder says what that was.

    Raises:
        ValueError: names the flag and both values.
    """
    from clinsynth.plain_yaml import read_yaml

    path = Path(args.model) / "config.yaml"
    trained: dict[str, Any] = read_yaml(path) if path.exists() else {}
    for name in OF_TRAINING:
        if name in trained and trained[name] != getattr(args, name):
            raise ValueError(
                f"--{name} is {getattr(args, name)!r}, but --model {args.model} was trained with {trained[name]!r}; "
                "give the training run's, so that the members are the images it saw"
            )


def attack_in_words(record: dict[str, Any]) -> str:
    """One line for the terminal."""
    if record["value"] is None:
        return f"membership inference: {record['note']}"
    low, high = record["interval"]
    leaks = "the generator gives members away" if low > 0.5 else "no evidence that it gives members away"
    return (
        f"membership inference: AUC {record['value']:.3f} (95 % interval {low:.3f} to {high:.3f}, "
        f"{record['n_members']} members, {record['n_non_members']} held-out rows; 0.5 is ideal): {leaks}"
    )


if __name__ == "__main__":
    run(AttackMembershipArguments, main)
