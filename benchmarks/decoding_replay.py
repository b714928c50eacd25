"""What constrained decoding costs without a model: its parts, long prompts, long texts, many texts."""

import copy
import random
import time
from collections.abc import Callable
from typing import Any

import psutil

from benchmarks.timing import Comparison, compare

EARLY, LATE = 20, 2000
"""Tokens of a long text behind which those that are compared begin."""
MOST_GROWTH_MB = 20.0


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


def measure_parts(args: Any, tokenizer: Any, schema: dict[str, Any]) -> list[str]:
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


def compare_lengths(args: Any, constraint: Any) -> list[Comparison]:
    """Our processor behind prompts of 1,000 and 8,000 tokens beside none; and late in a text beside early."""
    import torch

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
    return [*result, compare_early_and_late(args, constraint.tokenizer, logits)]


def compare_early_and_late(args: Any, tokenizer: Any, logits: Any) -> Comparison:
    """The same number of tokens of one long free text, far behind its beginning and near it."""
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint

    text = {"type": "string", "minLength": 50_000, "maxLength": 60_000}
    constraint = SchemaConstraint(tokenizer, {"type": "object", "properties": {"text": text}})
    sides: list[tuple[str, Callable[[], None]]] = []
    ids = random_texts(constraint, args.batch_size, most=LATE + args.steps)
    for begin in (LATE, EARLY):
        processor = constraint.processor(1, args.batch_size)
        for step in range(begin):
            [row.next() for row in processor.rows]
            processor.take(ids[:, 1 + step].tolist())
        sides.append(
            (f"behind {begin} tokens", lambda p=processor, begin=begin: go_on(p, ids, begin, args.steps, logits))
        )
    return compare("text's length", sides[0], sides[1], repeats=args.repeats, goal=("<=", 1.1))


def go_on(processor: Any, ids: Any, begin: int, steps: int, logits: Any) -> None:
    """`steps` calls of a processor that has read `begin` tokens of each text, and leave it where it was."""
    rows = [copy.copy(row) for row in processor.rows]
    [row.next() for row in processor.rows]
    for step in range(begin + 1, begin + 1 + steps):
        processor(ids[:, : 1 + step], logits)
    processor.rows = rows


def measure_memory(args: Any, constraint: Any) -> list[str]:
    """Resident size, nodes and masks after a tenth of the texts and after all; goal: no more than 20 MB apart."""
    chooser, lines, sizes = random.Random(0), [], []
    tenth = max(1, args.samples // 10)
    for wanted in (tenth, args.samples - tenth):
        for _ in range(wanted):
            write_random(constraint.processor(1, 1).rows[0], constraint.pool, chooser)
        sizes.append(psutil.Process().memory_info().rss / 1e6)
        done = tenth if len(sizes) == 1 else args.samples
        counts = f"{len(constraint.graph.nodes)} nodes, {constraint.pool.used} masks"
        lines.append(f"- after {done} texts: {sizes[-1]:.1f} MB resident, {counts}")
    growth = sizes[1] - sizes[0]
    met = "met" if growth <= MOST_GROWTH_MB else "not met"
    return [*lines, f"- growth {growth:.1f} MB, goal ≤ {MOST_GROWTH_MB:.0f} MB: {met}"]


def write_random(row: Any, pool: Any, chooser: random.Random) -> None:
    """A whole text of tokens drawn evenly from those allowed."""
    more = True
    while more:
        token, number = row.next()
        blocked = pool.blocked[number].numpy()
        if token < 0:
            candidates = (chooser.randrange(len(blocked)) for _ in range(40))
            token = next((token for token in candidates if not blocked[token]), -1)
        if token < 0:  # so few are allowed that none was met
            token = chooser.choice((~blocked).nonzero()[0].tolist())
        more = row.take(token)
