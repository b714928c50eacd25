"""How fast sampling and training are: one command, one run, ratios with their spread.

     python -m benchmarks.sampling --model runs/retina --output_dir runs/benchmark-sampling
     python -m benchmarks.sampling --model runs/retina --output_dir runs/benchmark-sampling --sections pipeline,peer
     python -m benchmarks.sampling --model runs/retina --output_dir runs/benchmark-sampling --sections quality \
         --dataset retinamnist.npz --extractor mobilenet_v2 --n 2000

Sections: pipeline (over the bare network forwards), paper (against the paper's sampler, same weights), peer (against
denoising-diffusion-pytorch's sampler), training (the trainer's step over the bare step), quality (Fréchet distance of
n images of ours and of the paper's sampler; hours with n = 2,000, and resumable: start the same command again).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.equal_time import OurTraining
from benchmarks.samplers import (
    PAPER_STEPS,
    build_peer,
    choose_dim,
    count_parameters,
    draw_all,
    labels_like,
    load_pipeline,
    our_draw,
    paper_draw,
    paper_settings,
    peer_sampler,
    sample_as_paper,
    seeds_from,
    with_scheduler,
)
from benchmarks.score import cells, distances, named_extractor, real_splits
from benchmarks.timing import Comparison, Run, TimingArguments, compare, markdown, write_results
from clinsynth.arguments import parse, run
from clinsynth.data.images import ImageArrays
from clinsynth.trainers.diffusion.arguments import DDPMArguments


@dataclass(kw_only=True)
class SamplingArguments(TimingArguments):
    """Measure sampling and training speed as ratios, and the Fréchet distance at that speed."""

    known: ClassVar[tuple[str, ...]] = ("pipeline", "paper", "peer", "training", "quality")
    may_be_zero: ClassVar[frozenset[str]] = frozenset({"n_bootstrap"})

    model: str
    """Checkpoint or run folder, as `DiffusionPipeline.from_pretrained` takes it."""
    sections: str = "pipeline,paper,peer,training"
    """Comma-separated: pipeline, paper, peer, training, quality."""
    scheduler: str | None = None
    """Fast scheduler's diffusers class, e.g. DPMSolverMultistepScheduler; default: the checkpoint's own."""
    num_inference_steps: int = 20
    """Steps of ours, and of the peer."""
    guidance_scale: float = 3.0
    """Guidance of ours and of the peer, in diffusers' meaning; 1 is one evaluation a step."""
    paper_guidance_scale: float = 3.0
    """Guidance of the paper's sampler in diffusers' meaning (its w = 2 is 3)."""
    paper_levels: Literal["paper", "checkpoint"] = "paper"
    """Noise levels of the paper's 400 steps: `paper` (its own) or `checkpoint` (those of the weights' training)."""
    paper_steps_timed: int = 20
    """Steps of the 400 that the section paper runs; each costs the same, and the seconds are scaled to 400."""
    batch_size: int = 64
    """Pictures a call."""
    n: int = 2000
    """Pictures a sampler in the section quality."""
    dataset: str = "phantom-fundus"
    """Real data of the section quality; its train labels give the class shares."""
    extractor: str = "default"
    """Feature extractor of the section quality: `default` (a CNN trained on the real train split) or a path or id."""
    n_bootstrap: int = 50
    """Bootstrap replicates of the intervals in the section quality; 0 for none."""
    precision: str = "float32"
    """Arithmetic of the network in the section quality, for both samplers: float32 or bfloat16."""
    device: str = "cpu"
    """Device on which the section quality draws; timings are always on the CPU."""


def main(args: SamplingArguments) -> None:
    """Run the sections asked for; print and write their table."""
    if not Path(args.model).is_dir():
        raise ValueError(f"--model {args.model} is no folder; train one with `clinsynth train ddpm`")
    output_dir = args.begin()
    trained = load_pipeline(args.model)
    fast = with_scheduler(trained, args.scheduler)
    comparisons = measure(args, fast, trained.scheduler)
    if "quality" in args.wanted:
        found = measure_quality(args, fast, trained.scheduler, output_dir)
        name = "sampling" if comparisons else "quality"
        write_results(args, name, comparisons, quality_table(found), quality=found)
    else:
        write_results(args, "sampling", comparisons)


def measure(args: SamplingArguments, pipe: Any, scheduler: Any) -> list[Comparison]:
    """The timed sections in the order of the docstring."""
    comparisons = []
    if "pipeline" in args.wanted:
        comparisons += [over_bare_forwards(args, pipe, scale) for scale in (1.0, args.guidance_scale)]
    if "paper" in args.wanted:
        comparisons.append(against_paper(args, pipe, scheduler))
    if "peer" in args.wanted:
        comparisons.append(against_peer(args, pipe))
    if "training" in args.wanted:
        comparisons.append(over_bare_step(args, pipe))
    return comparisons


def labels_of(pipe: Any, count: int) -> list[int]:
    """`count` class numbers, each class in turn."""
    return [i % pipe.num_classes for i in range(count)]


def sample_once(args: SamplingArguments, pipe: Any, guidance_scale: float) -> Any:
    return pipe(
        class_labels=labels_of(pipe, args.batch_size),
        guidance_scale=guidance_scale,
        num_inference_steps=args.num_inference_steps,
        generator=seeds_from(0, args.batch_size),
        output_type="np",
    ).images


def recorded_calls(args: SamplingArguments, pipe: Any, guidance_scale: float) -> list[tuple[tuple, dict]]:
    """The arguments of every call of the network while one batch is sampled."""
    calls: list[tuple[tuple, dict]] = []
    hook = pipe.unet.register_forward_pre_hook(lambda _, a, k: calls.append((a, k)), with_kwargs=True)
    sample_once(args, pipe, guidance_scale)
    hook.remove()
    needed = args.batch_size * args.num_inference_steps * (1 if guidance_scale in (0.0, 1.0) else 2)
    rows = sum(len(a[0]) for a, _ in calls)
    if rows != needed:
        raise ValueError(
            f"the pipeline evaluated {rows} rows where {needed} are needed; use a first-order call a step"
        )
    return calls


def over_bare_forwards(args: SamplingArguments, pipe: Any, guidance_scale: float) -> Comparison:
    """The pipeline against its own network calls alone, on the inputs that it gave them."""
    calls = recorded_calls(args, pipe, guidance_scale)

    @torch.inference_mode()
    def bare() -> None:
        for positional, keywords in calls:
            pipe.unet(*positional, **keywords)

    return compare(
        f"pipeline, guidance {guidance_scale:g}",
        (f"pipeline, {args.num_inference_steps} steps", lambda: sample_once(args, pipe, guidance_scale)),
        (f"{len(calls)} bare forwards", bare),
        repeats=args.repeats,
        goal=("<=", 1.03),
        note=f"batch {args.batch_size}, {type(pipe.scheduler).__name__}, seconds a batch",
    )


def against_paper(args: SamplingArguments, pipe: Any, scheduler: Any) -> Comparison:
    """Seconds of the paper's 400 steps over ours, same weights, same batch."""
    settings = paper_settings(scheduler, args.paper_levels)
    labels = torch.tensor(labels_of(pipe, args.batch_size))

    def paper() -> object:
        return sample_as_paper(
            pipe.unet,
            labels,
            pipe.num_classes,
            **settings,
            prediction_type=scheduler.config.prediction_type,
            generator=torch.Generator().manual_seed(0),
            guidance=args.paper_guidance_scale - 1,
            last_steps=args.paper_steps_timed,
        )

    return compare(
        "images a second, ours over the paper's",
        (f"paper's sampler, {2 * PAPER_STEPS} evaluations", paper),
        (f"pipeline, {args.num_inference_steps} steps", lambda: sample_once(args, pipe, args.guidance_scale)),
        repeats=args.repeats,
        goal=(">=", 20),
        scale=(PAPER_STEPS / args.paper_steps_timed, 1.0),
        note=f"same weights, batch {args.batch_size}; {args.paper_steps_timed} of the paper's {PAPER_STEPS} steps "
        f"were run and scaled; ours {type(pipe.scheduler).__name__}, guidance {args.guidance_scale:g}",
    )


def against_peer(args: SamplingArguments, pipe: Any) -> Comparison:
    """Seconds of ours over denoising-diffusion-pytorch's, two evaluations a step, near-equal parameters."""
    config, target = pipe.unet.config, count_parameters(pipe.unet)
    mults = (1, 2, 4)
    dim = choose_dim(target, pipe.num_classes, config.in_channels, mults)
    diffusion = build_peer(
        dim,
        pipe.num_classes,
        channels=config.in_channels,
        image_size=config.sample_size,
        sampling_timesteps=args.num_inference_steps,
        dim_mults=mults,
        class_dropout=0.5,
    ).eval()
    scale = args.guidance_scale if args.guidance_scale not in (0.0, 1.0) else 3.0  # the peer always evaluates twice
    sampler = peer_sampler(diffusion, torch.tensor(labels_of(pipe, args.batch_size)), scale)
    return compare(
        "against denoising-diffusion-pytorch",
        (f"pipeline, {args.num_inference_steps} steps", lambda: sample_once(args, pipe, scale)),
        (f"its sampler, {args.num_inference_steps} steps", sampler),
        repeats=args.repeats,
        goal=("<=", 1.0),
        note=f"guidance {scale:g}, {2 * args.num_inference_steps} evaluations an image each, parameters {target:,} "
        f"and {count_parameters(diffusion.model):,} (dim {dim}, dim_mults {mults}), float32, seconds a batch",
    )


def measure_quality(args: SamplingArguments, pipe: Any, scheduler: Any, output_dir: Path) -> dict[str, Any]:
    """Draw with both samplers and compare each with the real train split.

    Args:
        pipe: the pipeline with the fast scheduler.
        scheduler: the checkpoint's own, whose noise levels the weights were trained with.
    """
    channels, side, _ = pipe.image_shape
    splits = real_splits(args.dataset, side, channels)
    labels = labels_like(splits["train"].labels, args.n)
    pipe.to(args.device, getattr(torch, args.precision))
    ours = f"{type(pipe.scheduler).__name__}-{args.num_inference_steps}-guidance-{args.guidance_scale:g}"
    paper = f"paper-{args.paper_levels}-levels-guidance-{args.paper_guidance_scale:g}"
    draws = {
        ours: our_draw(pipe, args.guidance_scale, args.num_inference_steps),
        paper: paper_draw(pipe, scheduler, args.paper_guidance_scale, args.paper_levels),
    }
    extract = named_extractor(args.extractor, splits, output_dir / "extractor")
    real = extract(splits["train"].images)
    rows = {}
    for name, draw in draws.items():
        images, seconds = draw_all(draw, labels, output_dir / name, args.batch_size)
        rows[name] = distances(real, extract(images), args.n_bootstrap) | {
            "cpu_seconds": seconds,
            "device": args.device,
            "precision": args.precision,
        }
    rows["floor: real test"] = distances(real, extract(splits["test"].images), args.n_bootstrap)
    return {"extractor": extract.name, "dataset": args.dataset, "rows": rows}


def quality_table(measured: dict[str, Any]) -> str:
    """A Markdown table, a row a sampler, and the extractor's name under it."""
    rows = [
        [name, str(row["n"]), *cells(row), f"{row['cpu_seconds']:.0f}" if row.get("device") == "cpu" else ""]
        for name, row in measured["rows"].items()
    ]
    table = markdown("against real train | n | Fréchet distance (95 %) | 1000 × KID (95 %) | CPU s", rows)
    return f"{table}\n\nExtractor: {measured['extractor']}. Real: {measured['dataset']}, train split."


def over_bare_step(args: SamplingArguments, pipe: Any) -> Comparison:
    """Seconds of the body of the trainer's loop (batch, noise, loss, clipping, optimizer, learning rate, averaging of
    weights) over those of a bare step of the same network in the same precision, with the settings of the run folder
    `args.model` where it has them, else the trainer's defaults."""
    config = Path(args.model) / "config.yaml"
    settings = parse(DDPMArguments, ["--config", str(config)] if config.exists() else [])
    training = OurTraining(settings, random_data(pipe, settings), Path(args.output_dir))
    precision = training.accelerator.mixed_precision
    return compare(
        "training step over the bare step",
        ("trainer's step", training.step),
        ("bare step", bare_step(training, precision, settings)),
        repeats=args.repeats,
        goal=("<=", 1.05),
        note=f"{settings.backbone}, width {settings.width}, batch {settings.train_batch_size}, {precision}",
    )


def random_data(pipe: Any, settings: DDPMArguments) -> dict[str, ImageArrays]:
    """Four batches of noise, of the pipeline's size and classes."""
    n, generator = 4 * settings.train_batch_size, np.random.default_rng(0)
    shape = (n, *pipe.image_shape)
    names = [pipe.id2label[i] for i in range(pipe.num_classes)]
    return {"train": ImageArrays(generator.integers(0, 256, shape, dtype=np.uint8), np.arange(n) % len(names), names)}


def bare_step(training: OurTraining, precision: str, settings: DDPMArguments) -> Run:
    """Forward, mean squared error, backward and AdamW on fixed inputs, with a copy of the trainer's network."""
    network = type(training.network).from_config(training.network.config).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    batch = training.stream.step(0, settings.train_batch_size)[0]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            prediction = network(batch.noise, batch.timesteps, class_labels=batch.labels).sample
        F.mse_loss(prediction.float(), batch.noise).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


if __name__ == "__main__":
    run(SamplingArguments, main)
