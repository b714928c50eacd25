"""What constrained decoding costs and brings with a model: seconds a token, and valid texts a minute."""

import statistics
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.timing import Comparison, compare, show

ROWS = 8
YIELD_TOKENS = 160
"""Tokens a text may take in the section `yield`: more than 400 characters of English need."""
SAMPLING = {"temperature": 1.0, "top_p": 0.95}


def load(name: str, model: bool) -> Any:
    """The tokenizer, or the causal language model, of a folder, an id or a .gguf file."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = Path(name)
    source = str(path.parent) if path.suffix == ".gguf" else name
    options = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    return (AutoModelForCausalLM if model else AutoTokenizer).from_pretrained(source, **options)


def write(model: Any, end_token: int, ids: Any, mask: Any, processor: Any, steps: int, least: int = 0) -> Any:
    """Tokens int64 (rows, up to `steps`) behind a prompt `ids`, by the pipeline's sampling, with or without a
    processor; the end token is not written before `least`."""
    from transformers import LogitsProcessorList

    from clinsynth.pipelines.structured_medical_text.text_rows import SeededSampling, plain_generation

    seeds, length = list(range(len(ids))), ids.shape[1]
    sampling = SeededSampling(seeds, **SAMPLING, prompt_length=length, max_tokens=steps, constraint=processor)
    settings = plain_generation(steps, end_token)
    settings.min_new_tokens = least
    processors = LogitsProcessorList([sampling] if processor is None else [processor, sampling])
    output = model.generate(ids, attention_mask=mask, generation_config=settings, logits_processor=processors)
    return output[:, length:]


def compare_with_model(args: Any, model: Any, tokenizer: Any) -> list[Comparison]:
    """Seconds of a generated token, constrained beside unconstrained, for both schemas, one row and eight: in the
    first batch, with nothing at hand but the tokenizer, and with everything worked out."""
    import torch

    from clinsynth.pipelines.structured_medical_text import SchemaConstraint, schemas

    prompt = tokenizer("Write a report.").input_ids
    result = []
    for name in ("GeneratedSamples", "Icd10Report"):
        schema = getattr(schemas, name).model_json_schema()
        for rows in (1, ROWS):
            ids = torch.tensor([prompt] * rows)
            warm = SchemaConstraint(tokenizer, schema)
            steps = run_once(args, model, warm, ids, args.model_steps)
            options: dict[str, Any] = {"repeats": args.repeats, "scale": (1 / steps, 1 / steps)}

            def cold(schema: Any = schema, ids: Any = ids, steps: int = steps) -> None:
                run_once(args, model, new_constraint(tokenizer, schema), ids, steps)

            def known(warm: Any = warm, ids: Any = ids, steps: int = steps) -> None:
                run_once(args, model, warm, ids, steps)

            def free(ids: Any = ids, steps: int = steps) -> None:
                write(model, tokenizer.eos_token_id, ids, torch.ones_like(ids), None, steps, least=steps)

            what = f"a token of {steps}, {name}, batch {rows}"
            for side, goal in ((("first batch", cold), 1.15), (("warm", known), 1.05)):
                result.append(compare(what, side, ("unconstrained", free), goal=("<=", goal), **options))
    return result


def run_once(args: Any, model: Any, constraint: Any, ids: Any, steps: int) -> int:
    """Write under a constraint; the number of tokens, fewer than `steps` where all texts end sooner."""
    import torch

    processor = constraint.processor(ids.shape[1], len(ids))
    return int(write(model, constraint.end_token, ids, torch.ones_like(ids), processor, steps).shape[1])


def new_constraint(tokenizer: Any, schema: Any) -> Any:
    """A constraint made as in a new process, its vocabulary too."""
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint, schema_logits, vocabulary

    vocabulary._known.pop(tokenizer, None)
    schema_logits.minority.cache_clear()
    return SchemaConstraint(tokenizer, schema)


def measure_yield(args: Any, model: Any, tokenizer: Any) -> list[str]:
    """Valid texts a minute of severity-posts, in turn under the constraint and by plain prompting with retries.

    Both get the same prompts, which ask for JSON, the same sampling and the same most tokens. A plain answer counts
    where what lies from its first brace to its last is an object of the schema; each refused one is made up for by the
    next draw, so that valid texts over time is what retries without end would give.
    """
    from clinsynth.data.tasks import load_task
    from clinsynth.pipelines.structured_medical_text import SchemaConstraint

    task = load_task("severity-posts", None)
    constraint = SchemaConstraint(tokenizer, task.schema)
    sides = {"constrained": constraint, "plain": None}
    valid: dict[str, list[int]] = {side: [] for side in sides}
    minutes: dict[str, list[float]] = {side: [] for side in sides}
    progress = tqdm(range(args.repeats), desc="batches, valid texts so far")
    for repeat in progress:
        for side, constrained in sides.items():
            start = time.process_time() if args.clock == "cpu" else time.perf_counter()
            valid[side].append(write_posts(model, tokenizer, task, constrained, repeat))
            end = time.process_time() if args.clock == "cpu" else time.perf_counter()
            minutes[side].append((end - start) / 60)
        progress.set_postfix({side: sum(counts) for side, counts in valid.items()})
    drawn = args.repeats * ROWS
    lines = []
    for side in sides:
        rates = [count / time_taken for count, time_taken in zip(valid[side], minutes[side], strict=True)]
        share = f"{sum(valid[side])} of {drawn} drawn"
        lines.append(f"- {side}: {show(rates, 1)} valid texts a {args.clock} minute; {share}")
    return [*lines, describe_ratio(valid, minutes)]


def describe_ratio(valid: dict[str, list[int]], minutes: dict[str, list[float]]) -> str:
    """How many times as many valid texts a minute there are under the constraint; where plain prompting gave none, a
    lower bound, as if its next draw were valid."""
    rates = [count / taken for count, taken in zip(valid["constrained"], minutes["constrained"], strict=True)]
    plain = max(1, sum(valid["plain"])) / sum(minutes["plain"])
    ratios = [rate / plain for rate in rates]
    least = "" if sum(valid["plain"]) else "more than "
    return (
        f"- valid texts a minute, constrained over plain: {least}{statistics.median(ratios):.1f} "
        f"({min(ratios):.1f} to {max(ratios):.1f})"
    )


def write_posts(model: Any, tokenizer: Any, task: Any, constraint: Any, seed: int) -> int:
    """How many of a batch of posts are valid."""
    from clinsynth.pipelines.structured_medical_text.prompts import encode_messages, pad_left, render_messages
    from clinsynth.pipelines.structured_medical_text.schemas import check_text

    labels = [list(task.labels)[row % len(task.labels)] for row in range(ROWS)]
    asked = [render_messages(task, label=label, k_shot=[], seed=seed * ROWS + n) for n, label in enumerate(labels)]
    ids, mask = pad_left([encode_messages(tokenizer, messages) for messages in asked], tokenizer.eos_token_id)
    processor = constraint and constraint.processor(ids.shape[1], ROWS, YIELD_TOKENS)
    output = write(model, tokenizer.eos_token_id, ids, mask, processor, YIELD_TOKENS)
    texts = tokenizer.batch_decode(output, skip_special_tokens=True)
    objects = [text[text.find("{") : text.rfind("}") + 1] for text in texts]
    return sum(check_text(text, task.schema)[0] is not None for text in objects)
