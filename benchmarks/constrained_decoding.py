"""What constrained decoding costs and brings.

     python -m benchmarks.constrained_decoding --output_dir runs/benchmark-decoding \
         --model SmolLM2-135M-Instruct.Q4_1.gguf --sections parts,peers,length,memory,model,yield

`parts`, `peers`, `length` and `memory` replay random valid texts and need a tokenizer alone: what is timed is a
`LogitsProcessor`'s call, the state's step and the masking of logits (batch, V) in place. In `model` and `yield` a
model writes, with the constraint and without (decoding_model.py).
"""

import copy
import importlib
import json
import random
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from clinsynth.arguments import run

if TYPE_CHECKING:
    from benchmarks.timing import Comparison

SECTIONS = ["parts", "peers", "length", "memory", "model", "yield"]
SLOW_STEPS, SLOW_ROWS = 20, 8
"""What is timed of lm-format-enforcer, which is slow."""
EARLY, LATE = 20, 2000
"""Tokens of a long text behind which those that are compared begin."""
MOST_GROWTH_MB = 20.0


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
    before: str | None = None
    """Folder pipelines/structured_medical_text of another version, which the section `peers` compares with."""
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
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint, schemas

    tokenizer = load(args.model, model=False)
    schema = getattr(schemas, args.schema).model_json_schema()
    wanted, comparisons, lines = args.sections.split(","), [], []
    if "parts" in wanted:
        lines += measure_parts(args, tokenizer, schema)
    constraint = SchemaConstraint(tokenizer, schema)
    if "memory" in wanted:
        lines += measure_memory(args, constraint)
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


def random_texts(constraint: Any, rows: int, seed: int = 0, most: int = 1 << 30) -> Any:
    """Tokens of valid texts, int64 (rows, 1 + longest, or at most 1 + `most`): a token of prompt first, the end token
    last and behind."""
    import torch

    generator, size = torch.Generator().manual_seed(seed), len(constraint.tokenizer)
    logits = torch.randn(rows, size, generator=generator)
    processor, ids = constraint.processor(1, rows), torch.zeros(rows, 1, dtype=torch.long)
    while any(row is not None for row in processor.rows) and ids.shape[1] <= most:
        shift = int(torch.randint(size, (1,), generator=generator))
        ids = torch.cat([ids, processor(ids, logits.roll(shift, 1)).argmax(1, keepdim=True)], 1)
        ended = (ids[:, -1] == constraint.end_token).tolist()
        processor.rows = [None if end else row for end, row in zip(ended, processor.rows, strict=True)]
    return ids


def replay(processor: Callable[[Any, Any], Any], ids: Any, logits: Any, prompt: int = 1) -> None:
    """Call a processor as `generate` does, for texts that are known."""
    for length in range(prompt, ids.shape[1]):
        processor(ids[:, :length], logits)


def measure_parts(args: Any, tokenizer: Any, schema: dict[str, Any]) -> list[str]:
    """Seconds and megabytes of building, and microseconds a token and row of the state's step alone."""
    import psutil

    from clinsynth.pipelines.structured_medical_text import SchemaConstraint
    from clinsynth.pipelines.structured_medical_text.vocabulary import Vocabulary

    before, start = psutil.Process().memory_info().rss, time.process_time()
    vocabulary = Vocabulary(tokenizer)
    built, size = time.process_time() - start, (psutil.Process().memory_info().rss - before) / 1e6
    constraint = SchemaConstraint(tokenizer, schema)
    start = time.process_time()
    ids = random_texts(constraint, args.batch_size, most=args.steps)
    cold = time.process_time() - start
    processor, seconds = constraint.processor(1, args.batch_size), 0.0
    for token in ids[:, 1:].T:
        start = time.process_time()
        processor.forced = [row.next() if row else 0 for row in processor.rows]
        seconds += time.process_time() - start
        processor.fill_bits()
        start = time.process_time()
        processor.take(token.tolist())
        seconds += time.process_time() - start
    return [
        f"- vocabulary of {len(vocabulary.tokens)} tokens built in {built:.2f} s and {size:.0f} MB",
        f"- first {args.batch_size} texts of {ids.shape[1]} tokens: {cold:.2f} s",
        f"- state step alone: {seconds / ids[:, 1:].numel() * 1e6:.1f} µs a token and row (goal ≤ 50)",
    ]


def compare_peers(args: Any, constraint: Any, schema: dict[str, Any]) -> "list[Comparison]":
    """Our processor beside another version of it, xgrammar's own, and our two other back ends."""
    import torch
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    from benchmarks.timing import compare
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint

    tokenizer = constraint.tokenizer
    logits = torch.randn(args.batch_size, len(tokenizer))
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=len(tokenizer))
    compiler = xgrammar.GrammarCompiler(info)
    grammar = compiler.compile_json_schema(schema, any_whitespace=False, separators=(", ", ": "))
    ids = accepted(args, constraint, lambda row: accepts(xgrammar.GrammarMatcher(grammar), row))
    other = SchemaConstraint(tokenizer, schema, "xgrammar")
    sides: dict[str, tuple[float, Callable[[], Any]]] = {
        "xgrammar's own": (1.2, lambda: LogitsProcessor(grammar)),
        "back end xgrammar": (1.2, lambda: other.processor(1, args.batch_size)),
    }
    if args.before:
        old = import_folder(args.before).SchemaConstraint(tokenizer, schema)
        sides = {"before": (1.3, lambda: old.processor(1, args.batch_size)), **sides}
    scale = 1 / ((ids.shape[1] - 1) * args.batch_size)
    ours = ("llguidance", lambda: replay(constraint.processor(1, args.batch_size), ids, logits))
    what, note = f"a token and row, batch {args.batch_size}", f"{ids.shape[1] - 1} tokens a row"
    options: dict[str, Any] = {"repeats": args.repeats, "scale": (scale, scale), "note": note}
    result = []
    for name, (goal, make) in sides.items():
        theirs = (name, lambda make=make: replay(make(), ids, logits))
        result.append(compare(what, ours, theirs, goal=("<=", goal), **options))
    return [*result, compare_with_slow(args, constraint, schema, logits)]


def accepted(args: Any, constraint: Any, is_accepted: Callable[[list[int]], bool]) -> Any:
    """Tokens of random texts that a peer accepts, int64 (batch, 1 + longest)."""
    import torch

    kept: list[Any] = []
    while sum(map(len, kept)) < args.batch_size:
        more = random_texts(constraint, args.batch_size, seed=len(kept), most=args.steps)
        kept.append(more[[is_accepted(row) for row in more[:, 1:].tolist()]])
    width = min(rows.shape[1] for rows in kept)
    return torch.cat([rows[:, :width] for rows in kept])[: args.batch_size]


def accepts(matcher: Any, tokens: list[int]) -> bool:
    """Whether a grammar accepts a text, up to its end."""
    return all(matcher.is_terminated() or matcher.accept_token(token) for token in tokens)


def import_folder(folder: str) -> Any:
    """The module schema_logits of a pipeline's folder, under a name of its own and without its __init__.py."""
    package = types.ModuleType("structured_medical_text_before")
    package.__path__ = [folder]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.schema_logits")


def compare_with_slow(args: Any, constraint: Any, schema: dict[str, Any], logits: Any) -> "Comparison":
    """Our processor beside the back end lm-format-enforcer, each on texts of its own."""
    from benchmarks.timing import compare
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint

    slow = SchemaConstraint(constraint.tokenizer, schema, "lm-format-enforcer")
    rows = min(SLOW_ROWS, args.batch_size)
    sides = []
    for one in (constraint, slow):
        ids = random_texts(one, rows, most=min(SLOW_STEPS, args.steps))
        sides.append(lambda one=one, ids=ids: replay(one.processor(1, rows), ids, logits[:rows]))
    scale = 1 / (min(SLOW_STEPS, args.steps) * rows)
    names = ("llguidance", "back end lm-format-enforcer")
    options: dict[str, Any] = {"repeats": args.repeats, "goal": ("<=", 0.2), "scale": (scale, scale)}
    return compare(f"a token and row, batch {rows}", (names[0], sides[0]), (names[1], sides[1]), **options)


def compare_lengths(args: Any, constraint: Any) -> "list[Comparison]":
    """Our processor behind prompts of 1,000 and 8,000 tokens beside none; and late in a text beside early."""
    import torch

    from benchmarks.timing import compare

    ids = random_texts(constraint, args.batch_size, most=args.steps)
    logits = torch.randn(args.batch_size, len(constraint.tokenizer))
    result = []
    for prompt in (1000, 8000):
        long = torch.cat([torch.zeros(args.batch_size, prompt - 1, dtype=torch.long), ids], 1)
        behind = lambda long=long, prompt=prompt: replay(  # noqa: E731
            constraint.processor(prompt, args.batch_size), long, logits, prompt
        )
        none = lambda: replay(constraint.processor(1, args.batch_size), ids, logits)  # noqa: E731
        sides = ((f"{prompt} tokens", behind), ("1 token", none))
        result.append(compare("prompt's length", *sides, repeats=args.repeats, goal=("<=", 1.1)))
    return [*result, compare_early_and_late(args, constraint.tokenizer, logits)]


def compare_early_and_late(args: Any, tokenizer: Any, logits: Any) -> "Comparison":
    """The same number of tokens of one long free text, far behind its beginning and near it."""
    from benchmarks.timing import compare
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint

    text = {"type": "string", "minLength": 50_000, "maxLength": 60_000}
    constraint = SchemaConstraint(tokenizer, {"type": "object", "properties": {"text": text}})
    sides: list[tuple[str, Callable[[], None]]] = []
    ids = random_texts(constraint, args.batch_size, most=LATE + args.steps)
    for begin in (LATE, EARLY):
        processor = constraint.processor(1, args.batch_size)
        for token in ids[:, 1:begin].T.tolist():
            [row.next() for row in processor.rows]
            processor.take(token)
        [row.next() for row in processor.rows]
        going_on = lambda p=processor, begin=begin: go_on(p, ids[:, : begin + args.steps], logits, begin + 1)  # noqa: E731
        sides.append((f"behind {begin} tokens", going_on))
    return compare("text's length", sides[0], sides[1], repeats=args.repeats, goal=("<=", 1.1))


def go_on(processor: Any, ids: Any, logits: Any, begin: int) -> None:
    """`replay` from `begin` on with a processor that has read what is before, and leave it where it was."""
    rows = processor.rows
    processor.rows = [copy.copy(row) for row in rows]
    for row in processor.rows:
        row.state, row.written = row.state.deep_copy(), bytearray(row.written)
    replay(processor, ids, logits, begin)
    processor.rows = rows


def measure_memory(args: Any, constraint: Any) -> list[str]:
    """Resident size after a tenth of the texts and after all; goal: no more than 20 MB apart."""
    import psutil

    chooser, sizes, counts = random.Random(0), [], []
    batches = max(2, args.samples // args.batch_size)
    for batch in range(batches):
        draw_texts(constraint.processor(1, args.batch_size), chooser)
        if batch + 1 in (max(1, batches // 10), batches):
            sizes.append(psutil.Process().memory_info().rss / 1e6)
            counts.append((batch + 1) * args.batch_size)
    lines = [f"- after {count} texts: {size:.1f} MB resident" for count, size in zip(counts, sizes, strict=True)]
    growth = sizes[1] - sizes[0]
    met = "met" if growth <= MOST_GROWTH_MB else "not met"
    return [*lines, f"- growth {growth:.1f} MB, goal ≤ {MOST_GROWTH_MB:.0f} MB: {met}"]


def draw_texts(processor: Any, chooser: random.Random) -> None:
    """Whole texts of tokens drawn evenly from those allowed, without logits."""
    while any(processor.rows):
        processor.forced = [row.next() if row else 0 for row in processor.rows]
        processor.fill_bits()
        tokens = zip(processor.forced, processor.bits, strict=True)
        processor.take([token if token >= 0 else draw_token(bits, chooser) for token, bits in tokens])


def draw_token(bits: Any, chooser: random.Random) -> int:
    """One of the tokens of a mask."""
    import numpy as np

    for token in (chooser.randrange(32 * len(bits)) for _ in range(40)):
        if int(bits[token // 32]) >> token % 32 & 1:
            return token
    # so few are allowed that none was met
    return chooser.choice(np.unpackbits(bits.view(np.uint8), bitorder="little").nonzero()[0].tolist())


if __name__ == "__main__":
    run(DecodingArguments, main)
