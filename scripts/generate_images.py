"""Turn a checkpoint into a synthetic data set.

    clinsynth generate images --model runs/phantom --per_class 50 --output_dir runs/phantom-synthetic
    clinsynth generate images --model runs/phantom --balance_to 486 --dataset phantom-fundus --output_dir runs/balanced
    clinsynth generate images --model runs/phantom --per_class 50 --reject_copies true --dataset phantom-fundus
    clinsynth generate images --model runs/phantom --per_class 50 --from_images phantom-fundus --strength 0.3 \\
        --keep_if_checklist 4/5 --output_dir runs/changed
    accelerate launch scripts/generate_images.py --model runs/phantom --counts "grade 4=100" --output_dir runs/grade4

The folder --output_dir then loads with `datasets.load_dataset(folder)`: rows of image, label and seed, with
--from_images also of source_id, source_label and strength. Rows that no draw was good enough for are left out and
counted. A run that was stopped goes on when the same command is started again; finished shards are kept.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

from clinsynth.arguments import run
from clinsynth.run_folder import check_same_run, create_run_folder, write_run_config
from clinsynth.synthesis.image_checks import KeepArguments
from clinsynth.synthesis.image_sources import SourceArguments

MAY_DIFFER = frozenset({"output_dir", "batch_size", "dry_run"})


@dataclass
class GenerateImagesArguments(KeepArguments, SourceArguments):
    """Turn a checkpoint into a synthetic data set.

    Say how many images with one of --per_class, --counts and --balance_to. Start the same command again to resume.
    Example:

      clinsynth generate images --model runs/phantom --per_class 50 --output_dir runs/phantom-synthetic
    """

    dataset: str = ""
    """real data set whose train split --balance_to fills up and --reject_copies compares with; else not needed"""
    model: str = ""
    """folder or Hub id of a checkpoint: the --output_dir of `train ddpm`, `gan` or `text-to-image-lora`"""
    output_dir: str = "runs/synthetic"
    """folder of the synthetic data set"""
    per_class: int | None = None
    """images of every class"""
    counts: str | None = None
    """images of some classes, LABEL=N,LABEL=N (names or numbers)"""
    balance_to: int | None = None
    """of every class as many images as the real train split of --dataset lacks to this number"""
    batch_size: int = 64
    """images computed at once; the images do not depend on it"""
    num_inference_steps: int = 25
    """steps of the sampler"""
    guidance_scale: float | None = None
    """s of u + s(c - u): 1 plain conditional sampling; higher exaggerates the class and costs twice the time.
    Default: 1, of a text-to-image model that of its training run"""
    scheduler: Literal["dpmsolver++", "unipc", "euler", "ddim", "ddpm"] = "dpmsolver++"
    """sampler; ddpm is the ancestral one, which needs hundreds of steps"""
    seed: int = 0
    """image i has its own seed derived from this one and i, kept in its row"""
    shard_size: int = 500
    """rows of a Parquet file: what a killed run loses at most, in each process"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """arithmetic of the network"""
    dry_run: bool = False
    """print what would be generated, and stop"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model:
            raise ValueError("--model is missing; give the --output_dir of a training run or a Hub id")
        if sum(option is not None for option in (self.per_class, self.counts, self.balance_to)) != 1:
            raise ValueError("give exactly one of --per_class N, --counts LABEL=N,… and --balance_to N")
        if self.balance_to is not None and not self.dataset:
            raise ValueError(f"--balance_to {self.balance_to} needs --dataset, whose classes it fills up")
        if self.reject_copies and not self.dataset:
            raise ValueError("--reject_copies needs --dataset, the data that --model was trained on; name it")
        if self.swept and not (self.keep_if_checklist or self.keep_if_class):
            raise ValueError(
                f"--strength {self.strength} is chosen by what is kept; give --keep_if_checklist or "
                "--keep_if_class, or one strength"
            )
        for name in ("per_class", "balance_to", "batch_size", "num_inference_steps", "shard_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise ValueError(f"--seed must be at least 0, got {self.seed}")
        if self.guidance_scale is not None and not self.guidance_scale >= 0:
            raise ValueError(f"--guidance_scale must be >= 0, got {self.guidance_scale}; 0 samples unconditionally")


def main(args: GenerateImagesArguments) -> None:
    """Generate the data set into `args.output_dir`."""
    import torch
    from accelerate import PartialState

    from clinsynth.models.generators import load_pipeline
    from clinsynth.synthesis.image_checks import sources_and_checks
    from clinsynth.synthesis.plan import describe_counts, plan_image_labels
    from clinsynth.synthesis.shards import ShardPlan, write_shards

    state = PartialState(cpu=not torch.accelerator.is_available())  # else several CPU processes go unseen
    pipeline = load_pipeline(args.model, args.dtype)
    args = replace(args, guidance_scale=guidance_of(args, pipeline))
    labels = plan_image_labels(args, pipeline)
    if args.dry_run:
        print(describe_counts(labels, pipeline.id2label))
        return
    output_dir = create_run_folder(args.output_dir)
    check_same_run(output_dir, args, MAY_DIFFER)
    generator = describe_generator(args, pipeline)
    with state.main_process_first():  # which chooses the strengths, for the others to find
        sources, keep = sources_and_checks(
            args, pipeline, labels, output_dir, lambda at: sampler(args, pipeline, state.device, at), generator
        )
    generator |= keep.facts | ({"image_to_image": sources.facts} if sources else {})
    settings = (labels, pipeline.id2label, args.seed, args.shard_size, state.num_processes)
    plan = ShardPlan(output_dir, *settings, sources=sources, most_draws=args.most_draws)
    if state.is_main_process:
        plan.check_same_generator(generator)
        write_run_config(output_dir, args)
        print(f"generating {describe_counts(labels, pipeline.id2label)}")
        plan.begin(generator)
    state.wait_for_everyone()
    keep_memory_flat()
    sample = sampler(args, pipeline, state.device, sources)
    write_shards(plan, sample, args.batch_size, state.process_index, keep if keep.checks else None)
    state.wait_for_everyone()
    if state.is_main_process:
        plan.finish(generator)
        print(plan.closing_message())


def keep_memory_flat() -> None:
    """Have glibc return every buffer of 1 MB or more when it is freed; elsewhere nothing is done.

    Left to itself it soon serves such buffers from its heap, which the tensors of each batch then fragment: over
    100,000 images of 32 px the peak grew by 81 MB.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        m_mmap_threshold = -3  # malloc.h
        ctypes.CDLL(None).mallopt(m_mmap_threshold, 1 << 20)


def describe_generator(args: GenerateImagesArguments, pipeline: Any) -> dict[str, Any]:
    """What `generation.json` says of the generator: name, weights' hash, and how it is sampled."""
    from clinsynth.models.weights import hash_weights

    diffusion, latent = "unet" in pipeline.components, "vae" in pipeline.components
    network = pipeline.unet if diffusion else pipeline.generator
    return {
        "model": args.model,
        "weights_sha256": hash_weights(pipeline) if latent else hash_weights(network),
        "network": type(network).__name__,
        "prediction_type": pipeline.scheduler.config.prediction_type if diffusion else None,
        "scheduler": args.scheduler if diffusion else None,
        "num_inference_steps": args.num_inference_steps if diffusion else 1,
        "guidance_scale": args.guidance_scale,
        "dtype": args.dtype,
        "seed": args.seed,
    } | (pipeline.origin() if latent else {})


def guidance_of(args: GenerateImagesArguments, pipeline: Any) -> float:
    """--guidance_scale, or what the model takes without it.

    Raises:
        ValueError: guidance that the model does not know.
    """
    asked = args.guidance_scale
    if "unet" not in pipeline.components and asked not in (None, 1):
        raise ValueError(
            f"--guidance_scale is {asked}, but --model {args.model} is a GAN, which knows no guidance; "
            "leave the flag out"
        )
    if "vae" in pipeline.components:
        if asked is not None and asked < 1:
            raise ValueError(
                f"--guidance_scale is {asked}, but --model {args.model} is a text-to-image model, of which diffusers "
                "knows 1 (without guidance) and more; its empty prompt alone draws no class"
            )
        return float(pipeline.guidance_scale if asked is None else asked)
    return 1.0 if asked is None else asked


def sampler(args: GenerateImagesArguments, pipeline: Any, device: Any, sources: Any = None) -> Any:
    """A function from labels and seeds to images, uint8 (n, channels, size, size), and a mask of the finite ones.

    With `sources` each picture starts from the source of its label and seed, else from noise.
    """
    import torch

    settings = sampling_settings(args, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)

    def sample(labels: list[int], seeds: list[int]) -> tuple[Any, Any]:
        if sources is None:
            images = draw(labels, seeds)
        else:
            images = torch.empty(len(labels), *sources.images.shape[1:], device=device)
            strengths = [sources.strengths[label] for label in labels]
            for strength in sorted(set(strengths)):
                rows = [i for i, of_row in enumerate(strengths) if of_row == strength]
                images[rows] = draw([labels[i] for i in rows], [seeds[i] for i in rows], strength)
        finite = images.isfinite().flatten(1).all(dim=1)
        return (images.nan_to_num() * 255).round().to(torch.uint8).cpu().numpy(), finite.cpu().numpy()

    def draw(labels: list[int], seeds: list[int], strength: float | None = None) -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        start = {}
        if strength is not None:
            pictures = torch.from_numpy(sources.pictures(labels, seeds)).float()
            start = {"image": pictures / 127.5 - 1, "strength": strength}
        return pipeline(labels, generator=generators, output_type="pt", **start, **settings).images.float()

    return sample


def sampling_settings(args: GenerateImagesArguments, pipeline: Any) -> dict[str, Any]:
    """Give a diffusion model the asked scheduler; returns the arguments of the pipeline's call, none for a GAN."""
    import diffusers
    from accelerate.logging import get_logger

    if "unet" not in pipeline.components:
        get_logger("clinsynth").info(
            "%s is a GAN, which draws in one pass: --scheduler and --num_inference_steps are not used", args.model
        )
        return {}
    classes = {
        "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
        "unipc": diffusers.UniPCMultistepScheduler,
        "euler": diffusers.EulerDiscreteScheduler,
        "ddim": diffusers.DDIMScheduler,
        "ddpm": diffusers.DDPMScheduler,
    }
    pipeline.scheduler = classes[args.scheduler].from_config(pipeline.scheduler.config)
    return {"guidance_scale": args.guidance_scale, "num_inference_steps": args.num_inference_steps}


if __name__ == "__main__":
    run(GenerateImagesArguments, main)
