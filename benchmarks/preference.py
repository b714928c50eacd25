"""What preference training costs over the network's own work: one command, ratios with their spread.

     OMP_NUM_THREADS=1 python -m benchmarks.preference --output_dir runs/benchmark-preference

Sections: step (the trainer's Diffusion-DPO step over the forwards and backwards that it needs: the network on winners
and losers, the reference on the same without gradient, the optimizer; and once more with the fidelity term's), latent
(the same for the LoRA of a small Stable Diffusion with random weights, latents and prompts at hand), candidates
(drawing candidates into a synthetic data set over the pipeline's calls alone).
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.timing import Comparison, Run, TimingArguments, compare, write_results
from clinsynth.arguments import run
from clinsynth.data.images import ImageArrays
from clinsynth.data.phantom_fundus import GRADES
from clinsynth.images import to_picture
from clinsynth.models.text_to_image import PromptedPipeline
from clinsynth.pipelines.class_conditioned_ddpm import ClassConditionedDDPMPipeline
from clinsynth.seeds import derive_seed
from clinsynth.trainers.diffusion.arguments import DDPMArguments
from clinsynth.trainers.diffusion.network import build_unet
from clinsynth.trainers.diffusion.process import build_scheduler
from clinsynth.trainers.preference.arguments import PreferenceArguments
from clinsynth.trainers.preference.candidates import draw_candidates, sample_fast
from clinsynth.trainers.preference.model import is_prompted
from clinsynth.trainers.preference.pairs import Candidate, make_pairs, read_pairs, write_pairs
from clinsynth.trainers.preference.step import Preferences, build_state, fidelity_stream, real_samples, train_step

Build = Callable[["PreferenceBenchmarkArguments"], Any]


@dataclass(kw_only=True)
class PreferenceBenchmarkArguments(TimingArguments):
    """Measure the cost of a DPO step and of drawing candidates as ratios."""

    known: ClassVar[tuple[str, ...]] = ("step", "latent", "candidates")

    sections: str = "step,latent,candidates"
    """Comma-separated: step, latent, candidates."""
    resolution: int = 32
    """Side of the images."""
    channels: int = 1
    """1 grey, 3 colour."""
    width: int = 32
    """Size of the network, as in `clinsynth train ddpm`; its weights are random, which costs the same."""
    batch_size: int = 16
    """Pairs a step, and real images."""
    drawn: int = 64
    """Candidates drawn a repeat."""
    num_inference_steps: int = 20
    """Steps of the sampler."""
    steps: int = 3
    """Training steps a repeat."""
    repeats: int = 7
    """Repeats of A B A B …"""


def main(args: PreferenceBenchmarkArguments) -> None:
    """Run the sections asked for; print and write their table."""
    args.begin()
    comparisons: list[Comparison] = []
    if "step" in args.wanted:
        comparisons += [dpo_step(args, weight, build_pipeline) for weight in (0.0, 1.0)]
    if "latent" in args.wanted:
        comparisons += [dpo_step(args, weight, build_latent) for weight in (0.0, 1.0)]
    if "candidates" in args.wanted:
        comparisons.append(candidates(args))
    write_results(args, "preference", comparisons)


def settings(args: PreferenceBenchmarkArguments, fidelity_weight: float) -> PreferenceArguments:
    """The trainer's arguments; its model and judges are given otherwise."""
    return PreferenceArguments(
        model="random weights",
        held_out_model="none",
        train_batch_size=args.batch_size,
        fidelity_weight=fidelity_weight,
        num_inference_steps=args.num_inference_steps,
    )


def build_pipeline(args: PreferenceBenchmarkArguments) -> Any:
    """A DDPM with random weights and the five grades."""
    first = DDPMArguments(width=args.width)
    unet = build_unet(first, args.resolution, args.channels, len(GRADES))
    return ClassConditionedDDPMPipeline(unet, build_scheduler(first), dict(enumerate(GRADES)))


def build_latent(args: PreferenceBenchmarkArguments) -> Any:
    """A small Stable Diffusion, a LoRA of rank 4 in its attention, and a prompt for each of the five grades."""
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    last = len(words) - 1
    numbers = {"vocab_size": len(words), "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last}
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 32}
    unet = UNet2DConditionModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(2 * args.width, 4 * args.width),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        cross_attention_dim=16,
    )
    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    pipe = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            norm_num_groups=4,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=16, intermediate_size=32, **layers, **numbers)),
        tokenizer=CLIPTokenizer({word: i for i, word in enumerate(words)}, merges=[], model_max_length=32),
        unet=unet,
        scheduler=DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return PromptedPipeline(pipe, dict(enumerate(GRADES)), {i: f"an eye, {name}" for i, name in enumerate(GRADES)})


def random_pairs(args: PreferenceBenchmarkArguments, pipeline: Any) -> Any:
    """A preference data set of noise in the form of a pipeline's images, four batches of it."""
    count, generator = 8 * args.batch_size, np.random.default_rng(0)
    channels, side, _ = pipeline.image_shape
    names, shape = list(pipeline.id2label.values()), (count, channels, side, side)
    pictures = [to_picture(image) for image in generator.integers(0, 256, shape, dtype=np.uint8)]
    images = Dataset.from_dict({"image": pictures}, features=Features(image=ImageFeature()))
    found = [Candidate(row, row // 2 % len(names), row // 2, row, float(row % 2)) for row in range(count)]
    facts = {"judge": "none", "checklist": "none", "checklist_version": 0}
    with tempfile.TemporaryDirectory() as folder:
        write_pairs(Path(folder) / "pairs", make_pairs(found, "margin", 0.0), images, names, facts)
        return read_pairs(Path(folder) / "pairs", unpaired=False).with_format(None)


def dpo_step(args: PreferenceBenchmarkArguments, fidelity_weight: float, build: Build) -> Comparison:
    """The body of the trainer's loop over its network calls, backward and optimizer step on fixed inputs."""
    chosen, pipeline = settings(args, fidelity_weight), build(args)
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    state, reference = build_state(chosen, pipeline, accelerator)
    preferences = Preferences(chosen, pipeline, reference, random_pairs(args, pipeline), accelerator)
    samples = real_samples(chosen, random_images(args, pipeline), pipeline, accelerator.device)
    real = fidelity_stream(chosen, samples, pipeline)
    unet, optimizer = accelerator.prepare(state.model, state.optimizer)

    def trainer() -> None:
        for _ in range(args.steps):
            train_step(accelerator, unet, optimizer, preferences, real, state.step)
            state.advance()

    with_it, latents = "with" if fidelity_weight else "without", is_prompted(pipeline)
    return compare(
        f"Diffusion-DPO step{', LoRA on latents' if latents else ''}, {with_it} fidelity term",
        (f"{args.steps} trainer's steps", trainer),
        (f"{args.steps} bare steps", bare_steps(args, bool(fidelity_weight), build)),
        repeats=args.repeats,
        goal=("<=", 1.1),
        note=f"width {2 * args.width if latents else args.width}, {args.batch_size} pairs",
    )


def random_images(args: PreferenceBenchmarkArguments, pipeline: Any) -> Any:
    """Two batches of real images, or of what stands for them, in the form of a pipeline's."""
    channels, side, _ = pipeline.image_shape
    count, generator = 2 * args.batch_size, np.random.default_rng(1)
    images = generator.integers(0, 256, (count, channels, side, side), dtype=np.uint8)
    return ImageArrays(images, np.arange(count) % pipeline.num_classes, list(pipeline.id2label.values()))


def bare_steps(args: PreferenceBenchmarkArguments, fidelity: bool, build: Build) -> Run:
    """Forwards of network and reference on 2 b samples, with the fidelity term one on b more, backward, AdamW."""
    network, reference = build(args).unet.train(), build(args).unet.eval()
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=0.0)
    side, channels = network.config["sample_size"], network.config["in_channels"]
    noisy = torch.randn(2 * args.batch_size, channels, side, side)
    times, labels = torch.randint(1000, (2 * args.batch_size,)), torch.randint(5, (2 * args.batch_size,))
    half = slice(args.batch_size)

    def steps() -> None:
        for _ in range(args.steps):
            loss = network(noisy, times, class_labels=labels).sample.square().mean()
            with torch.no_grad():
                reference(noisy, times, class_labels=labels)
            if fidelity:
                loss = loss + network(noisy[half], times[half], class_labels=labels[half]).sample.square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def candidates(args: PreferenceBenchmarkArguments) -> Comparison:
    """Drawing candidates into Parquet shards over the same images drawn by the fast sampler alone."""
    chosen, pipeline = settings(args, 1.0), build_pipeline(args)
    pipeline.set_progress_bar_config(disable=True)
    labels = [row % pipeline.num_classes for row in range(args.drawn)]
    seeds = [derive_seed(0, row) for row in range(args.drawn)]
    sample = sample_fast(pipeline, args.num_inference_steps)

    def drawn() -> None:
        with tempfile.TemporaryDirectory() as folder:
            draw_candidates(chosen, pipeline, labels, Path(folder) / "candidates")

    return compare(
        "drawing candidates",
        (f"{args.drawn} candidates kept as Parquet", drawn),
        (f"{args.drawn} images of the sampler", lambda: sample(labels, seeds)),
        repeats=args.repeats,
        goal=("<=", 1.05),
        note=f"{args.num_inference_steps} steps of DPM-Solver++, seconds a batch of {args.drawn}",
    )


if __name__ == "__main__":
    run(PreferenceBenchmarkArguments, main)
