"""Whether checklist feedback makes a generator better: the whole loop on drawn eyes, whose truth can be measured.

     OMP_NUM_THREADS=1 python -m benchmarks.magic_loop --output_dir runs/magic-loop --seeds 0,1,2

For each seed: a DDPM is trained on drawn eyes (`first`); it draws candidates, the measuring judge scores them, and it
is trained further on the preferences; the result draws candidates for the next round, and so on (`feedback`). The
control does the same, but the scores of its candidates are dealt out by lot within each class (`by lot`). Then each
model draws fresh pictures from the same new seeds: the share that passes the checklist by measurement, with the items
on which measurement and truth do not agree left out, and the Fréchet distance to fresh real pictures. Start the same
command again to resume; several seeds may run side by side, each by a command with its own --seeds.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from clinsynth.arguments import run

if TYPE_CHECKING:
    from clinsynth.trainers.diffusion.arguments import DDPMArguments
    from clinsynth.trainers.train_preference import PreferenceArguments

DEALT = "dealt-out-by-lot.txt"
YARDSTICK_SEED = 1000
"""Data seed of the drawn eyes that the held-out judge, the extractor and the reference pictures come from."""


@dataclass
class LoopArguments:
    """Train, prefer, train further, and measure, with a control whose scores are dealt out by lot."""

    output_dir: str
    """Folder for a run folder a seed, loop.json and loop.md."""
    seeds: str = "0,1,2"
    """Comma-separated: each is the seed of the data, of both trainings and of the candidates."""
    resolution: int = 32
    """Side of the pictures; which items can be measured depends on it."""
    channels: int = 1
    """1 grey, 3 colour."""
    train: int = 1080
    """Drawn eyes to train on."""
    width: int = 16
    """Size of the network, as in `clinsynth train ddpm`."""
    first_steps: int = 1000
    """Optimizer steps of the first stage, of 32 pictures."""
    rounds: int = 4
    """Rounds of candidates and training on them, of which the guard may drop some; more may be asked for later."""
    margin: float = 0.3
    """Least lead of a pair's winner, in shares of items."""
    method: Literal["diffusion-dpo", "kto", "reward", "d3po"] = "diffusion-dpo"
    """How preferences are learned."""
    prompts: int = 24
    """Prompts of each class and round."""
    candidates: int = 8
    """Pictures a prompt."""
    fidelity_weight: float = 0.5
    """Weight of the denoising loss on real pictures."""
    train_steps: int = 120
    """Optimizer steps on preferences in a round."""
    train_batch_size: int = 16
    """Pairs a step, and as many real pictures."""
    learning_rate: float = 5e-5
    """Peak of the training on preferences."""
    lr_scheduler: Literal["constant_with_warmup", "linear", "cosine"] = "cosine"
    """Its course over a round."""
    ema_decay: float = 0.99
    """Largest decay of the average of a round's weights."""
    beta: float = 2000.0
    """How closely the model is held to the first stage."""
    temperature: float = 0.2
    """Of --method reward."""
    num_inference_steps: int = 12
    """Steps of the sampler, of candidates and of fresh pictures."""
    guard_steps: int = 60
    """Steps between two looks of the held-out judge."""
    fidelity_tolerance: float = 0.1
    """Share by which the loss on real validation pictures may rise."""
    frechet_tolerance: float = 0.25
    """The same for the Fréchet distance of the watched pictures."""
    held_out_least_kappa: float = 0.6
    """The same agreement asked of the held-out judge, which only watches."""
    least_kappa: float = 0.75
    """Items on which measurement and truth agree less are left out, in training and in what is reported."""
    judge_epochs: int = 10
    """Passes of the held-out judge's training, and of the extractor's."""
    per_class: int = 100
    """Fresh pictures of each class and model, and fresh real ones."""
    n_bootstrap: int = 200
    """Replicates of the intervals."""

    @property
    def seed_numbers(self) -> list[int]:
        """The seeds.

        Raises:
            ValueError: they are no whole numbers from 0 on.
        """
        parts = self.seeds.split(",")
        if not all(part.isdecimal() for part in parts):
            raise ValueError(f"--seeds must be whole numbers from 0 on, as 0,1,2; got {self.seeds!r}")
        return [int(part) for part in parts]


def main(args: LoopArguments) -> None:
    """Run what is missing of every seed; print and write the table."""
    from benchmarks.magic_loop_measures import measure_models, table, yardsticks
    from clinsynth.run_folder import atomic_write, check_same_run, create_run_folder, write_run_config

    seeds = args.seed_numbers
    root = create_run_folder(args.output_dir)
    check_same_run(root, args, frozenset({"output_dir", "seeds", "rounds"}))
    write_run_config(root, args)
    extractor, real = yardsticks(args, root)
    results = []
    for seed in seeds:
        folder = create_run_folder(root / f"seed-{seed}")
        train_models(args, root, folder, seed)
        results.append(measure_models(args, folder, seed, extractor, real))
        record = {"arguments": vars(args), "extractor": extractor.name, "note": extractor.note, "seeds": results}
        atomic_write(root / "loop.json", json.dumps(record, indent=2) + "\n")
    text = table(results, extractor.name)
    atomic_write(root / "loop.md", text + "\n")
    print(text)


def train_models(args: LoopArguments, root: Path, folder: Path, seed: int) -> None:
    """The models of a seed: first, feedback-1, feedback-2, …, by-lot-1, by-lot-2, …"""
    from clinsynth.trainers import train_ddpm, train_preference

    if not finished(folder / "first"):
        train_ddpm.main(first_stage(args, folder, seed))
        fresh_accelerator()
    for name in ("feedback", "by-lot"):
        model = folder / "first"
        for number in range(1, args.rounds + 1):
            further = preference(args, root, model, folder / f"{name}-{number}", 1000 * number + seed)
            model = folder / f"{name}-{number}"
            if finished(model):
                continue
            take_over(folder / "feedback-1", model)
            if name == "by-lot":
                deal_out_scores(further, folder / "feedback-1" if number == 1 else None)
            train_preference.main(further)
            fresh_accelerator()


def take_over(source: Path, target: Path) -> None:
    """Let all runs of a seed leave out the items that the first one found not to be trusted, and share the extractor
    that it trained on the same data."""
    import shutil

    from clinsynth.run_folder import complete_folder, create_run_folder

    if source == target or not source.exists():
        return
    for path in source.glob("calibration_*.json"):
        if not (target / path.name).exists():
            shutil.copyfile(path, create_run_folder(target) / path.name)
    if (source / "guard").exists() and not (target / "guard").exists():
        with complete_folder(target / "guard") as aside:
            shutil.copytree(source / "guard", aside, dirs_exist_ok=True)


def finished(folder: Path) -> bool:
    """Whether a training has left its model."""
    return (folder / "model_index.json").exists()


def fresh_accelerator() -> None:
    """accelerate keeps its state for the process; the next training starts without one."""
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def first_stage(args: LoopArguments, folder: Path, seed: int) -> "DDPMArguments":
    """The first stage's training."""
    from clinsynth.trainers.diffusion.arguments import DDPMArguments

    return DDPMArguments(
        dataset=data_of(args, seed),
        resolution=args.resolution,
        channels=args.channels,
        output_dir=str(folder / "first"),
        width=args.width,
        train_steps=args.first_steps,
        train_batch_size=32,
        ema_decay=0.995,
        validation_steps=0,
        checkpointing_steps=100,
        seed=seed,
    )


def preference(args: LoopArguments, root: Path, model: Path, target: Path, seed: int) -> "PreferenceArguments":
    """A round's training of `model`, the same for feedback and by-lot."""
    from clinsynth.trainers.train_preference import PreferenceArguments

    return PreferenceArguments(
        dataset=data_of(args, seed % 1000),
        model=str(model),
        output_dir=str(target),
        judge="measure",
        held_out="classifier",
        held_out_model=str(root / "held-out" / "best-real"),
        least_kappa=args.least_kappa,
        held_out_least_kappa=args.held_out_least_kappa,
        prompts=args.prompts,
        candidates=args.candidates,
        pair_rule="margin",
        margin=args.margin,
        method=args.method,
        fidelity_weight=args.fidelity_weight,
        num_inference_steps=args.num_inference_steps,
        beta=args.beta,
        temperature=args.temperature,
        learning_rate=args.learning_rate,
        lr_scheduler=args.lr_scheduler,
        ema_decay=args.ema_decay,
        train_steps=args.train_steps,
        train_batch_size=args.train_batch_size,
        guard_steps=args.guard_steps,
        guard_images=10,
        fidelity_tolerance=args.fidelity_tolerance,
        frechet_tolerance=args.frechet_tolerance,
        checkpointing_steps=100,
        seed=seed,
    )


def data_of(args: LoopArguments, seed: int) -> str:
    """The spec of a seed's drawn eyes."""
    return f"phantom-fundus?seed={seed}&train={args.train}"


def deal_out_scores(args: "PreferenceArguments", drawn: Path | None) -> None:
    """Have the candidates of a run drawn and scored, then put the scores in another order within each class.

    `drawn` is a run with the same model and seed, whose candidates and scores are taken over.
    """
    import shutil

    from clinsynth.judges.judges import load_judge
    from clinsynth.models.generators import load_pipeline
    from clinsynth.run_folder import complete_folder, create_run_folder
    from clinsynth.trainers.preference.candidates import score_candidates

    folder = create_run_folder(Path(args.output_dir) / "preferences")
    if (folder / "scores" / DEALT).exists():
        return
    if drawn:
        for part in ("candidates", "scores"):
            with complete_folder(folder / part) as aside:
                shutil.copytree(drawn / "preferences" / part, aside, dirs_exist_ok=True)
    judge = load_judge("measure", None, args.checklist)
    score_candidates(args, load_pipeline(args.model), judge, frozenset(), folder)
    with complete_folder(folder / "dealt") as aside:
        write_dealt(folder / "scores" / "data", aside, args.seed)
    with complete_folder(folder / "scores") as aside:
        shutil.copytree(folder / "dealt", aside, dirs_exist_ok=True)


def write_dealt(scores: Path, target: Path, seed: int) -> None:
    """The shards of `scores`, their rows in another order within each condition, as target/data."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    shards = sorted(scores.glob("*.parquet"))
    tables = [pq.read_table(shard) for shard in shards]
    whole = pa.concat_tables(tables)
    conditions, order = np.array(whole["condition"].to_pylist()), np.arange(len(whole))
    draw = np.random.default_rng([seed, 79])
    for condition in np.unique(conditions):
        members = np.flatnonzero(conditions == condition)
        order[members] = draw.permutation(members)
    dealt, first = whole.take(pa.array(order)).set_column(0, "row", whole["row"]), 0
    (target / "data").mkdir()
    for shard, table in zip(shards, tables, strict=True):
        pq.write_table(dealt.slice(first, len(table)), target / "data" / shard.name)
        first += len(table)
    (target / DEALT).write_text("The scores of each class are in another order, drawn by lot.\n")


if __name__ == "__main__":
    run(LoopArguments, main)
