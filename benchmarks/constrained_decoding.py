"""What constrained decoding costs: state and mask beside xgrammar's processor and lm-format-enforcer's own way.

     python -m benchmarks.constrained_decoding --output_dir runs/benchmark-decoding \
         --model SmolLM2-135M-Instruct.Q4_1.gguf

Random valid texts are replayed, without the model: what is timed is a `LogitsProcessor`'s call, that is the state's
step and the masking of logits (batch, V) in place. The texts are made under our constraint, and those kept that
xgrammar accepts. lm-format-enforcer's own glue does not import with transformers 5: its steps are written out here,
and timed for a few tokens, as they take milliseconds each. With `--sections model` a model writes, with and without.
"""

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinsynth.arguments import run

if TYPE_CHECKING:
    from benchmarks.timing import Comparison

SECTIONS = ["parts", "peers", "length", "memory", "model"]
STOCK_STEPS = 6
STOCK_ROWS = 8


@dataclass
class DecodingArguments:
    """Measure constrained decoding as ratios."""

    model: str
    """Folder or id of a model (its tokenizer alone is read but for the section `model`), or a .gguf file."""
    output_dir: str
    """Folder for constrained_decoding.json and constrained_decoding.md."""
    sections: str = "parts,peers,length"
    """Comma-separated: parts, peers, length, memory, model."""
    schema: str = "Icd10Report"
    """Icd10Report or GeneratedSamples."""
    batch_size: int = 64
    """Rows of a call, without the model."""
    steps: int = 250
    """Tokens of each row that are replayed."""
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
        for name in ("batch_size", "steps", "repeats", "samples", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, got {getattr(self, name)}")


def main(args: DecodingArguments) -> None:
    """Run the sections asked for; print and write their table."""
    import torch

    from benchmarks.timing import table
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint, schemas
    from clinsynth.run_folder import atomic_write, create_run_folder, describe_environment

    torch.set_num_threads(args.threads)
    output_dir = create_run_folder(args.output_dir)
    tokenizer = load(args.model, model=False)
    schema = getattr(schemas, args.schema).model_json_schema()
    constraint = SchemaConstraint(tokenizer, schema)
    wanted, lines = args.sections.split(","), []
    comparisons: list[Comparison] = []
    if "parts" in wanted:
        lines += measure_parts(args, tokenizer, schema)
    if "peers" in wanted:
        comparisons += compare_peers(args, constraint, schema)
    if "length" in wanted:
        comparisons += compare_lengths(args, constraint)
    if "memory" in wanted:
        lines += measure_memory(args, constraint)
    if "model" in wanted:
        comparisons += compare_with_model(args, tokenizer, schema)
    text = "\n".join([table(comparisons, args.clock), "", *lines])
    record = {"environment": describe_environment(), "arguments": vars(args), "lines": lines}
    record["comparisons"] = [comparison.record() for comparison in comparisons]
    for name, content in (("json", json.dumps(record, indent=2)), ("md", text)):
        atomic_write(output_dir / f"constrained_decoding.{name}", f"{content}\n".encode())
    print(text)


def load(name: str, model: bool) -> Any:
    """The tokenizer, or the causal language model, of a folder, an id or a .gguf file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name)
    source = str(path.parent) if path.suffix == ".gguf" else name
    options = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    return (AutoModelForCausalLM if model else AutoTokenizer).from_pretrained(source, **options)


def random_texts(constraint: Any, rows: int, seed: int = 0, most: int = 1 << 30) -> Any:
    """Tokens of valid texts, int64 (rows, 1 + longest, or at most 1 + `most`): a token of prompt first, the end token
    last and behind."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, constraint.tables.size, generator=generator)
    processor, ids = constraint.processor(1, rows), torch.zeros(rows, 1, dtype=torch.long)
    while any(row is not None for row in processor.rows) and ids.shape[1] <= most:
        shift = int(torch.randint(constraint.tables.size, (1,), generator=generator))
        ids = torch.cat([ids, processor(ids, logits.roll(shift, 1)).argmax(1, keepdim=True)], 1)
        ended = (ids[:, -1] == constraint.end_token).tolist()
        processor.rows = [None if end else row for end, row in zip(ended, processor.rows, strict=True)]
    return ids


def replay(processor: Callable[[Any, Any], Any], ids: Any, steps: int, logits: Any, prompt: int = 1) -> None:
    """Call a processor as `generate` does, for texts that are known."""
    for step in range(steps):
        processor(ids[:, : prompt + step], logits)


def measure_parts(args: DecodingArguments, tokenizer: Any, schema: dict[str, Any]) -> list[str]:
    """Milliseconds of building, and microseconds a token and row of a cold and a warm state step."""
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint, token_tables

    start = time.process_time()
    token_tables.build(token_tables.token_bytes(tokenizer))
    built = time.process_time() - start
    constraint = SchemaConstraint(tokenizer, schema)
    start = time.process_time()
    ids = random_texts(constraint, args.batch_size, most=args.steps)
    cold = time.process_time() - start
    steps = min(args.steps, ids.shape[1] - 1)
    processor, seconds = constraint.processor(1, args.batch_size), 0.0
    for step in range(steps):
        start = time.process_time()
        if step:
            processor.take(ids[:, step].tolist())
        [row.next() for row in processor.rows if row is not None]
        seconds += time.process_time() - start
    return [
        f"- tokenizer's tables built in {built * 1e3:.0f} ms",
        f"- first {args.batch_size} texts of {ids.shape[1]} tokens, masks made on the way: {cold:.2f} s",
        f"- warm state step alone: {seconds / steps / args.batch_size * 1e6:.1f} µs a token and row (goal ≤ 50)",
        f"- {len(constraint.graph.nodes)} nodes and {constraint.pool.used} masks",
    ]


def compare_peers(args: DecodingArguments, constraint: Any, schema: dict[str, Any]) -> "list[Comparison]":
    """Our processor beside xgrammar's and beside lm-format-enforcer's own way, for the same texts."""
    import torch
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    from benchmarks.timing import compare

    info = xgrammar.TokenizerInfo.from_huggingface(constraint.tokenizer, vocab_size=constraint.tables.size)
    compiler = xgrammar.GrammarCompiler(info)
    grammar = compiler.compile_json_schema(schema, any_whitespace=False, separators=(", ", ": "))
    kept: list[Any] = []
    while sum(map(len, kept)) < args.batch_size:
        more = random_texts(constraint, args.batch_size, seed=len(kept), most=args.steps)
        kept.append(more[[accepts(xgrammar.GrammarMatcher(grammar), row) for row in more[:, 1:].tolist()]])
    width = min(rows.shape[1] for rows in kept)
    ids = torch.cat([rows[:, :width] for rows in kept])[: args.batch_size]
    steps, logits = ids.shape[1] - 1, torch.randn(args.batch_size, constraint.tables.size)
    scale = 1 / (steps * args.batch_size)
    ours = ("clinsynth", lambda: replay(constraint.processor(1, args.batch_size), ids, steps, logits))
    theirs = ("xgrammar", lambda: replay(LogitsProcessor(grammar), ids, steps, logits))
    rows = min(STOCK_ROWS, args.batch_size)
    stock = ("lm-format-enforcer's own", stock_way(constraint.tokenizer, schema, ids[:rows], logits[:rows]))
    what = f"a token and row, batch {args.batch_size}"
    note = f"{steps} tokens a row, the stock way {STOCK_STEPS} within the free text"
    stock_scale = 1 / (STOCK_STEPS * rows)
    return [
        compare(what, ours, theirs, repeats=args.repeats, goal=("<=", 1.2), scale=(scale, scale), note=note),
        compare(what, ours, stock, repeats=args.repeats, goal=("<=", 0.04), scale=(scale, stock_scale)),
    ]


def accepts(matcher: Any, tokens: list[int]) -> bool:
    """Whether a grammar accepts a text, up to its end."""
    return all(matcher.is_terminated() or matcher.accept_token(token) for token in tokens)


def stock_way(tokenizer: Any, schema: dict[str, Any], ids: Any, logits: Any) -> Callable[[], None]:
    """What lm-format-enforcer's integration would do within the first free text, its tokenizer data ready."""
    import torch
    from lmformatenforcer import JsonSchemaParser, TokenEnforcer, TokenEnforcerTokenizerData

    zero = tokenizer.encode("0")[-1]
    tokens = []
    for token in sorted(set(range(len(tokenizer))) - set(tokenizer.all_special_ids)):
        after, alone = tokenizer.decode([zero, token])[1:], tokenizer.decode([token])
        tokens.append((token, after, len(after) > len(alone)))
    data = TokenEnforcerTokenizerData(
        tokens, lambda t: tokenizer.decode(t).rstrip("\ufffd"), tokenizer.eos_token_id, False, len(tokenizer)
    )
    head = len(tokenizer.encode(json.dumps({name: "" for name in list(schema["properties"])[:1]})[:-2]))
    enforcer = TokenEnforcer(data, JsonSchemaParser(schema))
    sequences = ids[:, 1:].tolist()
    for row in sequences:
        for step in range(head + 1):
            enforcer.get_allowed_tokens(row[:step])
    known = dict(enforcer.prefix_states)

    def step_all() -> None:
        enforcer.prefix_states = dict(known)
        for step in range(head + 1, head + 1 + STOCK_STEPS):
            mask = torch.full_like(logits, -torch.inf)
            for number, row in enumerate(sequences):
                mask[number, enforcer.get_allowed_tokens(row[:step]).allowed_tokens] = 0
            logits + mask

    return step_all


def compare_lengths(args: DecodingArguments, constraint: Any) -> "list[Comparison]":
    """Our processor behind prompts of 1,000 and 8,000 tokens beside none; and late in a text beside early."""
    import torch

    from benchmarks.timing import compare

    ids = random_texts(constraint, args.batch_size, most=args.steps)
    logits = torch.randn(args.batch_size, constraint.tables.size)
    steps = min(args.steps, ids.shape[1] - 1)
    result = []
    for prompt in (1000, 8000):
        long = torch.cat([torch.zeros(args.batch_size, prompt - 1, dtype=torch.long), ids], 1)
        behind = lambda long=long, prompt=prompt: replay(  # noqa: E731
            constraint.processor(prompt, args.batch_size), long, steps, logits, prompt
        )
        none = lambda: replay(constraint.processor(1, args.batch_size), ids, steps, logits)  # noqa: E731
        sides = ((f"{prompt} tokens", behind), ("1 token", none))
        result.append(compare("prompt's length", *sides, repeats=args.repeats, goal=("<=", 1.1)))
    return result


def measure_memory(args: DecodingArguments, constraint: Any) -> list[str]:
    """Peak resident size, nodes and masks after a tenth of the texts and after all."""
    lines, done = [], 0
    for wanted in (args.samples // 10, args.samples):
        while done < wanted:
            random_texts(constraint, args.batch_size, seed=done)
            done += args.batch_size
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        counts = f"{len(constraint.graph.nodes)} nodes, {constraint.pool.used} masks"
        lines.append(f"- after {done} texts: peak {peak:.0f} MB, {counts}")
    return lines


def compare_with_model(args: DecodingArguments, tokenizer: Any, schema: dict[str, Any]) -> "list[Comparison]":
    """A generated token with the model, constrained beside unconstrained, the same sampling in both."""
    import torch
    from transformers import LogitsProcessorList

    from benchmarks.timing import compare
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint
    from clinsynth.pipelines.structured_medical_text.seeded_sampling import SeededSampling
    from clinsynth.pipelines.structured_medical_text.text_rows import plain_generation

    model = load(args.model, model=True).eval()
    prompt = tokenizer("Write a report.").input_ids
    result = []
    for rows in (1, 8):
        constraint, ids = SchemaConstraint(tokenizer, schema), torch.tensor([prompt] * rows)

        def write(constrained: bool, rows: int = rows, constraint: Any = constraint, ids: Any = ids) -> None:
            steps = min(args.steps, 60)
            first = [constraint.processor(ids.shape[1], rows)] if constrained else []
            sampling = SeededSampling(list(range(rows)), 1.0, 0.95, ids.shape[1], steps, first[0] if first else None)
            settings = plain_generation(steps, tokenizer.eos_token_id)
            settings.min_new_tokens = steps
            processors = LogitsProcessorList([*first, sampling])
            model.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=settings, logits_processor=processors
            )

        sides = (("constrained", lambda w=write: w(True)), ("unconstrained", lambda w=write: w(False)))
        result.append(compare(f"with the model, batch {rows}", *sides, repeats=args.repeats, goal=("<=", 1.05)))
    return result


if __name__ == "__main__":
    run(DecodingArguments, main)
