"""Train a DDPM or a text-to-image model further on preferences: the images that meet more of an expert checklist.

    clinsynth train preference --model runs/phantom --dataset phantom-fundus --checklist phantom-fundus \\
        --judge measure --held_out classifier --held_out_model runs/control/best-real --output_dir runs/phantom-magic
    clinsynth train preference --model runs/phantom --rounds 4 --pair_rule margin --margin 0.3 …
    clinsynth train preference --model runs/phantom --rounds 4 --pair_rule margin --margin 0.3 --control shuffled …

The folder --output_dir then loads as that of --model does: a DDPM's with `DiffusionPipeline.from_pretrained(folder,
trust_remote_code=True)`, a text-to-image model's with `load_lora_weights(folder)` of its base model. A second
judge, which the model is not trained on, watches: training stops where its score or the fidelity gets worse, and the
result is the last model that it accepted. With --rounds the whole is done again from there, with new candidates; with
--control shuffled the judge's scores say nothing, which is what feedback is to be compared with. A run that was
stopped goes on when the same command is started again.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from clinsynth.arguments import run
from clinsynth.run_folder import check_same_run, check_unchanged, create_run_folder
from clinsynth.trainers.preference.arguments import PreferenceArguments

MAY_DIFFER = frozenset(
    "output_dir log_steps checkpointing_steps checkpoints_total_limit sampling_batch_size judge_endpoint".split()
)
PAIRING = frozenset({"pair_rule", "margin"})
"""What may also differ until there are pairs: scored candidates of which no pair could be made are kept."""


def main(args: PreferenceArguments) -> None:
    """Train, and leave the pipeline in `args.output_dir`."""
    from clinsynth.models.generators import load_pipeline

    pipeline = load_pipeline(args.model)
    check_trainable(args, pipeline)
    data = load_real(args, pipeline)
    names, known = data["validation"].label_names, list(pipeline.id2label.values())
    if names != known:
        raise ValueError(
            f"--dataset {args.dataset} has the classes {names}, but --model {args.model} was trained on {known}; give "
            "the data set that it saw"
        )
    train(args, pipeline, data, open_folder(args))


def open_folder(args: PreferenceArguments) -> Path:
    """The folder --output_dir, made where it is missing.

    Raises:
        ValueError: it holds a run with other settings.
    """
    output_dir = create_run_folder(args.output_dir)
    may_differ = MAY_DIFFER
    if args.rounds > 1:
        begun = {"--rounds": 1} if (output_dir / "preferences").exists() else {}
        check_unchanged(output_dir, begun, {"--rounds": args.rounds})
        may_differ |= {"rounds"} if (output_dir / "round-1").exists() else set()
    paired = [*output_dir.glob("preferences/pairs"), *output_dir.glob("round-*/preferences/pairs")]
    check_same_run(output_dir, args, may_differ if paired or args.preferences else may_differ | PAIRING)
    return output_dir


def check_trainable(args: PreferenceArguments, pipeline: Any) -> None:
    """Raise a `ValueError` where the flags ask of the model what it cannot do."""
    from clinsynth.pipelines.class_conditioned_gan import ClassConditionedGANPipeline
    from clinsynth.trainers.preference.model import is_prompted, network_of

    if isinstance(pipeline, ClassConditionedGANPipeline):
        raise ValueError(f"--model {args.model} is a GAN; give a DDPM of `clinsynth train ddpm`")
    if args.lora_rank and is_prompted(pipeline):
        raise ValueError(
            f"--lora_rank {args.lora_rank} is for a DDPM; --model {args.model} has an adapter, which is trained "
            "further at its own rank: leave --lora_rank out"
        )
    if args.gradient_checkpointing and not getattr(network_of(pipeline), "_supports_gradient_checkpointing", False):
        raise ValueError(
            f"--gradient_checkpointing cannot be had of the network of --model {args.model}; leave it out, or lower "
            "--train_batch_size to save memory"
        )


def load_real(args: PreferenceArguments, pipeline: Any) -> dict[str, Any]:
    """The real splits as `ImageArrays`, in the form of the model's images.

    The train split of a text-to-image model comes in parts: its latents are kept, and its images need much memory.
    """
    from clinsynth.data.images import load_image_arrays, open_enlarged
    from clinsynth.trainers.preference.model import is_prompted

    channels, side, _ = pipeline.image_shape
    if not is_prompted(pipeline):
        return {**load_image_arrays(replace(args, resolution=side, channels=channels), args.seed)}
    images = open_enlarged(args, side, args.seed)
    validation = next(images.batches("validation", len(images.splits["validation"])))
    return {"train": images.batches("train", args.sampling_batch_size), "validation": validation}


def train(args: PreferenceArguments, pipeline: Any, data: dict[str, Any], output_dir: Path) -> None:
    """The rounds, and the loop of each; `pipeline` is the first-stage model, `data` as of `load_real`."""
    from clinsynth.models.generators import load_pipeline
    from clinsynth.trainers.harness import Run, begin
    from clinsynth.trainers.preference.candidates import gather_preferences
    from clinsynth.trainers.preference.guard import Guard, Round, guard_extractor, load_judges
    from clinsynth.trainers.preference.model import SavedMerged, to_device
    from clinsynth.trainers.preference.step import Preferences, build_state, fidelity_stream, real_samples, train_step
    from clinsynth.trainers.training_state import publish

    accelerator = begin(args, output_dir, args.mixed_precision)
    to_device(pipeline, accelerator.device, half=args.mixed_precision == "bf16")
    with accelerator.main_process_first():
        judge, held_out = load_judges(args, pipeline, output_dir)
        extractor = guard_extractor(args, pipeline, data, output_dir)
    samples = real_samples(args, data["train"], pipeline, accelerator.device)
    reported = None if args.judge == "expert" else judge  # experts have scored candidates, and no images drawn later

    for number in range(1, args.rounds + 1):
        this = Round(number, args.rounds, output_dir)
        if this.is_over:
            continue
        if number > 1:
            pipeline = load_pipeline(str(replace(this, number=number - 1).result))
            to_device(pipeline, accelerator.device, half=args.mixed_precision == "bf16")
        mine = replace(args, seed=this.seed(args.seed))
        with accelerator.main_process_first():
            rows = gather_preferences(mine, pipeline, judge, this.folder / "preferences")
        state, reference = build_state(mine, pipeline, accelerator)
        preferences = Preferences(mine, pipeline, reference, rows, accelerator)
        real = fidelity_stream(mine, samples, pipeline)
        saved_as = SavedMerged(pipeline) if args.lora_rank else pipeline
        training = Run(mine, accelerator, state, saved_as, this.folder, args.guard_steps)
        guard = Guard(mine, pipeline, reported, held_out, data["validation"], extractor)
        unet, optimizer = accelerator.prepare(state.model, state.optimizer)

        guard.begin(training)
        while not training.over:
            numbers = train_step(accelerator, unet, optimizer, preferences, real, state.step)
            state.advance()
            training.log(**numbers)
            guard.look(training)
            training.end_step()

        if accelerator.is_main_process:
            this.end(training, guard)
        accelerator.wait_for_everyone()
        accelerator.free_memory()

    if accelerator.is_main_process:
        publish(this.result, output_dir)
        print(f"checkpoint: {output_dir}")
    accelerator.end_training()


if __name__ == "__main__":
    run(PreferenceArguments, main)
