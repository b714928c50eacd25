"""What constrained decoding costs without a model, beside xgrammar's processor and lm-format-enforcer's own way.

Random valid texts are replayed: what is timed is a `LogitsProcessor`'s call, that is the state's step and the masking
of logits (batch, V) in place. lm-format-enforcer's own glue does not import with transformers 5: its steps are written
out here, and timed for a few tokens, as they take milliseconds each.
"""

import json
from collections.abc import Callable
from typing import Any

from benchmarks.decoding_replay import random_texts, replay
from benchmarks.timing import Comparison, compare

STOCK_STEPS = 6
STOCK_ROWS = 8


def compare_peers(args: Any, constraint: Any, schema: dict[str, Any]) -> list[Comparison]:
    """Our processor beside xgrammar's and beside lm-format-enforcer's own way, for the same texts."""
    import torch
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

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
