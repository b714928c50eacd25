"""What constrained decoding costs and brings.

     python -m benchmarks.constrained_decoding --output_dir runs/benchmark-decoding \
         --model SmolLM2-135M-Instruct.Q4_1.gguf --sections parts,peers,length,memory,model,yield

`parts`, `peers`, `length` and `memory` replay random valid texts and need a tokenizer alone: what is timed is a
`LogitsProcessor`'s call, the state's step and the masking of logits (batch, V) in place. In `model` and `yield` a
model writes, with the constraint and without.
"""

import copy
import importlib
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import psutil
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import AutoTokenizer, LogitsProcessorList

from benchmarks.timing import Comparison, TimingArguments, compare, show, timed, write_results
from clinsynth.arguments import run
from clinsynth.data.tasks import load_task
from clinsynth.models.language_models import load_causal_model
from clinsynth.pipelines.structured_medical_text import SchemaConstraint, back_ends, schema_logits, schemas
from clinsynth.pipelines.structured_medical_text.prompts import encode_messages, pad_left, render_messages
from clinsynth.pipelines.structured_medical_text.text_rows import SeededSampling, plain_generation

SLOW_STEPS, SLOW_ROWS = 20, 8
"""What is timed of lm-format-enforcer, which is slow."""
EARLY, LATE = 20, 2000
"""Tokens of a long text behind which those that are compared begin."""
MOST_GROWTH_MB = 20.0
ROWS = 8
YIELD_TOKENS = 160
"""Tokens a text may take in the section `yield`: more than 400 characters of English need."""
SAMPLING = {"temperature": 1.0, "top_p": 0.95}


@dataclass(kw_only=True)
class DecodingArguments(TimingArguments):
    """Measure constrained decoding as ratios."""

    known: ClassVar[tuple[str, ...]] = ("parts", "peers", "length", "memory", "model", "yield")

    model: str
    """Folder or id of a model (its tokenizer alone is read but for the sections `model` and `yield`), or a .gguf
    file."""
    sections: str = "parts,peers,length"
    """Comma-separated: parts, peers, length, memory, model, yield."""
    schema: Literal["Icd10Report", "GeneratedSamples"] = "Icd10Report"
    """Icd10Report or GeneratedSamples, without the model; the section `model` takes both."""
    before: str | None = None
    """Folder pipelines/structured_medical_text of another version, which the section `peers` compares with."""
    batch_size: int = 64
    """Rows of a call, without the model."""
    steps: int = 250
    """Tokens of each row that are replayed."""
    model_steps: int = 32
    """Tokens of each row that the model writes in the section `model`."""
    samples: int = 10_000
    """Texts of the section `memory`."""


def main(args: DecodingArguments) -> None:
    """Run the sections asked for; print and write their table."""
    args.begin()
    tokenizer, schema = load_tokenizer(args.model), getattr(schemas, args.schema).model_json_schema()
    comparisons: list[Comparison] = []
    lines = measure_parts(args, tokenizer, schema) if "parts" in args.wanted else []
    constraint = SchemaConstraint(tokenizer, schema)
    if "memory" in args.wanted:
        lines += measure_memory(args, constraint)
    if "peers" in args.wanted:
        comparisons += compare_peers(args, constraint, schema)
    if "length" in args.wanted:
        comparisons += compare_lengths(args, constraint)
    if {"model", "yield"} & set(args.wanted):
        model, _ = load_causal_model(args.model)
        comparisons += compare_with_model(args, model, tokenizer) if "model" in args.wanted else []
        lines += measure_yield(args, model, tokenizer) if "yield" in args.wanted else []
    write_results(args, "constrained_decoding", comparisons, "\n".join(lines), lines=lines)


def random_texts(constraint: SchemaConstraint, rows: int, seed: int = 0, most: int = 1 << 30) -> Any:
    """Tokens of valid texts, int64 (rows, 1 + longest, or at most 1 + `most`): a token of prompt first, the end token
    last and behind."""
    generator, size = torch.Generator().manual_seed(seed), len(constraint.tokenizer)
    logits = torch.randn(rows, size, generator=generator)
    processor, ids = constraint.processor(1, rows), torch.zeros(rows, 1, dtype=torch.long)
    while any(row is not None for row in processor.rows) and ids.shape[1] <= most:
        shift = int(torch.randint(size, (1,), generator=generator))
        ids = torch.cat([ids, processor(ids, logits.roll(shift, 1)).argmax(1, keepdim=True)], 1)
        ended = (ids[:, -1] == constraint.end_token).tolist()
        processor.rows = [None if end else row for end, row in zip(ended, processor.rows, strict=True)]
    return ids


def replay(processor: Callable[[Any, Any], Any], ids: Tensor, logits: Tensor, prompt: int = 1) -> None:
    """Call a processor as `generate` does, for texts that are known."""
    for length in range(prompt, ids.shape[1]):
        processor(ids[:, :length], logits)


def measure_parts(args: DecodingArguments, tokenizer: Any, schema: dict[str, Any]) -> list[str]:
    """Seconds and megabytes of building, and microseconds a token and row of the state's step alone."""
    before, start = psutil.Process().memory_info().rss, time.process_time()
    known = back_ends.Vocabulary(tokenizer)
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
        f"- vocabulary of {len(known.tokens)} tokens built in {built:.2f} s and {size:.0f} MB",
        f"- first {args.batch_size} texts of {ids.shape[1]} tokens: {cold:.2f} s",
        f"- state step alone: {seconds / ids[:, 1:].numel() * 1e6:.1f} µs a token and row (goal ≤ 50)",
    ]


def compare_peers(args: DecodingArguments, constraint: SchemaConstraint, schema: dict[str, Any]) -> list[Comparison]:
    """Our processor beside another version of it, xgrammar's own, and our two other back ends."""
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

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


def accepted(args: DecodingArguments, constraint: SchemaConstraint, is_accepted: Callable[[list[int]], bool]) -> Any:
    """Tokens of random texts that a peer accepts, int64 (batch, 1 + longest)."""
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


def compare_with_slow(
    args: DecodingArguments, constraint: SchemaConstraint, schema: dict[str, Any], logits: Tensor
) -> Comparison:
    """Our processor beside the back end lm-format-enforcer, each on texts of its own."""
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


def compare_lengths(args: DecodingArguments, constraint: SchemaConstraint) -> list[Comparison]:
    """Our processor behind prompts of 1,000 and 8,000 tokens beside none; and late in a text beside early."""
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


def compare_early_and_late(args: DecodingArguments, tokenizer: Any, logits: Tensor) -> Comparison:
    """The same number of tokens of one long free text, far behind its beginning and near it."""
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


def go_on(processor: Any, ids: Tensor, logits: Tensor, begin: int) -> None:
    """`replay` from `begin` on with a processor that has read what is before, and leave it where it was."""
    rows = processor.rows
    processor.rows = [copy.copy(row) for row in rows]
    for row in processor.rows:
        row.state, row.written = row.state.deep_copy(), bytearray(row.written)
    replay(processor, ids, logits, begin)
    processor.rows = rows


def measure_memory(args: DecodingArguments, constraint: SchemaConstraint) -> list[str]:
    """Resident size after a tenth of the texts and after all; goal: no more than 20 MB apart."""
    sizes, lines = [], []
    batches = max(2, args.samples // args.batch_size)
    for batch in range(batches):
        random_texts(constraint, args.batch_size, seed=batch)
        if batch + 1 in (max(1, batches // 10), batches):
            sizes.append(psutil.Process().memory_info().rss / 1e6)
            lines.append(f"- after {(batch + 1) * args.batch_size} texts: {sizes[-1]:.1f} MB resident")
    growth = sizes[1] - sizes[0]
    met = "met" if growth <= MOST_GROWTH_MB else "not met"
    return [*lines, f"- growth {growth:.1f} MB, goal ≤ {MOST_GROWTH_MB:.0f} MB: {met}"]


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a folder, an id or a .gguf file."""
    path = Path(name)
    if path.suffix == ".gguf":
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    return AutoTokenizer.from_pretrained(name)


def write(model: Any, end_token: int, ids: Tensor, mask: Tensor, processor: Any, steps: int, least: int = 0) -> Any:
    """Tokens int64 (rows, up to `steps`) behind a prompt `ids`, by the pipeline's sampling, with or without a
    processor; the end token is not written before `least`."""
    seeds, length = list(range(len(ids))), ids.shape[1]
    sampling = SeededSampling(seeds, **SAMPLING, prompt_length=length, max_tokens=steps, constraint=processor)
    settings = plain_generation(steps, end_token)
    settings.min_new_tokens = least
    processors = LogitsProcessorList([sampling] if processor is None else [processor, sampling])
    output = model.generate(ids, attention_mask=mask, generation_config=settings, logits_processor=processors)
    return output[:, length:]


def compare_with_model(args: DecodingArguments, model: Any, tokenizer: Any) -> list[Comparison]:
    """Seconds of a generated token, constrained beside unconstrained, for both schemas, one row and eight: in the
    first batch, with nothing at hand but the tokenizer, and with everything worked out."""
    prompt = tokenizer("Write a report.").input_ids
    result = []
    for name in ("GeneratedSamples", "Icd10Report"):
        schema = getattr(schemas, name).model_json_schema()
        for rows in (1, ROWS):
            ids = torch.tensor([prompt] * rows)
            warm = SchemaConstraint(tokenizer, schema)
            steps = run_once(args, model, warm, ids, args.model_steps)
            options: dict[str, Any] = {"repeats": args.repeats, "scale": (1 / steps, 1 / steps)}

            def cold(schema: Any = schema, ids: Tensor = ids, steps: int = steps) -> None:
                run_once(args, model, new_constraint(tokenizer, schema), ids, steps)

            def known(warm: Any = warm, ids: Tensor = ids, steps: int = steps) -> None:
                run_once(args, model, warm, ids, steps)

            def free(ids: Tensor = ids, steps: int = steps) -> None:
                write(model, tokenizer.eos_token_id, ids, torch.ones_like(ids), None, steps, least=steps)

            what = f"a token of {steps}, {name}, batch {rows}"
            for side, goal in ((("first batch", cold), 1.15), (("warm", known), 1.05)):
                result.append(compare(what, side, ("unconstrained", free), goal=("<=", goal), **options))
    return result


def run_once(args: DecodingArguments, model: Any, constraint: SchemaConstraint, ids: Tensor, steps: int) -> int:
    """Write under a constraint; the number of tokens, fewer than `steps` where all texts end sooner."""
    processor = constraint.processor(ids.shape[1], len(ids))
    return int(write(model, constraint.end_token, ids, torch.ones_like(ids), processor, steps).shape[1])


def new_constraint(tokenizer: Any, schema: Any) -> Any:
    """A constraint made as in a new process, its vocabulary too."""
    back_ends._known.pop(tokenizer, None)
    schema_logits.minority.cache_clear()
    return SchemaConstraint(tokenizer, schema)


def measure_yield(args: DecodingArguments, model: Any, tokenizer: Any) -> list[str]:
    """Valid texts a minute of severity-posts, in turn under the constraint and by plain prompting with retries.

    Both get the same prompts, which ask for JSON, the same sampling and the same most tokens. A plain answer counts
    where what lies from its first brace to its last is an object of the schema; each refused one is made up for by the
    next draw, so that valid texts over time is what retries without end would give.
    """
    task = load_task("severity-posts", None)
    constraint = SchemaConstraint(tokenizer, task.schema)
    sides = {"constrained": constraint, "plain": None}
    valid: dict[str, list[int]] = {side: [] for side in sides}
    minutes: dict[str, list[float]] = {side: [] for side in sides}
    progress = tqdm(range(args.repeats), desc="batches, valid texts so far")
    for repeat in progress:
        for side, constrained in sides.items():
            wall, cpu = timed(partial(write_posts, model, tokenizer, task, constrained, repeat, valid[side]))
            minutes[side].append((cpu if args.clock == "cpu" else wall) / 60)
        progress.set_postfix({side: sum(counts) for side, counts in valid.items()})
    rates = {side: [n / t for n, t in zip(valid[side], minutes[side], strict=True)] for side in sides}
    # where plain prompting gave none, a lower bound, as if its next draw were valid
    plain, least = max(1, sum(valid["plain"])) / sum(minutes["plain"]), "" if sum(valid["plain"]) else "more than "
    ratio = show([rate / plain for rate in rates["constrained"]], 1)
    return [
        *(
            f"- {side}: {show(found, 1)} valid texts a {args.clock} minute; {sum(valid[side])} of "
            f"{args.repeats * ROWS} drawn"
            for side, found in rates.items()
        ),
        f"- valid texts a minute, constrained over plain: {least}{ratio}",
    ]


def write_posts(
    model: Any, tokenizer: Any, task: Any, constraint: SchemaConstraint | None, seed: int, valid: list[int]
) -> None:
    """Write a batch of posts, and add to `valid` how many are."""
    labels = [list(task.labels)[row % len(task.labels)] for row in range(ROWS)]
    asked = [render_messages(task, label=label, k_shot=[], seed=seed * ROWS + n) for n, label in enumerate(labels)]
    ids, mask = pad_left([encode_messages(tokenizer, messages) for messages in asked], tokenizer.eos_token_id)
    processor = constraint and constraint.processor(ids.shape[1], ROWS, YIELD_TOKENS)
    output = write(model, tokenizer.eos_token_id, ids, mask, processor, YIELD_TOKENS)
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    objects = [text[text.find("{") : text.rfind("}") + 1] for text in texts]
    valid.append(sum(schemas.check_text(text, task.schema)[0] is not None for text in objects))


if __name__ == "__main__":
    run(DecodingArguments, main)
