"""Turn a checkpoint into a synthetic data set.

    clinsynth generate images --model runs/phantom --balance_to 486 --dataset phantom-fundus --output_dir runs/balanced
    clinsynth generate images --model runs/phantom --per_class 50 --from_images phantom-fundus --strength 0.3 \\
        --keep_if_checklist 4/5 --output_dir runs/changed
    accelerate launch scripts/generate_images.py --model runs/phantom --counts "grade 4=100" --output_dir runs/grade4
    clinsynth generate images --model runs/phantom --per_class 100000 --engine ray --address auto \\
        --output_dir runs/many

The folder --output_dir then loads with `datasets.load_dataset(folder)`: rows of image, label and seed, with
--from_images also of source_id, source_label and strength. Rows that no draw was good enough for are left out and
counted. A run that was stopped goes on when the same command is started again; finished shards are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clinsynth.arguments import run
from clinsynth.models.generators import SamplingArguments
from clinsynth.run_folder import check_same_run, create_run_folder, write_run_config
from clinsynth.synthesis.arguments import KeepArguments, SourceArguments, WorkersArguments, check_amounts

if TYPE_CHECKING:
    import torch

    from clinsynth.models.generators import Generator, Sample
    from clinsynth.synthesis.image_shards import ImageShards
    from clinsynth.synthesis.image_sources import ImageSources

MAY_DIFFER = frozenset({"output_dir", "batch_size", "dry_run", "engine", "address", "workers"})


@dataclass
class GenerateImagesArguments(KeepArguments, SourceArguments, SamplingArguments, WorkersArguments):
    """Turn a checkpoint into a synthetic data set.

    Say how many images with one of --per_class, --counts and --balance_to. Start the same command again to resume.
    Example:

      clinsynth generate images --model runs/phantom --per_class 50 --output_dir runs/phantom-synthetic
    """

    essentials: ClassVar[str] = (
        "model output_dir per_class counts balance_to dataset num_inference_steps guidance_scale "
        "reject_copies keep_if_class from_images seed dry_run"
    )

    dataset: str = ""
    """real data set whose train split --balance_to fills up and --reject_copies compares with; else not needed"""
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
    seed: int = 0
    """image i has its own seed derived from this one and i, kept in its row"""
    shard_size: int = 500
    """rows of a Parquet file: what a killed run loses at most, in each process"""
    dry_run: bool = False
    """print what would be generated, and stop"""

    def __post_init__(self) -> None:
        SamplingArguments.__post_init__(self)
        WorkersArguments.__post_init__(self)
        super().__post_init__()
        check_amounts(self)
        if self.reject_copies and not self.dataset:
            raise ValueError("--reject_copies needs --dataset, the data that --model was trained on; name it")
        if self.swept and not (self.keep_if_checklist or self.keep_if_class):
            raise ValueError(
                f"--strength {self.strength} is chosen by what is kept; give --keep_if_checklist or "
                "--keep_if_class, or one strength"
            )


def main(args: GenerateImagesArguments) -> None:
    """Generate the data set into `args.output_dir`."""
    import torch
    from accelerate import PartialState

    from clinsynth.synthesis.plan import describe_counts
    from clinsynth.synthesis.ray_shards import write_on_ray

    state = PartialState(cpu=not torch.accelerator.is_available())  # else several CPU processes go unseen
    generator, args, labels = load(args)
    planned = describe_counts(labels, generator.id2label, "images")
    if args.dry_run:
        print(planned)
        return
    output_dir = create_run_folder(args.output_dir)
    check_same_run(output_dir, args, MAY_DIFFER)
    with state.main_process_first():  # which chooses the strengths, for the others to find
        # of Ray's work only the facts are needed here, and the GPU is a worker's
        plan, facts, write = prepare(args, generator, labels, "cpu" if args.engine == "ray" else state.device)
    plan = replace(plan, num_processes=state.num_processes)
    if state.is_main_process:
        plan.begin(facts)
        write_run_config(output_dir, args)
        print(f"generating {planned}")
    state.wait_for_everyone()
    if args.engine == "ray":
        write_on_ray(plan, args, writer_of_shards)
    else:
        keep_memory_flat()
        write(plan, state.process_index)
    state.wait_for_everyone()
    if state.is_main_process:
        print(plan.finish(facts))


def load(args: GenerateImagesArguments) -> "tuple[Generator, GenerateImagesArguments, list[int]]":
    """The generator, the arguments with its guidance, and the label's number of each image."""
    from clinsynth.models.generators import load_generator
    from clinsynth.synthesis.plan import plan_labels

    generator = load_generator(args.model, args.dtype)
    labels = plan_labels(args, generator.id2label, generator.number_of, lambda: real_labels(args, generator), "images")
    return generator, replace(args, guidance_scale=generator.guidance(args)), labels


def prepare(
    args: GenerateImagesArguments, generator: "Generator", labels: list[int], device: "torch.device | str"
) -> "tuple[ImageShards, dict[str, Any], Callable[[ImageShards, int], None]]":
    """The plan for one process, what identifies the set, and what writes a process's shards of a plan."""
    from clinsynth.synthesis.image_checks import choose_strengths, load_keep
    from clinsynth.synthesis.image_shards import ImageShards, write_image_shards
    from clinsynth.synthesis.image_sources import load_sources

    output_dir = Path(args.output_dir)
    facts = generator.facts(args) | {"seed": args.seed}

    def sampler_from(sources: "ImageSources | None") -> "Sample":
        return generator.sampler(args, device, sources)

    sources = load_sources(args, generator, labels, args.seed) if args.from_images else None
    keep = load_keep(args, generator, sources, args.seed)
    if sources and args.swept:
        path = output_dir / "strengths.json"
        sources, keep = choose_strengths(args, generator, sources, keep, sampler_from, facts, path)
    facts |= keep.facts | ({"image_to_image": sources.facts} if sources else {})
    plan = ImageShards(
        output_dir,
        labels,
        generator.id2label,
        args.seed,
        args.shard_size,
        most_draws=args.most_draws,
        sources=sources,
    )
    sample, reject = sampler_from(sources), keep if keep.checks else None
    return plan, facts, lambda plan, index: write_image_shards(plan, sample, args.batch_size, index, reject)


def writer_of_shards(args: GenerateImagesArguments) -> "Callable[[int], None]":
    """What writes one shard, in a worker of Ray."""
    from clinsynth.models.weights import best_device

    generator, args, labels = load(args)
    plan, _, write = prepare(args, generator, labels, best_device())
    keep_memory_flat()
    each = replace(plan, num_processes=plan.num_shards)  # so that a process has one shard
    return lambda shard: write(each, shard)


def real_labels(args: GenerateImagesArguments, generator: "Generator") -> list[int]:
    """The class numbers of the real train split."""
    from clinsynth.data.images import load_image_dataset

    train = load_image_dataset(args, args.seed)["train"]
    names, known = train.features["label"].names, list(generator.id2label.values())
    if names != known:
        raise ValueError(
            f"--dataset {args.dataset} has the {len(names)} classes {names}, but --model {args.model} was trained on "
            f"the {len(known)} classes {known}; give the data set that it saw"
        )
    return list(train["label"])


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


if __name__ == "__main__":
    run(GenerateImagesArguments, main)
