"""What constrained decoding costs and brings.

     python -m benchmarks.constrained_decoding --output_dir runs/benchmark-decoding \
         --model SmolLM2-135M-Instruct.Q4_1.gguf --sections parts,peers,length,memory,model,yield

`parts`, `peers`, `length` and `memory` replay random valid texts and need a tokenizer alone (decoding_replay.py,
decoding_peers.py). In `model` and `yield` a model writes, with the constraint and without (decoding_model.py).
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clinsynth.arguments import run

if TYPE_CHECKING:
    from benchmarks.timing import Comparison

SECTIONS = ["parts", "peers", "length", "memory", "model", "yield"]


@dataclass
class DecodingArguments:
    """Measure constrained decoding as ratios."""

    model: str
    """Folder or id of a model (its tokenizer alone is read but for the sections `model` and `yield`), or a .gguf
    file."""
    output_dir: str
    """Folder for constrained_decoding.json and constrained_decoding.md."""
    sections: str = "parts,peers,length"
    """Comma-separated: parts, peers, length, memory, model, yield."""
    schema: str = "Icd10Report"
    """Icd10Report or GeneratedSamples, without the model; the section `model` takes both."""
    batch_size: int = 64
    """Rows of a call, without the model."""
    steps: int = 250
    """Tokens of each row that are replayed."""
    model_steps: int = 32
    """Tokens of each row that the model writes in the section `model`."""
    repeats: int = 5
    """Repeats of A B A B …"""
    samples: int = 10_000
    """Texts of the section `memory`."""
    threads: int = 1
    """Threads of torch."""
    clock: str = "cpu"
    """Seconds the table shows: `cpu` (this process's, which others on the machine disturb least) or `wall`."""

    def __post_init__(self) -> None:
        for section in self.sections.split(","):
            if section not in SECTIONS:
                raise ValueError(f"--sections must be of {', '.join(SECTIONS)}, got {section!r}")
        if self.schema not in ("Icd10Report", "GeneratedSamples"):
            raise ValueError(f"--schema must be Icd10Report or GeneratedSamples, got {self.schema!r}")
        if self.clock not in ("cpu", "wall"):
            raise ValueError(f"--clock must be cpu or wall, got {self.clock!r}")
        for name in ("batch_size", "steps", "model_steps", "repeats", "samples", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, got {getattr(self, name)}")


def main(args: DecodingArguments) -> None:
    """Run the sections asked for; print and write their table."""
    import torch

    from benchmarks.timing import table
    from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment

    torch.set_num_threads(args.threads)
    output_dir = create_run_folder(args.output_dir)
    comparisons, lines = measure_without_model(args)
    if {"model", "yield"} & set(args.sections.split(",")):
        with_model = measure_with_model(args)
        comparisons, lines = comparisons + with_model[0], lines + with_model[1]
    text = "\n".join([table(comparisons, args.clock), "", *lines])
    record = {"environment": describe_environment(), "arguments": vars(args), "lines": lines}
    record["comparisons"] = [comparison.record() for comparison in comparisons]
    for name, content in (("json", json.dumps(record, indent=2)), ("md", text)):
        atomic_write(output_dir / f"constrained_decoding.{name}", f"{content}\n".encode())
    print(text)


def measure_without_model(args: DecodingArguments) -> "tuple[list[Comparison], list[str]]":
    """The sections that need a tokenizer alone: their comparisons and lines."""
    from benchmarks.decoding_model import load
    from benchmarks.decoding_peers import compare_peers
    from benchmarks.decoding_replay import compare_lengths, measure_memory, measure_parts
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint, schemas

    tokenizer = load(args.model, model=False)
    schema = getattr(schemas, args.schema).model_json_schema()
    constraint = SchemaConstraint(tokenizer, schema)
    wanted, comparisons, lines = args.sections.split(","), [], []
    if "memory" in wanted:
        lines += measure_memory(args, constraint)
    if "parts" in wanted:
        lines += measure_parts(args, tokenizer, schema)
    if "peers" in wanted:
        comparisons += compare_peers(args, constraint, schema)
    if "length" in wanted:
        comparisons += compare_lengths(args, constraint)
    return comparisons, lines


def measure_with_model(args: DecodingArguments) -> "tuple[list[Comparison], list[str]]":
    """The sections in which a model writes: their comparisons and lines."""
    from benchmarks.decoding_model import compare_with_model, load, measure_yield

    tokenizer, model = load(args.model, model=False), load(args.model, model=True).eval()
    wanted = args.sections.split(",")
    comparisons = compare_with_model(args, model, tokenizer) if "model" in wanted else []
    return comparisons, measure_yield(args, model, tokenizer) if "yield" in wanted else []


if __name__ == "__main__":
    run(DecodingArguments, main)
